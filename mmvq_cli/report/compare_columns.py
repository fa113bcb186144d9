"""The one list of columns of a comparison, and its words."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from mmvq_cli.compare import Comparison, Decision, RowResult, Verdict
from mmvq_cli.report.columns import number


class View(IntEnum):
    """How much a table shows; each view has what the one before it has."""

    SIMPLE = 0
    INTERVALS = 1
    EXPLAIN = 2


CHANGED = (Verdict.WRONG, Verdict.REGRESSED, Verdict.INVALID, Verdict.MISSING, Verdict.IMPROVED, Verdict.NEW)
# Worst first, as the exit codes are.
ORDER = (
    Verdict.WRONG,
    Verdict.INVALID,
    Verdict.MISSING,
    Verdict.REGRESSED,
    Verdict.INCONCLUSIVE,
    Verdict.IMPROVED,
    Verdict.NEW,
    Verdict.SAME,
)


def percent(ratio: float) -> str:
    """Write a ratio of times as a signed change: +6.1 %."""
    return f"{100 * (ratio - 1):+.1f} %"


def _interval(row: RowResult) -> str | None:
    if row.low is None or row.high is None:
        return None
    return f"[{100 * (row.low - 1):+.1f}, {100 * (row.high - 1):+.1f}]"


@dataclass(frozen=True, slots=True)
class RowColumn:
    """One fact of a row: header, the first view that has it, its value, and the cell that a value makes."""

    header: str
    view: View
    value: Callable[[RowResult], Any]
    show: Callable[[Any], str] = str
    left: bool = False

    def text(self, row: RowResult) -> str:
        """The cell; a dash where there is nothing."""
        value = self.value(row)
        return "—" if value is None or value == "" else self.show(value)


ROW_COLUMNS = (
    RowColumn("case", View.SIMPLE, lambda r: r.case_id, left=True),
    RowColumn("base µs", View.SIMPLE, lambda r: r.base_ns, lambda t: number(t / 1e3)),
    RowColumn("head µs", View.SIMPLE, lambda r: r.head_ns, lambda t: number(t / 1e3)),
    RowColumn("change", View.SIMPLE, lambda r: r.ratio, percent),
    RowColumn("interval %", View.INTERVALS, _interval),
    RowColumn("can detect", View.INTERVALS, lambda r: r.detectable, lambda x: f"≥{100 * x:.1f} %"),
    RowColumn("tau", View.EXPLAIN, lambda r: r.tau, lambda x: f"{100 * x:g} %"),
    RowColumn("verdict", View.SIMPLE, lambda r: r.verdict, left=True),
    RowColumn("reason", View.EXPLAIN, lambda r: r.reason, left=True),
    RowColumn("detail", View.EXPLAIN, lambda r: r.detail, left=True),
)


def columns_of(rows: Sequence[RowResult], view: View) -> list[RowColumn]:
    """The columns of a view that say anything; a static comparison has no times, and its details are the point."""
    untimed = all(row.base_ns is None and row.head_ns is None for row in rows)
    return [
        column
        for column in ROW_COLUMNS
        if (column.view <= view or (untimed and column.header == "detail"))
        and (column.left or any(column.value(row) is not None for row in rows))
    ]


def shown_rows(comparison: Comparison, only_changed: bool) -> list[RowResult]:
    """The rows of a table: all, or those that are not simply the same or unknown."""
    return [row for row in comparison.rows if not only_changed or row.verdict in CHANGED]


def describe_suite(suite: Decision) -> str:
    """Write the geometric mean with its interval and verdict."""
    low, high = 100 * (suite.low - 1), 100 * (suite.high - 1)
    return f"geomean {percent(suite.ratio)} [{low:+.1f}, {high:+.1f}] {suite.verdict}"


def summary(comparison: Comparison) -> str:
    """The last line: counts of verdicts, worst first, the geometric mean, and what could have been seen."""
    counts = comparison.counts
    parts = [f"{counts[verdict]} {verdict.lower()}" for verdict in ORDER if counts[verdict]] or ["no rows"]
    if comparison.suite:
        parts.append(describe_suite(comparison.suite))
    if comparison.detectable is not None and math.isfinite(comparison.detectable):
        parts.append(f"{comparison.method}: half of the rows can detect ≥{100 * comparison.detectable:.1f} %")
    return " · ".join(parts)


def loud_notes(comparison: Comparison) -> list[str]:
    """What must not be overlooked: rows that one side lacks, by name, then the comparison's own notes."""
    notes = []
    for verdict, text in (
        (Verdict.MISSING, "missing in the head"),
        (Verdict.NEW, "not in the base"),
    ):
        ids = [row.case_id for row in comparison.rows if row.verdict is verdict]
        if ids:
            shown = ", ".join(ids[:3]) + (f" and {len(ids) - 3} more" if len(ids) > 3 else "")
            notes.append(f"{text}: {len(ids)} rows: {shown}")
    return [*notes, *comparison.notes]
