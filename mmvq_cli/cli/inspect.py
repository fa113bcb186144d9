"""`mmvq inspect`: what a model file holds, from its headers alone."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import Annotated, assert_never

import typer

from mmvq_cli.model import Summary, open_model, summarize
from mmvq_cli.model.summary import ExpertRow, OutsideRow

_MIB = 2**20
_EXPERT_COLUMNS = ("layers", "role", "format", "experts x rows x cols", "MiB/layer", "MiB", "bits/weight", "kernel")
_OUTSIDE_COLUMNS = ("layers", "kind", "tensor", "format", "shape (ne)", "KiB")
_NUMERIC = {"MiB/layer", "MiB", "bits/weight", "KiB"}
_UNAPPLIED = {"expert bias": "expert biases", "expert scale": "expert scales"}
_WIDTH = 100


class InspectOutput(StrEnum):
    """How `mmvq inspect` prints."""

    TABLE = "table"
    JSON = "json"
    MD = "md"


def inspect(
    model: Annotated[Path, typer.Argument(help="A .gguf file, or any file of a split set.", show_default=False)],
    output: Annotated[
        InspectOutput, typer.Option("-o", "--output", help="Print a table, JSON (sizes in bytes) or Markdown.")
    ] = InspectOutput.TABLE,
) -> None:
    """Show what a model holds: architecture, expert tensors, router, biases and scales, which tensors have kernels.

    [bold]Examples[/bold]

    mmvq inspect model.gguf

    mmvq inspect model-00001-of-00004.gguf -o json

    Only headers are read, so the size of the file does not matter.
    """
    summary = summarize(open_model(model))
    match output:
        case InspectOutput.TABLE:
            _print_table(summary)
        case InspectOutput.JSON:
            typer.echo(json.dumps(asdict(summary), indent=2))
        case InspectOutput.MD:
            typer.echo(_markdown(summary))
        case _:
            assert_never(output)


def _headline(summary: Summary) -> list[str]:
    files = summary.files[0] + (f" and {len(summary.files) - 1} more" if len(summary.files) > 1 else "")
    experts = (
        f"{summary.n_expert_layers} with experts, {summary.n_experts} experts, top-k {summary.top_k}"
        if summary.experts
        else "no expert tensors"
    )
    return [
        files,
        f"{summary.architecture}: {summary.n_layers} layers, {experts}",
        f"{_size(summary.file_size_bytes)} in all, {_size(summary.expert_bytes)} of it expert weights",
    ]


def _notes(summary: Summary) -> list[str]:
    reasons = dict.fromkeys(row.unsupported for row in summary.experts if row.unsupported)
    unapplied = dict.fromkeys(_UNAPPLIED[row.kind] for row in summary.outside if row.kind in _UNAPPLIED)
    return [
        *(f"UNSUPPORTED: {reason}" for reason in reasons),
        *(f"note: {names} lie outside the blocks: bench does not apply them" for names in unapplied),
        *(f"warning: {warning}" for warning in summary.warnings),
    ]


def _expert_cells(row: ExpertRow) -> tuple[str, ...]:
    return (
        f"blk.{row.layers}",
        row.role,
        row.format,
        f"{row.n_experts} x {row.rows} x {row.cols}",
        f"{row.layer_bytes / _MIB:.3f}",
        f"{row.total_bytes / _MIB:.3f}",
        f"{row.bits_per_weight:.2f}",
        "UNSUPPORTED" if row.unsupported else "yes",
    )


def _outside_cells(row: OutsideRow) -> tuple[str, ...]:
    shape = " x ".join(map(str, row.shape))
    return f"blk.{row.layers}", row.kind, row.name, row.format, shape, f"{row.total_bytes / 1024:.2f}"


def _tables(summary: Summary) -> Iterable[tuple[str, Sequence[str], list[tuple[str, ...]]]]:
    """Yield (title, columns, rows of cells) of the tables that have rows."""
    if summary.experts:
        yield "Expert tensors", _EXPERT_COLUMNS, [_expert_cells(row) for row in summary.experts]
    if summary.outside:
        yield "Outside the expert blocks", _OUTSIDE_COLUMNS, [_outside_cells(row) for row in summary.outside]


def _print_table(summary: Summary) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False)
    console.width = min(console.width, _WIDTH) if console.is_terminal else _WIDTH
    for line in _headline(summary):
        console.print(Text(line))
    for title, columns, rows in _tables(summary):
        table = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left", pad_edge=False)
        for column in columns:
            table.add_column(column, justify="right" if column in _NUMERIC else "left", overflow="fold")
        for cells in rows:
            table.add_row(*map(Text, cells))
        console.print()
        console.print(table)
    for note in _notes(summary):
        console.print(Text(note))


def _markdown(summary: Summary) -> str:
    lines = [f"- {line}" for line in _headline(summary)]
    for title, columns, rows in _tables(summary):
        rule = ["---:" if column in _NUMERIC else "---" for column in columns]
        lines += ["", f"**{title}**", ""]
        lines += [f"| {' | '.join(cells)} |" for cells in (columns, rule, *rows)]
    notes = _notes(summary)
    return "\n".join([*lines, "", *(f"- {note}" for note in notes)] if notes else lines)


def _size(n_bytes: int) -> str:
    for unit, scale in (("GiB", 2**30), ("MiB", _MIB), ("KiB", 1024)):
        if n_bytes >= scale:
            return f"{n_bytes / scale:.2f} {unit}"
    return f"{n_bytes} bytes"
