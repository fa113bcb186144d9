"""`mmvq list`: what there is to choose from."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, assert_never

import typer

from mmvq_cli.cli.options import OUTPUT
from mmvq_cli.cli.tables import Row, print_rows


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
