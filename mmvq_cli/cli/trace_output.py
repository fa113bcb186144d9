"""What the trace commands print, and how the texts of their options are read."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mmvq_cli.routing.trace import Trace, TraceStatistics


def write_and_say(value: Trace, output: Path, quiet: bool) -> None:
    """Write a trace and say what it holds and what was left out; raises `UsageError` for another file name."""
    from mmvq_cli.cli.progress import note
    from mmvq_cli.errors import UsageError
    from mmvq_cli.routing.trace import SUFFIX, write_trace

    if not output.name.endswith(SUFFIX):
        raise UsageError(f"-o {output} is not named like a trace", f"end it in {SUFFIX}")
    write_trace(value, output)
    tokens = f"{value.n_tokens} tokens" if value.kind == "topk" else "counts"
    note(f"wrote {output}: {tokens}, {value.n_layers} layers, {value.n_experts} experts, top-{value.top_k}", quiet)
    for key, text in value.metadata.items():
        if key.startswith(("dropped_", "counts_", "num_experts_inferred")) and text != "0":
            note(f"note: {key.replace('_', ' ')}: {text}", quiet)
    if value.provenance == "counts-derived":
        note("note: counts-derived: no joint structure, no locality", quiet)


@contextmanager
def show_progress(quiet: bool) -> Iterator[Callable[[int, int], None]]:
    """A line on stderr that counts layers; nothing when quiet or not a terminal."""
    shown = sys.stderr.isatty() and not quiet

    def show(done: int, total: int) -> None:
        if shown:
            print(f"\rlayer {done} of {total}", end="\r" if done == total else "", file=sys.stderr, flush=True)

    yield show


def print_statistics(result: TraceStatistics) -> None:
    """Print the statistics as a table with bars, the uniform floor beside every imbalance."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False)
    console.width = min(console.width, 110) if console.is_terminal else 110
    dropped = result.metadata.get("dropped_warmup_tokens", "0")
    for line in (
        f"{result.provenance}, {len(result.layers)} layers, top-{result.top_k} of {result.n_experts} logical experts",
        f"{result.n_tokens} tokens, {result.n_requests} requests, {dropped} warm-up tokens dropped",
    ):
        console.print(Text(line))
    table = Table(title="Load and locality by layer", box=None, title_justify="left", pad_edge=False)
    for name in (
        "layer",
        "max/mean",
        "uniform",
        "",
        "CV",
        "entropy",
        "n80",
        "unused",
        "sigma",
        "zipf",
        "lag 1",
        "lag 20",
    ):
        table.add_column(name, justify="left" if name == "" else "right")
    top = max(layer.imbalance for layer in result.layers) or 1.0
    for layer in result.layers:
        lags = [f"{layer.overlap[lag]:.3f}" if lag in layer.overlap else "-" for lag in (1, 20)]
        table.add_row(
            str(layer.layer),
            f"{layer.imbalance:.2f}",
            f"{layer.uniform_imbalance:.2f}",
            "█" * round(20 * layer.imbalance / top),
            f"{layer.cv:.2f}",
            f"{layer.entropy:.3f}",
            str(layer.n80),
            str(layer.unused_experts),
            f"{layer.lognormal_sigma:.2f}",
            f"{layer.zipf_s:.2f}",
            *lags,
        )
    console.print(table)
    console.print(Text("over layers, median / p90: " + summary_of(result)))
    console.print(Text(f"overlap by chance (k / E): {result.chance_overlap:.3f}"))
    if not result.batches:
        return
    batches = Table(title="Touched experts by batch", box=None, title_justify="left", pad_edge=False)
    names = (
        "tokens",
        "across requests",
        "in a row",
        "in a row, by request",
        "uniform",
        "max/mean",
        "of uniform",
        "tile-16 padding",
    )
    for name in names:
        batches.add_column(name, justify="right")
    for batch in result.batches:
        touched = (batch.across_touched, batch.consecutive_touched, batch.consecutive_touched_by_request)
        batches.add_row(
            str(batch.n_tokens),
            *("-" if value is None else f"{value:.1f}" for value in touched),
            f"{batch.uniform_touched:.1f}",
            f"{batch.imbalance:.2f}",
            f"{batch.uniform_imbalance:.2f}",
            f"{batch.padding[16]:.0%}",
        )
    console.print(batches)


def summary_of(result: TraceStatistics) -> str:
    """The medians over layers in one line."""
    names = {"imbalance": "max/mean", "balancedness": "balancedness", "rank_imbalance": "rank max/mean"}
    names |= {f"overlap_{lag}": f"lag {lag}" for lag in (1, 2, 5, 20)}
    names |= {name: f"LRU {100 * float(name[4:]):g}% of E" for name in result.median if name.startswith("lru_")}
    return " · ".join(
        f"{title} {result.median[name]:.3g} / {result.p90[name]:.3g}"
        for name, title in names.items()
        if name in result.median
    )


def parse_numbers(text: str, option: str) -> tuple[int, ...]:
    """Read `0,3,8..11`; raises `UsageError`."""
    from mmvq_cli.errors import UsageError

    numbers: list[int] = []
    for part in filter(None, text.split(",")):
        first, _, last = part.strip().partition("..")
        if not first.isdecimal() or not (last or first).isdecimal() or len(first + last) > 10:
            raise UsageError(f"--{option} {text!r} is not understood at {part!r}", "write 0,3,8..11")
        numbers.extend(range(int(first), min(int(last or first), int(first) + 10**4) + 1))
    return tuple(numbers)


def parse_pairs(text: str, option: str) -> dict[str, str]:
    """Read `name=value,name=value`; raises `UsageError`."""
    from mmvq_cli.errors import UsageError

    pairs = {}
    for part in filter(None, text.split(",")):
        name, equals, value = part.partition("=")
        if not equals or not value:
            raise UsageError(f"--{option} {text!r} is not understood at {part!r}", "write name=value,name=value")
        pairs[name.strip()] = value.strip()
    return pairs


def parse_parameters(text: str) -> dict[str, float]:
    """Read `sigma=0.7,rho=0.2`; raises `UsageError`."""
    from mmvq_cli.errors import UsageError

    try:
        return {name: float(value) for name, value in parse_pairs(text, "set").items()}
    except ValueError:
        raise UsageError(f"--set {text!r} has a value that is no number", "e.g. --set sigma=0.7,rho=0.2") from None


def parse_groups(text: str) -> tuple[int, int]:
    """Read `N/K`, groups and how many of them a token uses; raises `UsageError`."""
    from mmvq_cli.errors import UsageError

    n_group, _, topk_group = text.partition("/")
    if not n_group.isdecimal() or not topk_group.isdecimal():
        raise UsageError(f"--groups {text!r} is not understood", "write N/K, as 8/4")
    return int(n_group), int(topk_group)
