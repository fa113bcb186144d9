"""`mmvq list`: what there is to choose from."""

from __future__ import annotations

import json
from enum import StrEnum
from typing import Annotated, assert_never

import typer

from mmvq_cli.cli.options import OUTPUT

Row = dict[str, object]


class Kind(StrEnum):
    """What can be listed."""

    FORMATS = "formats"
    KERNELS = "kernels"
    PRESETS = "presets"
    SUITES = "suites"


def listing(
    kind: Annotated[Kind, typer.Argument(help="What to list.", show_default=False)],
    output: Annotated[
        str, typer.Option("-o", "--output", help="Print table, md or json.", rich_help_panel=OUTPUT)
    ] = "table",
) -> None:
    """List the weight formats, the kernels, the presets or the suites.

    [bold]Examples[/bold]

    mmvq list presets

    mmvq list formats -o json
    """
    print_rows(_rows(kind), output)


def print_rows(rows: list[Row], output: str) -> None:
    """Print rows of the same keys as table, md or json; raises `UsageError` for another format."""
    from mmvq_cli.errors import UsageError

    if output not in ("table", "md", "json"):
        raise UsageError(f"-o {output!r} is not an output format here", "use table, md or json")
    if output == "json":
        typer.echo(json.dumps(rows, indent=1))
    elif rows:
        _print(rows, markdown=output == "md")


def _rows(kind: Kind) -> list[Row]:
    match kind:
        case Kind.FORMATS:
            return _formats()
        case Kind.KERNELS:
            return _kernels()
        case Kind.PRESETS:
            return _presets()
        case Kind.SUITES:
            return _suites()
        case _:
            assert_never(kind)


def _formats() -> list[Row]:
    from mmvq_cli.op.formats import FORMATS, known_types, unsupported_reason

    rows: list[Row] = [
        {
            "format": row.name,
            "id": row.id,
            "block": row.block_size,
            "bytes": row.type_size,
            "bits/weight": round(row.bits_per_weight, 4),
            "kernel": "yes",
        }
        for row in FORMATS.values()
    ]
    rejected = [(type_id, name) for type_id, name in known_types() if name not in FORMATS]
    rows += [
        {"format": name, "id": type_id, "block": "", "bytes": "", "bits/weight": "", "kernel": f"no: {reason}"}
        for type_id, name in rejected
        if (reason := unsupported_reason(name))
    ]
    return rows


def _kernels() -> list[Row]:
    from mmvq_cli.op.rules import RULES

    return [{"rule": rule.name, "engine": rule.engine, "what": rule.summary} for rule in RULES]


def _presets() -> list[Row]:
    from mmvq_cli.model import load_presets

    return [
        {
            "preset": preset.name,
            "model": preset.title,
            "experts": preset.n_experts,
            "top-k": preset.top_k,
            "gate/up": _shape(preset.shapes.get("up", (0, 0))),
            "down": _shape(preset.shapes["down"]),
            "formats": "/".join(dict.fromkeys(format.name for format in preset.formats.values())),
        }
        for preset in load_presets().values()
    ]


def _shape(shape: tuple[int, int]) -> str:
    return f"{shape[0]}x{shape[1]}"


def _suites() -> list[Row]:
    from mmvq_cli.suite import known_suites, load_suite

    suites = [load_suite(name, {}) for name in known_suites()]
    return [{"suite": suite.name, "cases": len(suite.cases), "what": suite.description} for suite in suites]


def _print(rows: list[Row], markdown: bool) -> None:
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
