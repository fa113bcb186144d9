"""Records against records: statistics, the decision rule, baselines, and the gate of a build."""

from mmvq_cli.compare.baseline import BaselineStore, default_store, project_baselines, user_baselines
from mmvq_cli.compare.comparison import Comparison, RowResult, compare
from mmvq_cli.compare.config import PRESETS, FailOn, GateConfig, Growth, load_config, share
from mmvq_cli.compare.floor import AaRun, aa_file, aa_run, append_aa, noise_floor, read_aa
from mmvq_cli.compare.gate import GateResult, exit_code, gate_baseline
from mmvq_cli.compare.matching import canary_log_ratio
from mmvq_cli.compare.paired import Block, compare_paired, confirm_comparison, regressed, too_wide
from mmvq_cli.compare.rule import TAU, Decision, Reason, Thresholds, Verdict, detectable_in
from mmvq_cli.compare.selftest import Trial, self_test
from mmvq_cli.compare.sources import Source, latest_run, open_source
from mmvq_cli.compare.static import Compiled, compare_static, read_compiled

__all__ = [
    "PRESETS",
    "TAU",
    "AaRun",
    "BaselineStore",
    "Block",
    "Comparison",
    "Compiled",
    "Decision",
    "FailOn",
    "GateConfig",
    "GateResult",
    "Growth",
    "Reason",
    "RowResult",
    "Source",
    "Thresholds",
    "Trial",
    "Verdict",
    "aa_file",
    "aa_run",
    "append_aa",
    "canary_log_ratio",
    "compare",
    "compare_paired",
    "compare_static",
    "confirm_comparison",
    "default_store",
    "detectable_in",
    "exit_code",
    "gate_baseline",
    "latest_run",
    "load_config",
    "noise_floor",
    "open_source",
    "project_baselines",
    "read_aa",
    "read_compiled",
    "regressed",
    "self_test",
    "share",
    "too_wide",
    "user_baselines",
]
