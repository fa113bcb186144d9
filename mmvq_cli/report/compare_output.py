"""Comparisons as text: for people, for programs, for CI."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, fields
from typing import Any

from rich import box
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from mmvq_cli.compare import Comparison, RowResult, Verdict
from mmvq_cli.errors import UsageError
from mmvq_cli.report.compare_ci import github_annotations, junit
from mmvq_cli.report.compare_columns import View, columns_of, loud_notes, shown_rows, summary
from mmvq_cli.report.terminal import TABLE_WIDTH

_STYLES = {
    Verdict.WRONG: "bold red",
    Verdict.REGRESSED: "bold red",
    Verdict.INVALID: "yellow",
    Verdict.MISSING: "yellow",
    Verdict.INCONCLUSIVE: "yellow",
    Verdict.IMPROVED: "green",
    Verdict.NEW: "cyan",
    Verdict.SAME: "",
}


def comparison_table(comparison: Comparison, view: View = View.SIMPLE, only_changed: bool = False) -> RenderableType:
    """Arrange a comparison for `Console.print`: title, rows, notes, summary."""
    rows = shown_rows(comparison, only_changed)
    parts: list[RenderableType] = [Text(_title(comparison), style="bold")]
    if rows:
        parts.append(_rich_table(rows, view))
    elif comparison.rows:
        parts.append(Text("no row changed"))
    parts += [Text(f"note: {note}", style="yellow") for note in loud_notes(comparison)]
    return Group(*parts, Text(summary(comparison)))


def comparison_markdown(comparison: Comparison, view: View = View.SIMPLE, only_changed: bool = False) -> str:
    """Write the same as Markdown."""
    rows = shown_rows(comparison, only_changed)
    columns = columns_of(rows, view)
    lines = [f"**{_title(comparison)}**", "", summary(comparison), ""]
    if rows:
        lines += [
            _md_row([column.header for column in columns]),
            _md_row([":--" if column.left else "--:" for column in columns]),
            *(_md_row([column.text(row) for column in columns]) for row in rows),
            "",
        ]
    return "\n".join([*lines, *(f"- {note}" for note in loud_notes(comparison))]).rstrip() + "\n"


def comparison_dict(comparison: Comparison) -> dict[str, Any]:
    """All of a comparison for JSON; ratios and shares are plain numbers, times ns."""
    return {
        **asdict(comparison),
        "counts": {str(verdict): n for verdict, n in comparison.counts.items()},
        "detectable": comparison.detectable,
    }


def _table(comparisons: Sequence[Comparison], view: View, only_changed: bool) -> str:
    console = Console(file=io.StringIO(), width=TABLE_WIDTH if view < View.EXPLAIN else 160, color_system=None)
    with console.capture() as capture:
        for comparison in comparisons:
            console.print(comparison_table(comparison, view, only_changed), highlight=False)
    return "".join(line.rstrip() + "\n" for line in capture.get().splitlines())


def _markdown(comparisons: Sequence[Comparison], view: View, only_changed: bool) -> str:
    return "\n".join(comparison_markdown(comparison, view, only_changed) for comparison in comparisons)


def _json(comparisons: Sequence[Comparison], view: View, only_changed: bool) -> str:
    return json.dumps({"comparisons": [comparison_dict(c) for c in comparisons]}, indent=1, ensure_ascii=False) + "\n"


def _csv(comparisons: Sequence[Comparison], view: View, only_changed: bool) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    names = [field.name for field in fields(RowResult)]
    writer.writerow(["base", "head", *names])
    for comparison in comparisons:
        for row in shown_rows(comparison, only_changed):
            writer.writerow([comparison.base, comparison.head, *(getattr(row, name) for name in names)])
    return text.getvalue()


_WRITERS: dict[str, Callable[[Sequence[Comparison], View, bool], str]] = {
    "table": _table,
    "md": _markdown,
    "json": _json,
    "csv": _csv,
    "junit": lambda comparisons, view, only_changed: junit(comparisons),
    "github": lambda comparisons, view, only_changed: github_annotations(comparisons),
}

COMPARE_FORMATS = tuple(_WRITERS)


def render_comparisons(
    comparisons: Sequence[Comparison], output_format: str, view: View = View.SIMPLE, only_changed: bool = False
) -> str:
    """Write comparisons as `table`, `md`, `json`, `csv`, `junit` or `github`.

    Raises `UsageError` for another format.
    """
    if output_format not in _WRITERS:
        raise UsageError(f"-o {output_format!r} is not an output format", f"use one of {', '.join(COMPARE_FORMATS)}")
    return _WRITERS[output_format](comparisons, view, only_changed)


def _title(comparison: Comparison) -> str:
    return f"{comparison.head} against {comparison.base}"


def _rich_table(rows: Sequence[RowResult], view: View) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    columns = columns_of(rows, view)
    for column in columns:
        wraps = column.header in ("case", "detail")
        table.add_column(
            column.header,
            justify="left" if column.left else "right",
            no_wrap=not wraps,
            overflow="fold" if wraps else "ellipsis",
        )
    for row in rows:
        table.add_row(
            *(Text(c.text(row), style=_STYLES[row.verdict] if c.header == "verdict" else "") for c in columns)
        )
    return table


def _md_row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"
