"""Rows of words as aligned columns, Markdown or JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence

import typer

from mmvq_cli.errors import UsageError

Row = dict[str, object]


def print_rows(rows: Sequence[Row], output: str) -> None:
    """Print rows of the same keys as table, md or json; raises `UsageError` for another format."""
    require_format(output)
    if output == "json":
        typer.echo(json.dumps(rows, indent=1))
    elif rows:
        _print(rows, markdown=output == "md")


def require_format(output: str) -> None:
    """Raise `UsageError` for what `print_rows` cannot print."""
    if output not in ("table", "md", "json"):
        raise UsageError(f"-o {output!r} is not an output format here", "use table, md or json")


def _print(rows: Sequence[Row], markdown: bool) -> None:
    columns = list(rows[0])
    cells = [columns, *([str(row[column]) for column in columns] for row in rows)]
    if markdown:
        cells.insert(1, ["---"] * len(columns))
        for line in cells:
            typer.echo(f"| {' | '.join(line)} |")
        return
    widths = [max(len(line[i]) for line in cells) for i in range(len(columns))]
    for line in cells:
        typer.echo("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
