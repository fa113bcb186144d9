"""What to run: cases as values, from model files, presets and suites."""

from mmvq_cli.suite.case import ROLES, Axes, Case, Suite, WeightSource, expand
from mmvq_cli.suite.files import known_suites, load_suite
from mmvq_cli.suite.parse import parse_axes, parse_counts, parse_dtypes, parse_roles
from mmvq_cli.suite.sources import model_suite, preset_suite

__all__ = [
    "ROLES",
    "Axes",
    "Case",
    "Suite",
    "WeightSource",
    "expand",
    "known_suites",
    "load_suite",
    "model_suite",
    "parse_axes",
    "parse_counts",
    "parse_dtypes",
    "parse_roles",
    "preset_suite",
]
