"""`mmvq bench`: check and time the kernels."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from mmvq_cli.cli.options import (
    MEASURE,
    OUTPUT,
    Accumulation,
    Compose,
    DeviceIndex,
    DtypeNames,
    EngineName,
    Exports,
    Formats,
    Layers,
    ListOnly,
    MapExperts,
    OptionalModel,
    OutputFormat,
    Pattern,
    PreferenceName,
    PresetName,
    Quiet,
    ResultsFolder,
    Routing,
    Seed,
    SuiteName,
    Tensors,
    Tokens,
    TopK,
    TraceLayer,
    choose_suite,
    given_axes,
    with_replay,
)


class Cache(StrEnum):
    """Where the weights come from."""

    COLD = "cold"
    FLUSH = "cold-flush"
    HOT = "hot"


def bench(
    model: OptionalModel = None,
    preset: PresetName = None,
    suite: SuiteName = None,
    pattern: Pattern = None,
    layers: Layers = None,
    tensors: Tensors = None,
    tokens: Tokens = None,
    top_k: TopK = None,
    dtype: DtypeNames = None,
    routing: Routing = None,
    compose: Compose = None,
    trace_layer: TraceLayer = None,
    map_experts: MapExperts = None,
    formats: Formats = None,
    seed: Seed = None,
    engine: EngineName = "auto",
    device: DeviceIndex = 0,
    prefer: PreferenceName = None,
    accumulate: Accumulation = None,
    cache: Annotated[
        Cache | None,
        typer.Option(
            help="cold (default): weights rotate past 3x the last-level cache; cold-flush: the cache is emptied before "
            "each launch; hot: they stay in it.",
            rich_help_panel=MEASURE,
            show_default=False,
        ),
    ] = None,
    samples: Annotated[int, typer.Option(min=1, help="Most samples per case.", rich_help_panel=MEASURE)] = 100,
    draws: Annotated[
        int, typer.Option(min=1, help="Routing draws that the launches cycle through.", rich_help_panel=MEASURE)
    ] = 4,
    time_budget: Annotated[
        float | None,
        typer.Option(
            min=0, help="Seconds after which no further case starts.", rich_help_panel=MEASURE, show_default=False
        ),
    ] = None,
    timeout: Annotated[
        float, typer.Option(min=1, help="Seconds after which a case counts as hanging.", rich_help_panel=MEASURE)
    ] = 600,
    output: OutputFormat = "table",
    exports: Exports = None,
    results: ResultsFolder = Path("results"),
    resume: Annotated[
        bool,
        typer.Option(
            "--resume", help="Go on with the newest run of the same kind in --results.", rich_help_panel=OUTPUT
        ),
    ] = False,
    list_only: ListOnly = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print each case's plan and stop.", rich_help_panel=OUTPUT)
    ] = False,
    quiet: Quiet = False,
) -> None:
    """Check and time the batched expert kernels on a model's tensors, a preset's shapes or a suite.

    [bold]Examples[/bold]

    mmvq bench model.gguf --tokens 1,2,4..64

    mmvq bench model.gguf --layers 0 --tensors down -o md --export csv:down.csv

    mmvq bench --preset deepseek-v3 --routing zipf:1.0 --dtype bf16

    mmvq bench model.gguf --routing trace:chat.moetrace.safetensors --compose chunk

    mmvq bench --suite decode --time-budget 600

    Every case is checked against a float64 product before it is timed, and again afterwards: a wrong result never
    shows a time. Records are appended to --results after every case.
    """
    from mmvq_cli.cli.execute import OutputChoice, announce_engine, execute, print_cases
    from mmvq_cli.session import RunSettings, asked_slowdown, sampling_for

    choice = OutputChoice(format=output, exports=tuple(exports or ()), folder=results, quiet=quiet)
    choice.validate()
    given = given_axes(
        layers=layers,
        tensors=tensors,
        tokens=tokens,
        top_k=top_k,
        dtype=dtype,
        routing=routing,
        seed=seed,
        accumulate=accumulate,
        prefer=prefer,
    )
    if cache is not None:
        given["cache"] = str(cache)
    with_replay(given, compose=compose, trace_layer=trace_layer, map_experts=map_experts)
    chosen = choose_suite(model, preset, suite, formats, given).matching(pattern)
    if list_only:
        print_cases(chosen)
        return
    resolved = announce_engine(engine, quiet)
    if dry_run:
        from mmvq_cli.cli.plan import print_plans

        print_plans(chosen, resolved, device)
        return
    settings = RunSettings(
        engine=resolved,
        device_index=device,
        draws_n=draws,
        sampling=sampling_for(resolved, samples),
        case_timeout_s=timeout,
        slowdown=asked_slowdown(),
    )
    execute(chosen, settings, choice, resume=resume, time_budget_s=time_budget)
