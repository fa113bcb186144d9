"""Options that several commands share, and how their texts become axes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

SELECT, MEASURE, OUTPUT, ENGINE = "Select", "Measure", "Output", "Engine"

OptionalModel = Annotated[
    Path | None, typer.Argument(help="A .gguf file, or any file of a split set.", show_default=False)
]
Layers = Annotated[
    str | None,
    typer.Option(
        help="distinct (one layer of each shape and format, the default), all, or numbers: 0,3,8..11.",
        rich_help_panel=SELECT,
        show_default=False,
    ),
]
Tensors = Annotated[
    str | None,
    typer.Option(help="Roles: gate,up,down,gate_up (default: all).", rich_help_panel=SELECT, show_default=False),
]
Tokens = Annotated[
    str | None,
    typer.Option(
        help="Batch sizes, 4..64 doubles: 1,2,4..64 (default: 1,8,64).", rich_help_panel=SELECT, show_default=False
    ),
]
TopK = Annotated[
    int | None,
    typer.Option(
        "--top-k", min=1, help="Experts per token (default: the model's).", rich_help_panel=SELECT, show_default=False
    ),
]
DtypeNames = Annotated[
    str | None,
    typer.Option(
        "--dtype", help="Activation types: f32,f16,bf16 (default: f16).", rich_help_panel=SELECT, show_default=False
    ),
]
Routing = Annotated[
    str | None,
    typer.Option(
        help="uniform, balanced, zipf:S, lognormal:SIGMA, hot:SHARE, hot:EXPERTS:SHARE, trace:FILE or twin:PRESET; "
        "several with commas (default: uniform).",
        rich_help_panel=SELECT,
        show_default=False,
    ),
]
Compose = Annotated[
    str | None,
    typer.Option(
        help="Batches of a trace: recorded (its forward passes), decode-mix (one token of each request), chunk (tokens "
        "in a row) or shuffle (default: as the trace is ordered).",
        rich_help_panel=SELECT,
        show_default=False,
    ),
]
TraceLayer = Annotated[
    int | None,
    typer.Option(
        min=0,
        help="Layer of the trace to replay (default: each tensor's own).",
        rich_help_panel=SELECT,
        show_default=False,
    ),
]
MapExperts = Annotated[
    str | None,
    typer.Option(
        help="Fit a trace to another number of experts: fold (to fewer) or tile (to more).",
        rich_help_panel=SELECT,
        show_default=False,
    ),
]
Formats = Annotated[
    str | None,
    typer.Option(
        help="With --preset: other weight formats, e.g. Q4_K,Q6_K, or all.", rich_help_panel=SELECT, show_default=False
    ),
]
Pattern = Annotated[
    str | None,
    typer.Option(
        "-k", help="Only cases whose id matches this regular expression.", rich_help_panel=SELECT, show_default=False
    ),
]
Seed = Annotated[
    int | None,
    typer.Option(
        min=0,
        help="Seed of routing, activations and synthetic weights (default: 0).",
        rich_help_panel=SELECT,
        show_default=False,
    ),
]
SuiteName = Annotated[
    str | None,
    typer.Option("--suite", help="A packaged suite or a .toml file.", rich_help_panel=SELECT, show_default=False),
]
PresetName = Annotated[
    str | None,
    typer.Option(
        "--preset",
        help="Shapes of a released model with random valid blocks; `mmvq list presets`.",
        rich_help_panel=SELECT,
        show_default=False,
    ),
]
EngineName = Annotated[str, typer.Option("--engine", help="auto, cuda or cpu.", rich_help_panel=ENGINE)]
DeviceIndex = Annotated[int, typer.Option("--device", min=0, help="Which GPU.", rich_help_panel=ENGINE)]
Accumulation = Annotated[
    str | None,
    typer.Option(
        help="ordered (deterministic, the default) or atomic, for sums over experts.",
        rich_help_panel=ENGINE,
        show_default=False,
    ),
]
PreferenceName = Annotated[
    str | None,
    typer.Option(
        "--prefer",
        help="auto (default), fastest, reproducible (batch-invariant), reference (the plain kernel) or tuned (what "
        "`mmvq tune` found on this GPU).",
        rich_help_panel=ENGINE,
        show_default=False,
    ),
]
ResultsFolder = Annotated[Path, typer.Option("--results", help="Folder for the records.", rich_help_panel=OUTPUT)]
OutputFormat = Annotated[
    str, typer.Option("-o", "--output", help="Print table, md, json, jsonl or csv.", rich_help_panel=OUTPUT)
]
Exports = Annotated[
    list[str] | None,
    typer.Option(
        "--export",
        help="Also write FMT:PATH; repeatable. FMT is one of -o, or nvbench, llama-sql, github-action.",
        rich_help_panel=OUTPUT,
        show_default=False,
    ),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress and no notes.", rich_help_panel=OUTPUT)]
ListOnly = Annotated[bool, typer.Option("--list", help="Print the case ids and stop.", rich_help_panel=OUTPUT)]


def given_axes(
    *,
    layers: str | None = None,
    tensors: str | None = None,
    tokens: str | None = None,
    top_k: int | None = None,
    dtype: str | None = None,
    routing: str | None = None,
    seed: int | None = None,
    accumulate: str | None = None,
    prefer: str | None = None,
) -> dict[str, Any]:
    """The axes that the command line names, parsed; raises `UsageError` for a bad value."""
    from mmvq_cli.suite import parse_axes

    written = {
        "layers": layers,
        "roles": tensors,
        "tokens": tokens,
        "top_k": top_k,
        "dtypes": dtype,
        "routings": routing,
        "seed": seed,
        "accumulate": accumulate,
        "preference": prefer,
    }
    return parse_axes({name: value for name, value in written.items() if value is not None}, "the command line")


def choose_suite(
    model: Path | None, preset: str | None, suite: str | None, formats: str | None, given: dict[str, Any]
) -> Any:
    """The suite that a model, a preset or a suite name stands for; `smoke` when none is named.

    Raises `UsageError` when more than one is named.
    """
    from mmvq_cli.errors import UsageError
    from mmvq_cli.suite import Axes, load_suite, model_suite, preset_suite

    named = [name for name, value in (("MODEL", model), ("--preset", preset), ("--suite", suite)) if value is not None]
    if len(named) > 1:
        raise UsageError(f"{' and '.join(named)} are given together", "name one of them")
    if formats and not preset:
        raise UsageError("--formats needs --preset", "a file's tensors have the formats they have")
    axes = Axes().override(**given)
    if model is not None:
        return model_suite(model, axes)
    if preset is not None:
        return preset_suite(preset, axes, tuple(name.strip() for name in formats.split(",")) if formats else ())
    return load_suite(suite or "smoke", given)


def with_replay(
    given: dict[str, Any], *, compose: str | None, trace_layer: int | None, map_experts: str | None
) -> None:
    """Set how traces among the routings of `given` are replayed; raises `UsageError` when there is none."""
    from mmvq_cli.errors import UsageError
    from mmvq_cli.routing import with_replay_option

    options = {"compose": compose, "layer": trace_layer, "map": map_experts}
    wanted = {name: str(value) for name, value in options.items() if value is not None}
    routings = given.get("routings", ())
    if wanted and not any(spec.is_replayed for spec in routings):
        raise UsageError("--compose, --trace-layer and --map-experts are for traces", "give --routing trace:FILE")
    for name, value in wanted.items():
        routings = tuple(with_replay_option(spec, name, value) if spec.is_replayed else spec for spec in routings)
        given["routings"] = routings
