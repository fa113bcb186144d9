"""What `bench` and `check` share: run a suite, print it, export it, and end with the right code."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import typer
from rich.console import Console

from mmvq_cli.cli.progress import ProgressObserver, note
from mmvq_cli.errors import UsageError
from mmvq_cli.op import Preference
from mmvq_cli.report import export, parse_export, render, summary_line, terminal_table
from mmvq_cli.report.output import OUTPUT_FORMATS
from mmvq_cli.runner import run_suite
from mmvq_cli.session import RunSettings, resolve_engine
from mmvq_cli.suite import Suite
from mmvq_cli.tuning import read_tuning


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputChoice:
    """Where results go: stdout in one format, files in others, records in a folder."""

    format: str
    exports: tuple[str, ...]
    folder: Path
    quiet: bool

    def validate(self) -> None:
        """Raise `UsageError` for a format that does not exist, before anything runs."""
        if self.format not in OUTPUT_FORMATS:
            raise UsageError(f"-o {self.format!r} is not an output format", f"use one of {', '.join(OUTPUT_FORMATS)}")
        for target in self.exports:
            parse_export(target)


def print_cases(suite: Suite) -> None:
    """The ids, one a line."""
    for case in suite.cases:
        typer.echo(case.id)


def execute(
    suite: Suite,
    settings: RunSettings,
    output: OutputChoice,
    *,
    resume: bool = False,
    time_budget_s: float | None = None,
) -> None:
    """Run the suite and exit with its code; the engine of `settings` must be resolved."""
    _require_tuning(suite, settings)
    for name in dict.fromkeys(name for case in suite.cases for name in case.source.outside):
        note(f"note: bias/scale not applied: {name}", output.quiet)
    with ProgressObserver(len(suite.cases), output.quiet) as observer:
        result = run_suite(suite, settings, output.folder, observer, resume=resume, time_budget_s=time_budget_s)
    if output.format == "table" and sys.stdout.isatty():
        Console(highlight=False).print(terminal_table(result.records))
    else:
        typer.echo(render(result.records, output.format), nl=False)
    for target in output.exports:
        note(f"wrote {export(result.records, target)}", output.quiet)
    note(summary_line(result.records, result.path), output.quiet)
    raise typer.Exit(result.exit_code)


def _require_tuning(suite: Suite, settings: RunSettings) -> None:
    """Raise when what was tuned is preferred and there is nothing that can be used."""
    if not any(case.preference is Preference.TUNED for case in suite.cases):
        return
    if settings.engine == "cpu":
        raise UsageError("--prefer tuned chooses among the kernels of a GPU, and this runs on the CPU", "leave it out")
    from mmvq_cli.engine.cuda import current_device

    read_tuning(current_device(settings.device_index))


def announce_engine(wanted: str, quiet: bool) -> str:
    """Resolve `auto`, and say in one line when it is not the GPU."""
    engine, reason = resolve_engine(wanted)
    if reason:
        note(reason, quiet)
    return engine
