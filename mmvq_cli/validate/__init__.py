"""Validation: checks by layer (structure, moe, blocks), comparisons, manifests; findings as a report."""

from __future__ import annotations

from mmvq_cli.validate.checks import CHECKS, LAYERS, Check
from mmvq_cli.validate.findings import Finding, Place, Report, Severity
from mmvq_cli.validate.output import OUTPUTS, headline, render
from mmvq_cli.validate.selection import choose, find_check
from mmvq_cli.validate.validation import Request, validate

__all__ = [
    "CHECKS",
    "LAYERS",
    "OUTPUTS",
    "Check",
    "Finding",
    "Place",
    "Report",
    "Request",
    "Severity",
    "choose",
    "find_check",
    "headline",
    "render",
    "validate",
]
