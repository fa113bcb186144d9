"""The last line of a run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from mmvq_cli.record import Record, Status

# What a status counts as.
_KINDS = {
    Status.PASSED: "passed",
    Status.WRONG_RESULT: "wrong",
    Status.BUILD_ERROR: "broken",
    Status.LAUNCH_ERROR: "broken",
    Status.TIMEOUT: "broken",
    Status.OUT_OF_MEMORY: "skipped",
    Status.SKIPPED: "skipped",
    Status.UNSUPPORTED: "skipped",
}


def summary_line(records: Iterable[Record], path: Path | None = None) -> str:
    """Count what passed, was wrong, was skipped (did not fit or has no kernel) or broke, and name the records' file."""
    counts = Counter(_KINDS[record.status] for record in records)
    parts = [f"{counts[kind]} {kind}" for kind in ("passed", "wrong", "skipped")]
    parts += [f"{counts['broken']} broken"] if counts["broken"] else []
    parts += [f"records: {path}"] if path else []
    return " · ".join(parts)
