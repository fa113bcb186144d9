"""`mmvq plan`: which kernel would run, and why, for a named GPU that need not be here."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from mmvq_cli.cli.options import (
    OUTPUT,
    Accumulation,
    DtypeNames,
    Formats,
    Layers,
    OptionalModel,
    Pattern,
    PreferenceName,
    PresetName,
    SuiteName,
    Tensors,
    Tokens,
    TopK,
    choose_suite,
    given_axes,
)

if TYPE_CHECKING:
    from mmvq_cli.op import Device, Plan
    from mmvq_cli.suite import Suite


def plan(
    model: OptionalModel = None,
    preset: PresetName = None,
    suite: SuiteName = None,
    pattern: Pattern = None,
    layers: Layers = None,
    tensors: Tensors = None,
    tokens: Tokens = None,
    top_k: TopK = None,
    dtype: DtypeNames = None,
    formats: Formats = None,
    prefer: PreferenceName = None,
    accumulate: Accumulation = None,
    device: Annotated[
        str, typer.Option(help="A known device: H200, H100, A100, RTX-4090, B200, cpu, ...", rich_help_panel="Engine")
    ] = "H200",
    output: Annotated[str, typer.Option("-o", "--output", help="Print text or json.", rich_help_panel=OUTPUT)] = "text",
) -> None:
    """Show which kernel each case would run on a device, why, with which launches and guarantees.

    [bold]Examples[/bold]

    mmvq plan --preset qwen3-30b-a3b --tokens 1,8 --device H200

    mmvq plan model.gguf --dtype bf16 --prefer reproducible -o json
    """
    from mmvq_cli.errors import UsageError
    from mmvq_cli.op import find_device

    if output not in ("text", "json"):
        raise UsageError(f"-o {output!r} is not an output format of plan", "use text or json")
    given = given_axes(
        layers=layers, tensors=tensors, tokens=tokens, top_k=top_k, dtype=dtype, accumulate=accumulate, prefer=prefer
    )
    _print(choose_suite(model, preset, suite, formats, given).matching(pattern), find_device(device), output)


def print_plans(suite: Suite, engine: str, device_index: int) -> None:
    """What `bench --dry-run` prints: the plans for the device that would run them."""
    if engine == "cpu":
        from mmvq_cli.op import CPU

        _print(suite, CPU, "text")
    else:
        from mmvq_cli.engine.cuda import current_device
        from mmvq_cli.tuning import with_tuning

        _print(suite, with_tuning(current_device(device_index)), "text")


def _print(suite: Suite, device: Device, output: str) -> None:
    from mmvq_cli.errors import InvalidProblem, Unsupported
    from mmvq_cli.op import Plan

    plans: list[dict[str, object]] = []
    for case in suite.cases:
        try:
            chosen = Plan.select(case.descriptor, device, case.preference)
        except Unsupported as error:
            plans.append({"case": case.id, "unsupported": error.message})
            text = f"  UNSUPPORTED: {error.message}"
        except InvalidProblem as error:
            plans.append({"case": case.id, "invalid": error.message})
            text = f"  INVALID: {error.message}"
        else:
            plans.append({"case": case.id, **_as_json(chosen)})
            text = _as_text(chosen)
        if output == "text":
            typer.echo(f"{case.id}\n{text}")
    if output == "json":
        typer.echo(json.dumps(plans, indent=1))


def _as_json(plan: Plan) -> dict[str, object]:
    return {
        "device": plan.device.name,
        "rule": plan.rule,
        "reason": plan.reason,
        "sku": asdict(plan.sku),
        "precision_guarantee": asdict(plan.precision_guarantee),
        "launches": [asdict(launch) for launch in plan.launches],
        "workspace_bytes": plan.workspace_size(),
    }


def _as_text(plan: Plan) -> str:
    guarantee = plan.precision_guarantee
    promises = [
        name
        for name, holds in (
            ("deterministic", guarantee.deterministic),
            ("bit-stable", guarantee.bit_stable_on_same_hardware),
            ("batch-invariant", guarantee.batch_invariant),
        )
        if holds
    ]
    lines = [
        f"kernel     {plan.sku.name}",
        f"rule       {plan.rule}: {plan.reason}",
        f"guarantee  {guarantee.math} products, {guarantee.accumulator} sums, c = {guarantee.error_constant:g}, "
        f"{', '.join(promises) or 'not deterministic'}",
    ]
    for launch in plan.launches:
        blocks = launch.grid[0] * launch.grid[1] * launch.grid[2]
        threads = launch.block[0] * launch.block[1] * launch.block[2]
        lines.append(f"launch     {launch.entry} of {launch.source}: {blocks} blocks x {threads} threads")
    lines.append(f"workspace  {plan.workspace_size()} bytes")
    return "\n".join(f"  {line}" for line in lines)
