"""The gate's ways that measure: two revisions in turn, a build against itself, and a build with a known slowdown."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path

import typer

from mmvq_cli.cli.gate import print_trials
from mmvq_cli.cli.progress import note
from mmvq_cli.compare import (
    AaRun,
    Comparison,
    GateConfig,
    Reason,
    Source,
    Trial,
    Verdict,
    aa_file,
    aa_run,
    append_aa,
    compare_paired,
    exit_code,
    noise_floor,
    read_aa,
)
from mmvq_cli.errors import ExitCode, UsageError
from mmvq_cli.paired import WORKING_TREE, BenchArm, RunArm, kernels_of, run_blocks, run_paired

_AGAIN, _SLOWED = "the same again", "slowed down"


def gate_revisions(
    revisions: tuple[str, str | None],
    arguments: list[str],
    blocks: int,
    settings: GateConfig,
    quiet: bool,
    budget_s: float,
) -> Comparison:
    """Measure two revisions of the kernels of the checkout that the current folder is in.

    Raises `UsageError` when both are one.
    """
    names = (revisions[0], revisions[1] or WORKING_TREE)
    if names[0] == names[1]:
        raise UsageError(f"--base and --head are both {names[0]}", "leave --head out to measure the working tree")
    with tempfile.TemporaryDirectory(prefix="mmvq-gate-") as folder:
        root = Path(folder)
        pairs = zip(names, revisions, strict=True)
        arms = {name: kernels_of(revision, Path.cwd(), root / f"arm-{i}") for i, (name, revision) in enumerate(pairs)}
        run_arm = _announced(BenchArm(arms, arguments), quiet)
        return run_paired(names, run_arm, blocks, root, settings, budget_s=budget_s)


def measure_aa(arguments: list[str], blocks: int, settings: GateConfig, quiet: bool) -> ExitCode:
    """Make an A/A run, keep it and print what it says."""
    with tempfile.TemporaryDirectory(prefix="mmvq-gate-") as folder:
        _run_aa(_here(arguments, {}, quiet), blocks, settings, Path(folder))
    return ExitCode.OK


def self_test_live(arguments: list[str], blocks: int, settings: GateConfig, inject: float, quiet: bool) -> int:
    """Gate a build against itself, and against itself with a slowdown, here and now; print the two trials."""
    with tempfile.TemporaryDirectory(prefix="mmvq-gate-") as folder:
        root = Path(folder)
        run_arm = _here(arguments, {_SLOWED: inject}, quiet)
        same = _run_aa(run_arm, blocks, settings, root / "same")
        slowed = run_paired((WORKING_TREE, _SLOWED), run_arm, blocks, root / "slowed", settings)
    alarmed = ExitCode.REGRESSION if _looks_slower(same) else ExitCode.OK
    trials = (
        Trial("the same kernels", ExitCode.OK, alarmed),
        Trial(f"{100 * inject:g} % more launches", ExitCode.REGRESSION, exit_code(slowed, GateConfig().fail_on)),
    )
    return print_trials(trials)


def _here(arguments: list[str], slowdowns: Mapping[str, float], quiet: bool) -> RunArm:
    """Every arm runs the kernels of this installation."""
    kernels = kernels_of(None, Path.cwd(), Path())
    arms = dict.fromkeys((WORKING_TREE, _AGAIN, _SLOWED), kernels)
    return _announced(BenchArm(arms, arguments, slowdowns), quiet)


def _announced(bench: BenchArm, quiet: bool) -> RunArm:
    def run_arm(arm: str, records: Path) -> Source:
        note(f"{records.parent.name} {records.name}: {arm}", quiet)
        return bench(arm, records)

    return run_arm


def _run_aa(run_arm: RunArm, blocks: int, settings: GateConfig, folder: Path) -> Comparison:
    found = run_blocks((WORKING_TREE, _AGAIN), run_arm, range(blocks), folder)
    run = aa_run(found, settings.thresholds)
    append_aa(run, aa_file())
    typer.echo(_described(run, noise_floor(read_aa(aa_file()), run.uuid)))
    return compare_paired(found, settings)


def _looks_slower(comparison: Comparison) -> bool:
    """Whether the rule calls something slower, if it did not know that the machine code is the same."""
    rows = [row for row in comparison.rows if row.reason is Reason.SAME_MACHINE_CODE and (row.ratio or 0) > 1]
    return bool(rows) or bool(comparison.suite and comparison.suite.verdict is Verdict.REGRESSED)


def _described(run: AaRun, floor: float) -> str:
    return (
        f"A/A on {run.device}: {len(run.differences)} cases, {run.blocks} blocks; standard deviations: "
        f"samples {100 * run.launch_sd:.2f} %, processes {100 * run.process_sd:.2f} %; largest difference "
        f"{100 * run.largest:.2f} %; noise floor of this GPU now {100 * floor:.2f} %"
    )
