"""Many untimed cases in few lines: how many of each format were right, and how close the worst came to its bound."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from rich import box
from rich.table import Table
from rich.text import Text

from mmvq_cli.record import Record, Status

# More untimed records than this are summed up.
COVERAGE_FROM = 200
# NMSE of fewer rows says how much a few sums cancelled, not how exact the kernel is.
_NMSE_ROWS = 16


@dataclass(frozen=True, slots=True)
class FormatCoverage:
    """The cases of one format: counts, worst share of the error bound (percent) and worst NMSE by dtype.

    The worst values are of PASSED cases, NMSE of those with at least 16 rows; None where there is none.
    """

    format: str
    dtypes: tuple[str, ...]
    cases: int
    passed: int
    wrong: int
    not_run: int
    worst_bound_used_pct: float | None
    worst_nmse: dict[str, float]


def coverage(records: Iterable[Record]) -> tuple[FormatCoverage, ...]:
    """Sum up records by format, in the order of first appearance."""
    groups: dict[str, list[Record]] = {}
    for record in records:
        groups.setdefault(record.axes.ggml_type, []).append(record)
    return tuple(_coverage_of(name, group) for name, group in groups.items())


def _coverage_of(name: str, records: Sequence[Record]) -> FormatCoverage:
    passed = [record for record in records if record.status is Status.PASSED]
    wrong = sum(record.status is Status.WRONG_RESULT for record in records)
    used = [r.correctness.bound_used_pct for r in passed if r.correctness.bound_used_pct is not None]
    nmse: dict[str, float] = {}
    for record in passed:
        if record.correctness.nmse is not None and record.axes.rows_m >= _NMSE_ROWS:
            dtype = str(record.axes.dtype)
            nmse[dtype] = max(nmse.get(dtype, 0.0), record.correctness.nmse)
    return FormatCoverage(
        format=name,
        dtypes=tuple(dict.fromkeys(str(record.axes.dtype) for record in records)),
        cases=len(records),
        passed=len(passed),
        wrong=wrong,
        not_run=len(records) - len(passed) - wrong,
        worst_bound_used_pct=max(used, default=None),
        worst_nmse=nmse,
    )


def coverage_table(records: Sequence[Record]) -> Table:
    """Arrange `coverage(records)` for `Console.print`, one NMSE column per dtype."""
    rows = coverage(records)
    dtypes = tuple(dict.fromkeys(dtype for row in rows for dtype in row.dtypes))
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    table.add_column("format")
    for header in ("cases", "ok", "wrong", "not run", "worst bound %", *(f"worst NMSE {dtype}" for dtype in dtypes)):
        table.add_column(header, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(
            row.format,
            str(row.cases),
            str(row.passed),
            Text(str(row.wrong), style="bold red" if row.wrong else ""),
            str(row.not_run),
            _or_dash(row.worst_bound_used_pct, "{:.3g}".format),
            *(_or_dash(row.worst_nmse.get(dtype), "{:.1e}".format) for dtype in dtypes),
        )
    return table


def _or_dash(value: float | None, show: Callable[[float], str]) -> str:
    return "—" if value is None else show(value)
