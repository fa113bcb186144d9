"""Correctness: the exact answer, the error bound, poison and guards, determinism."""

from mmvq_cli.check.checker import Check, Checker
from mmvq_cli.check.verdict import Verdict, judge

__all__ = ["Check", "Checker", "Verdict", "judge"]
