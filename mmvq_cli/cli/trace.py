"""`mmvq trace`: import, look at, convert, export and make routing traces."""

from __future__ import annotations

import json
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mmvq_cli.cli.app import EXIT_CODES
from mmvq_cli.cli.options import Quiet
from mmvq_cli.cli.trace_output import (
    parse_groups,
    parse_numbers,
    parse_pairs,
    parse_parameters,
    print_statistics,
    show_progress,
    write_and_say,
)

if TYPE_CHECKING:
    pass

trace = typer.Typer(
    rich_markup_mode="rich",
    add_completion=False,
    pretty_exceptions_enable=False,
    epilog=EXIT_CODES,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="""Routing traces: which experts real tokens went to, in one file for `mmvq bench --routing trace:FILE`.

    [bold]Examples[/bold]

    mmvq trace import responses.jsonl -o chat.moetrace.safetensors

    mmvq trace stats chat.moetrace.safetensors

    mmvq trace synth hier --preset gpt-oss -o twin.moetrace.safetensors

    mmvq bench --preset gpt-oss-20b --routing trace:chat.moetrace.safetensors
    """,
)

TraceFile = Annotated[Path, typer.Argument(help="A *.moetrace.safetensors file.", show_default=False)]
Target = Annotated[Path, typer.Option("-o", "--output", help="The file to write.", show_default=False)]
ExpertsN = Annotated[int, typer.Option("--experts", min=0, help="Experts per layer (0: what the source says).")]
TopKN = Annotated[int, typer.Option("--top-k", min=0, help="Experts per token (0: what the source says).")]


class StatsOutput(StrEnum):
    """How `mmvq trace stats` prints."""

    TABLE = "table"
    JSON = "json"


class ExportFormat(StrEnum):
    """What `mmvq trace export` writes."""

    SGLANG = "sglang"
    EPLB = "eplb"
    FLASHINFER = "flashinfer"


class Recorder(StrEnum):
    """Scripts that record."""

    HF = "hf"
    LLAMA_CPP = "llama-cpp"


@trace.command("import", epilog=EXIT_CODES)
def import_(
    source: Annotated[Path, typer.Argument(help="A recording: a file or a folder.", show_default=False)],
    output: Target,
    origin: Annotated[
        str,
        typer.Option(
            "--from", help="vllm, sglang, imatrix, hf-logits, trtllm, npz, table or eplb (default: detected)."
        ),
    ] = "",
    experts: ExpertsN = 0,
    top_k: TopKN = 0,
    num_layers: Annotated[int, typer.Option(min=0, help="Hidden layers of a headerless recording (SGLang).")] = 0,
    moe_layers: Annotated[str, typer.Option(help="Layers with experts, 3..60 (default: found).")] = "",
    columns: Annotated[
        str, typer.Option(help="Columns of a table: layer=L,experts=IDS,request=R,weights=W,phase=P.")
    ] = "",
    model_id: Annotated[str, typer.Option(help="Name of the model, noted in the trace.")] = "",
    keep_warmup: Annotated[bool, typer.Option("--keep-warmup", help="Keep long runs of equal rows.")] = False,
    quiet: Quiet = False,
) -> None:
    """Read what a real system recorded and write the neutral trace file.

    [bold]Examples[/bold]

    mmvq trace import responses.jsonl -o chat.moetrace.safetensors

    mmvq trace import model.imatrix.gguf -o counts.moetrace.safetensors

    mmvq trace import log.csv --from table --columns layer=L,experts=E -o log.moetrace.safetensors

    What is no routing is dropped and counted: warm-up rows, dense layers, padding.
    """
    from mmvq_cli.cli.progress import ByteProgress, note
    from mmvq_cli.routing.trace import ImportOptions, import_trace

    note(f"reading {source}", quiet)
    with ByteProgress(quiet) as bar:
        options = ImportOptions(
            n_experts=experts,
            top_k=top_k,
            n_layers=num_layers,
            moe_layers=parse_numbers(moe_layers, "moe-layers"),
            columns=parse_pairs(columns, "columns"),
            model_id=model_id,
            keep_warmup=keep_warmup,
            progress=bar.show,
        )
        imported = import_trace(source, origin, options)
    write_and_say(imported, output, quiet)


@trace.command(epilog=EXIT_CODES)
def stats(
    file: TraceFile,
    ep: Annotated[int, typer.Option(min=0, help="Expert-parallel ranks, for the imbalance among them.")] = 0,
    lru: Annotated[bool, typer.Option("--lru", help="Also hit rates of expert caches (slow).")] = False,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the sampled batches.")] = 0,
    output: Annotated[StatsOutput, typer.Option("-o", "--output", help="Print tables or JSON.")] = StatsOutput.TABLE,
    quiet: Quiet = False,
) -> None:
    """Show a trace's load, locality and what its batches touch, each imbalance beside what uniform routing shows.

    [bold]Examples[/bold]

    mmvq trace stats chat.moetrace.safetensors --ep 8

    mmvq trace stats chat.moetrace.safetensors --lru -o json
    """
    from mmvq_cli.routing.trace import read_trace, trace_statistics

    with show_progress(quiet) as show:
        result = trace_statistics(read_trace(file, show), ep=ep, lru=lru, seed=seed, progress=show)
    if output is StatsOutput.JSON:
        typer.echo(json.dumps(asdict(result), indent=1))
    else:
        print_statistics(result)


@trace.command(epilog=EXIT_CODES)
def convert(
    file: TraceFile,
    output: Target,
    layers: Annotated[str, typer.Option(help="Only these layers of the model: 0,3,8..11.")] = "",
    counts: Annotated[bool, typer.Option("--counts", help="Keep counts per expert only.")] = False,
    quiet: Quiet = False,
) -> None:
    """Write a trace again: some of its layers, its counts alone, or as .npz.

    [bold]Examples[/bold]

    mmvq trace convert chat.moetrace.safetensors --layers 0,12 -o small.moetrace.safetensors

    mmvq trace convert chat.moetrace.safetensors -o chat.npz
    """
    from mmvq_cli.cli.progress import note
    from mmvq_cli.routing.trace import read_trace, select_layers, to_counts, write_npz

    value = read_trace(file)
    if layers:
        value = select_layers(value, parse_numbers(layers, "layers"))
    if counts:
        value = to_counts(value)
    if output.suffix == ".npz":
        write_npz(value, output)
        note(f"wrote {output}", quiet)
    else:
        write_and_say(value, output, quiet)


@trace.command(epilog=EXIT_CODES)
def export(
    file: TraceFile,
    output: Target,
    to: Annotated[ExportFormat, typer.Option("--to", help="Who reads it.", show_default=False)],
    tokens: Annotated[int, typer.Option(min=1, help="flashinfer: tokens of the batch.")] = 16,
    layer: Annotated[int, typer.Option(min=-1, help="flashinfer: layer (-1: the middle one).")] = -1,
    compose: Annotated[str, typer.Option(help="flashinfer: recorded, decode-mix, chunk or shuffle.")] = "",
    seed: Annotated[int, typer.Option(min=0, help="flashinfer: seed of the batch.")] = 0,
    quiet: Quiet = False,
) -> None:
    """Write what other systems read: SGLang's logical_count, an EPLB table, FlashInfer-Bench's routing logits.

    [bold]Examples[/bold]

    mmvq trace export chat.moetrace.safetensors --to sglang -o init.json

    mmvq trace export chat.moetrace.safetensors --to flashinfer --tokens 64 -o logits.safetensors
    """
    from mmvq_cli.cli.progress import note
    from mmvq_cli.routing import RoutingSpec, with_replay_option
    from mmvq_cli.routing.trace import read_trace, replay, write_load_table, write_routing_logits

    value = read_trace(file)
    if to is ExportFormat.FLASHINFER:
        spec = RoutingSpec("trace", origin=str(file), layer=layer)
        spec = with_replay_option(spec, "compose", compose) if compose else spec
        top_k = value.top_k or 1
        routing = replay(spec, value.n_experts, top_k, tokens, seed=seed, index=0, layer=-1)
        write_routing_logits(routing, output)
    else:
        write_load_table(value, output, key="logical_count" if to is ExportFormat.SGLANG else "")
    note(f"wrote {output}", quiet)


@trace.command(epilog=EXIT_CODES)
def synth(
    generator: Annotated[
        str,
        typer.Argument(
            help="balanced, uniform, lognormal, zipf, dirichlet, power_law, imbalanced-experts, imbalanced-ranks, hot, "
            "marginal or hier.",
            show_default=False,
        ),
    ],
    output: Target,
    preset: Annotated[str, typer.Option(help="hier: gpt-oss, deepseek-v2-lite, mixtral-mid or qwen3-30b.")] = "",
    parameters: Annotated[str, typer.Option("--set", help="Parameters: sigma=0.7,rho=0.2 (docs/traces.md).")] = "",
    experts: ExpertsN = 0,
    top_k: TopKN = 0,
    layers: Annotated[int, typer.Option(min=1, help="Layers.")] = 4,
    requests: Annotated[int, typer.Option(min=1, help="Requests.")] = 64,
    length: Annotated[int, typer.Option(min=1, help="Tokens of each request.")] = 128,
    groups: Annotated[str, typer.Option(help="N/K: each token keeps to K of N groups of experts.")] = "",
    counts: Annotated[Path | None, typer.Option(help="marginal: the trace whose counts to follow.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed.")] = 0,
    quiet: Quiet = False,
) -> None:
    """Make a synthetic trace.

    [bold]Examples[/bold]

    mmvq trace synth hier --preset gpt-oss -o twin.moetrace.safetensors

    mmvq trace synth zipf --set s=1.0 --experts 128 --top-k 8 -o zipf.moetrace.safetensors

    mmvq trace synth marginal --counts counts.moetrace.safetensors -o expanded.moetrace.safetensors
    """
    from dataclasses import replace

    from mmvq_cli.errors import UsageError
    from mmvq_cli.routing.trace import Synthesis, preset_synthesis, synthesize

    sizes: dict[str, Any] = {"n_layers": layers, "n_requests": requests, "request_tokens": length, "seed": seed}
    given = parse_parameters(parameters)
    if preset:
        if generator != "hier":
            raise UsageError(f"--preset is for hier, not {generator}", "mmvq trace synth hier --preset gpt-oss")
        plan = preset_synthesis(preset, **sizes)
        plan = replace(plan, parameters={**plan.parameters, **given})
    elif counts is not None:
        plan = _marginal(generator, counts, top_k, sizes)
    elif experts and top_k:
        plan = Synthesis(generator=generator, n_experts=experts, top_k=top_k, parameters=given, **sizes)
    else:
        raise UsageError("the sizes are not known", "give --experts and --top-k, --preset, or --counts")
    if groups:
        n_group, topk_group = parse_groups(groups)
        plan = replace(plan, n_group=n_group, topk_group=topk_group)
    with show_progress(quiet) as show:
        made = synthesize(plan, show)
    write_and_say(made, output, quiet)


@trace.command("record-script", epilog=EXIT_CODES)
def record_script(
    kind: Annotated[Recorder, typer.Argument(help="What runs your model.", show_default=False)],
) -> None:
    """Print a small script that records routing beside your model.

    [bold]Examples[/bold]

    mmvq trace record-script hf > record_routing.py
    """
    from mmvq_cli.resources import resource_root

    path = resource_root("configs") / "recorders" / f"{kind.value.replace('-', '_')}.py.txt"
    typer.echo(path.read_text(encoding="utf-8"), nl=False)


def _marginal(generator: str, counts: Path, top_k: int, sizes: dict[str, Any]) -> Any:
    from mmvq_cli.errors import UsageError
    from mmvq_cli.routing.trace import Synthesis, logical_counts, read_trace

    source = read_trace(counts)
    if generator != "marginal":
        raise UsageError(f"--counts is for marginal, not {generator}", "mmvq trace synth marginal --counts FILE")
    top_k = top_k or source.top_k
    if not top_k:
        raise UsageError(f"{counts} does not say the top-k", "give --top-k")
    return Synthesis(
        generator=generator,
        n_experts=source.n_experts,
        top_k=top_k,
        popularity=logical_counts(source).astype(float),
        **{**sizes, "n_layers": source.n_layers},
    )
