"""`mmvq gate`: whether a build may pass."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mmvq_cli.cli.compare import CompareFormat, OnlyChanged, RunsFolder, ThresholdTexts, ViewName, ViewOption
from mmvq_cli.cli.options import MEASURE, OUTPUT, SELECT, DeviceIndex, EngineName, Pattern, Quiet

if TYPE_CHECKING:
    from mmvq_cli.compare import GateConfig, GateResult, Trial

DECIDE = "Decide"


def gate(
    run: Annotated[
        str | None,
        typer.Argument(
            help="The run to judge: a file, or the beginning of a run id; default: the newest. With --static a list "
            "of compiled kernels.",
            show_default=False,
        ),
    ] = None,
    baseline: Annotated[
        str | None,
        typer.Option(help="The baseline (or file, or folder) to judge by.", rich_help_panel=SELECT, show_default=False),
    ] = None,
    static: Annotated[
        Path | None,
        typer.Option(
            help="Judge registers, spills, local bytes and cubin sizes by this list; both lists are the output of "
            "scripts/compile_kernels.py -o json. Needs no GPU.",
            rich_help_panel=SELECT,
            show_default=False,
        ),
    ] = None,
    base: Annotated[
        str | None,
        typer.Option(
            help="Measure the kernels of this git revision and those of --head in turn, in fresh processes.",
            rich_help_panel=SELECT,
            show_default=False,
        ),
    ] = None,
    head: Annotated[
        str | None,
        typer.Option(
            help="With --base: the other revision (default: the working tree).",
            rich_help_panel=SELECT,
            show_default=False,
        ),
    ] = None,
    suite: Annotated[
        str, typer.Option(help="With --base, --aa, --live: a packaged suite or a .toml file.", rich_help_panel=SELECT)
    ] = "smoke",
    aa: Annotated[
        bool,
        typer.Option(
            "--aa",
            help="Measure the working tree's kernels against themselves and keep what they differ by: the noise floor "
            "of this GPU, below which --base finds no change.",
            rich_help_panel=SELECT,
        ),
    ] = False,
    self_test: Annotated[
        bool,
        typer.Option(
            "--self-test",
            help="Put known changes into the run's samples and see whether the gate trips. Needs no GPU.",
            rich_help_panel=SELECT,
        ),
    ] = False,
    live: Annotated[
        bool,
        typer.Option(
            "--live",
            help="With --self-test: measure here, an A/A run first, then with the slowdown in every second process.",
            rich_help_panel=SELECT,
        ),
    ] = False,
    inject: Annotated[str, typer.Option(help="The slowdown that --self-test puts in.", rich_help_panel=SELECT)] = "10%",
    pattern: Pattern = None,
    results: RunsFolder = Path("results"),
    blocks: Annotated[
        int, typer.Option(min=2, help="With --base, --aa, --live: blocks of two processes.", rich_help_panel=MEASURE)
    ] = 10,
    budget: Annotated[
        float,
        typer.Option(
            min=0,
            help="With --base: seconds within which blocks are doubled while an interval is too wide.",
            rich_help_panel=MEASURE,
        ),
    ] = 0,
    samples: Annotated[
        int, typer.Option(min=2, help="With --base, --aa, --live: most samples per case.", rich_help_panel=MEASURE)
    ] = 30,
    engine: EngineName = "auto",
    device: DeviceIndex = 0,
    preset: Annotated[str, typer.Option(help="strict, default or permissive.", rich_help_panel=DECIDE)] = "default",
    config: Annotated[
        Path | None, typer.Option(help="Settings over the preset, as TOML.", rich_help_panel=DECIDE, show_default=False)
    ] = None,
    thresholds: ThresholdTexts = None,
    fail_on: Annotated[
        str | None,
        typer.Option(
            help="What fails: regression, invalid, missing, new, inconclusive (default: the first three). "
            "Wrong results always fail.",
            rich_help_panel=DECIDE,
            show_default=False,
        ),
    ] = None,
    dump_config: Annotated[
        bool,
        typer.Option("--dump-config", help="Print the resolved settings as TOML and stop.", rich_help_panel=OUTPUT),
    ] = False,
    view: ViewOption = ViewName.INTERVALS,
    only_changed: OnlyChanged = False,
    output: CompareFormat = "table",
    quiet: Quiet = False,
) -> None:
    """Judge a run by a baseline's history, or compiled kernels by earlier ones, and exit with the verdict.

    [bold]Examples[/bold]

    mmvq gate --baseline main

    mmvq gate results/20261122T173237Z-nvidia-h200-decode-6c9335c870.jsonl.gz --baseline main -o github

    mmvq gate --base main --suite decode --budget 600

    mmvq gate --aa

    mmvq gate head.json --static base.json

    mmvq gate --self-test

    Times are judged relative to the canary of their session. Below ten sessions of history the gate advises and does
    not fail on speed. docs/gate.md has the rule, the reason codes and a workflow.
    """
    from mmvq_cli.cli.compare import check_format, print_comparisons
    from mmvq_cli.cli.progress import note
    from mmvq_cli.compare import GateResult, compare_static, exit_code, load_config, read_compiled, share
    from mmvq_cli.errors import UsageError

    check_format(output)
    settings = load_config(preset, config, thresholds or (), fail_on)
    if dump_config:
        typer.echo(settings.to_toml(), nl=False)
        return
    asked = [
        name
        for name, is_given in (
            ("--baseline", baseline),
            ("--base", base),
            ("--aa", aa),
            ("--static", static),
            ("--self-test", self_test),
        )
        if is_given
    ]
    if len(asked) != 1:
        raise UsageError(
            f"{' and '.join(asked) or 'nothing'} to judge by",
            "give one of --baseline, --base, --aa, --static and --self-test",
        )
    bench = ["--suite", suite, "--engine", engine, "--device", str(device), "--samples", str(samples)]
    bench += ["-k", pattern] if pattern else []
    if aa or (self_test and live):
        from mmvq_cli.cli import gate_paired

        if aa:
            raise typer.Exit(gate_paired.measure_aa(bench, blocks, settings, quiet))
        raise typer.Exit(gate_paired.self_test_live(bench, blocks, settings, share(inject), quiet))
    if self_test:
        raise typer.Exit(_self_test(run, results, settings, inject))
    if static:
        if run is None:
            raise UsageError("--static has nothing to judge", "mmvq gate HEAD.json --static BASE.json")
        comparison = compare_static(read_compiled(static), read_compiled(Path(run)), settings)
        result = GateResult(comparison, exit_code(comparison, settings.fail_on))
    elif base:
        from mmvq_cli.cli.gate_paired import gate_revisions

        comparison = gate_revisions((base, head), bench, blocks, settings, quiet, budget)
        result = GateResult(comparison, exit_code(comparison, settings.fail_on))
    else:
        assert baseline is not None
        result = _gate_run(run, baseline, results, settings, pattern)
    footer = f"{result.advisory}; " * bool(result.advisory) + f"exit code {int(result.exit_code)}"
    print_comparisons([result.comparison], output, view, only_changed, footer)
    note(footer, quiet)
    raise typer.Exit(result.exit_code)


def _gate_run(run: str | None, baseline: str, results: Path, settings: GateConfig, pattern: str | None) -> GateResult:
    from mmvq_cli.cli.compare import choose
    from mmvq_cli.compare import default_store, gate_baseline, latest_run, open_source

    store = default_store()
    head = open_source(run or str(latest_run(results)), store, results)
    base = open_source(baseline, store, results)
    return gate_baseline(choose(base, pattern), choose(head, pattern), settings)


def _self_test(run: str | None, results: Path, settings: GateConfig, inject: str) -> int:
    from mmvq_cli.compare import default_store, latest_run, open_source, share
    from mmvq_cli.compare import self_test as run_self_test

    source = open_source(run or str(latest_run(results)), default_store(), results)
    return print_trials(run_self_test(source, settings, share(inject)))


def print_trials(trials: Sequence[Trial]) -> int:
    """Print one line each; the exit code is 3 when the gate did not do what it must."""
    from mmvq_cli.errors import ExitCode

    for trial in trials:
        word = "ok  " if trial.passed else "FAIL"
        typer.echo(f"{word} {trial.change}: exit code {int(trial.got)}, expected {int(trial.expected)}")
    return ExitCode.OK if all(trial.passed for trial in trials) else ExitCode.WRONG
