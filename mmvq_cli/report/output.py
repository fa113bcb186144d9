"""Records as text in every output format, and as files."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from mmvq_cli.errors import UsageError
from mmvq_cli.record import Record, write_whole
from mmvq_cli.record.export import github_action_json, llama_sql, nvbench_json
from mmvq_cli.report.columns import COLUMNS
from mmvq_cli.report.layout import Layout, lay_out
from mmvq_cli.report.terminal import TABLE_WIDTH, terminal_table

if TYPE_CHECKING:
    from pandas import DataFrame


def frame(records: Sequence[Record]) -> DataFrame:
    """Make a pandas frame of every named column, one row per record: unrounded values, None where there is none."""
    import pandas as pd

    named = [column for column in COLUMNS if column.name]
    # dtype object: integers beside None stay integers.
    return pd.DataFrame({c.name: pd.Series([c.value(r) for r in records], dtype=object) for c in named})


def _table(records: Sequence[Record]) -> str:
    console = Console(file=io.StringIO(), width=TABLE_WIDTH, color_system=None)
    with console.capture() as capture:
        console.print(terminal_table(records))
    return "".join(line.rstrip() + "\n" for line in capture.get().splitlines())


def _markdown(records: Sequence[Record]) -> str:
    return _markdown_of(lay_out(records)) if records else "no records\n"


def _markdown_of(layout: Layout) -> str:
    parts = [layout.title]
    for block in layout.blocks:
        parts += [f"**{block.title}**"] if block.title else []
        rules = [":--" if column.left else "--:" for column in layout.columns]
        lines = [[column.header for column in layout.columns], rules, *block.rows]
        parts.append("\n".join(map(_markdown_row, lines)))
    parts += ["\n".join(f"- {note}" for note in layout.notes)] if layout.notes else []
    return "\n\n".join(parts) + "\n"


def _markdown_row(cells: Sequence[str]) -> str:
    escaped = (cell.replace("|", r"\|") for cell in cells)
    return f"| {' | '.join(escaped)} |"


def _json(records: Sequence[Record]) -> str:
    return "[" + ",\n ".join(record.to_json() for record in records) + "]\n"


def _jsonl(records: Sequence[Record]) -> str:
    return "".join(record.to_json() + "\n" for record in records)


def _csv(records: Sequence[Record]) -> str:
    text: str = frame(records).to_csv(index=False, lineterminator="\n")
    return text


_WRITERS: dict[str, Callable[[Sequence[Record]], str]] = {
    "table": _table,
    "md": _markdown,
    "json": _json,
    "jsonl": _jsonl,
    "csv": _csv,
    "nvbench": nvbench_json,
    "llama-sql": llama_sql,
    "github-action": github_action_json,
}

OUTPUT_FORMATS = tuple(_WRITERS)


def render(records: Sequence[Record], output_format: str) -> str:
    """Write records as text: `table` and `md` rounded for people, `json`, `jsonl` and `csv` in full precision.

    `nvbench`, `llama-sql` and `github-action` are the formats of those tools.

    Raises `UsageError` for another format.
    """
    return _WRITERS[_known(output_format)](records)


def parse_export(text: str) -> tuple[str, Path]:
    """Split `FMT:PATH`, so that a mistake shows before a run and not after it.

    Raises `UsageError` for an unknown format or a missing path.
    """
    output_format, _, path = text.partition(":")
    if not path:
        raise UsageError(f"export {text!r} has no path, it must be FMT:PATH", "for example --export csv:results.csv")
    return _known(output_format), Path(path)


def export(records: Sequence[Record], target: str) -> Path:
    """Write records to the file that `FMT:PATH` names, whole or not at all, and return its path.

    Raises `UsageError` as `parse_export` does, `OpenError` when the file cannot be written.
    """
    output_format, path = parse_export(target)
    write_whole(path, render(records, output_format))
    return path


def _known(output_format: str) -> str:
    if output_format not in _WRITERS:
        raise UsageError(f"output format {output_format!r} does not exist", f"choose from {', '.join(OUTPUT_FORMATS)}")
    return output_format
