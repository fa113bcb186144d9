"""Tables for people at a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from mmvq_cli.record import Record, Status
from mmvq_cli.report.coverage import COVERAGE_FROM, coverage_table
from mmvq_cli.report.layout import Block, Layout, lay_out

TABLE_WIDTH = 100
_MOST_FAILURES = 50  # shown in full below a summary; the records hold all


def terminal_table(records: Sequence[Record], width: int = TABLE_WIDTH) -> RenderableType:
    """Arrange records for `Console.print`, at most `width` characters wide.

    Hundreds of untimed records become one line per format, and a table of those that did not pass.
    """
    if not records:
        return Text("no records")
    if len(records) > COVERAGE_FROM and all(record.timing is None for record in records):
        return _summary(records, width)
    return _rows(records, width)


def _summary(records: Sequence[Record], width: int) -> RenderableType:
    failed = [record for record in records if record.status is not Status.PASSED]
    parts: list[RenderableType] = [coverage_table(records)]
    if failed:
        parts += [Text(), _rows(failed[:_MOST_FAILURES], width)]
    if len(failed) > _MOST_FAILURES:
        parts.append(Text(f"and {len(failed) - _MOST_FAILURES} more that did not pass", style="yellow"))
    return Group(*parts)


def _rows(records: Sequence[Record], width: int) -> RenderableType:
    layout = lay_out(records, width)
    parts: list[RenderableType] = [Text(layout.title, style="dim")]
    for number, block in enumerate(layout.blocks):
        parts += [Text(), Text(block.title, style="bold")] if block.title else []
        parts.append(_table(layout, block, show_header=number == 0))
    return Group(*parts, *(Text(note, style="yellow") for note in layout.notes))


def _table(layout: Layout, block: Block, show_header: bool) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=0, header_style="bold", show_header=show_header)
    for column, width in zip(layout.columns, layout.widths, strict=True):
        table.add_column(Text(column.header), justify="left" if column.left else "right", width=width, no_wrap=True)
    for row in block.rows:
        cells = zip(layout.columns, row, strict=True)
        table.add_row(*(_verdict(cell) if column.header == "correct" else Text(cell) for column, cell in cells))
    return table


def _verdict(cell: str) -> Text:
    return Text(cell, style="green" if cell.startswith("ok") else "bold red")
