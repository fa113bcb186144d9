"""`mmvq validate`: whether a model file is sound, down to every block."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mmvq_cli.cli.options import OUTPUT, SELECT, DeviceIndex, EngineName, OptionalModel, Quiet
from mmvq_cli.errors import ExitCode, UsageError

COMPARE = "Compare"


def validate(
    model: OptionalModel = None,
    checks: Annotated[
        str | None,
        typer.Option(
            help="Layers or ids with commas: structure,moe,blocks (default: all three).",
            rich_help_panel=SELECT,
            show_default=False,
        ),
    ] = None,
    skip: Annotated[
        str | None, typer.Option(help="Layers or ids to leave out.", rich_help_panel=SELECT, show_default=False)
    ] = None,
    all_tensors: Annotated[
        bool, typer.Option("--all-tensors", help="Blocks of all tensors, not only experts.", rich_help_panel=SELECT)
    ] = False,
    kernels: Annotated[
        bool,
        typer.Option(
            "--kernels",
            help="Also list which types have a kernel here, and check it on some rows of each tensor.",
            rich_help_panel=SELECT,
        ),
    ] = False,
    rows: Annotated[
        int, typer.Option(min=1, help="With --kernels: rows of each of 4 experts.", rich_help_panel=SELECT)
    ] = 16,
    against: Annotated[
        Path | None,
        typer.Option(
            help="The same model in another quantization: the error of each expert, worst first.",
            rich_help_panel=COMPARE,
            show_default=False,
        ),
    ] = None,
    manifest: Annotated[
        Path | None,
        typer.Option(
            help="Compare with a manifest: what differs, by name.", rich_help_panel=COMPARE, show_default=False
        ),
    ] = None,
    write_manifest: Annotated[
        Path | None,
        typer.Option(help="Write sha256 of each tensor and expert.", rich_help_panel=COMPARE, show_default=False),
    ] = None,
    imatrix: Annotated[
        Path | None,
        typer.Option(
            help="A GGUF importance matrix: experts that it never routed to.",
            rich_help_panel=COMPARE,
            show_default=False,
        ),
    ] = None,
    engine: EngineName = "auto",
    device: DeviceIndex = 0,
    output: Annotated[
        str,
        typer.Option("-o", "--output", help="table, md, json, jsonl, junit, github or sarif.", rich_help_panel=OUTPUT),
    ] = "table",
    fail_on: Annotated[
        str, typer.Option(help="error or warning: exit with 3 from this severity on.", rich_help_panel=OUTPUT)
    ] = "error",
    list_checks: Annotated[
        bool, typer.Option("--list-checks", help="Print all checks and stop.", rich_help_panel=OUTPUT)
    ] = False,
    explain: Annotated[
        str | None,
        typer.Option(metavar="ID", help="Explain one check and stop.", rich_help_panel=OUTPUT, show_default=False),
    ] = None,
    quiet: Quiet = False,
) -> int | None:
    """Check a model file: header and layout, expert tensors against metadata, every block of every expert.

    [bold]Examples[/bold]

    mmvq validate model.gguf

    mmvq validate model-00001-of-00004.gguf --checks structure,moe

    mmvq validate model-Q4_K_M.gguf --against model-BF16.gguf -o md

    mmvq validate model.gguf --kernels --engine cuda

    mmvq validate model.gguf --fail-on warning -o sarif

    mmvq validate --explain blocks.dead-expert

    The report ends with what was not checked.
    """
    from mmvq_cli.cli.progress import ByteProgress
    from mmvq_cli.validate import OUTPUTS, Request, Severity, render, validate

    if list_checks or explain:
        typer.echo(_list_checks() if explain is None else _explain(explain))
        return None
    if model is None:
        raise UsageError("no model is given", "mmvq validate MODEL.gguf, or --list-checks")
    if fail_on not in (Severity.ERROR, Severity.WARNING):
        raise UsageError(f"--fail-on {fail_on!r} is not a severity to fail on", "use error or warning")
    if output not in OUTPUTS:
        raise UsageError(f"-o {output!r} is not an output format of validate", f"use {', '.join(OUTPUTS)}")
    if engine != "auto":
        from mmvq_cli.session import resolve_engine

        resolve_engine(engine)
    request = Request(
        model=model,
        checks=_names(checks),
        skip=_names(skip),
        all_tensors=all_tensors,
        against=against,
        manifest=manifest,
        write_manifest=write_manifest,
        imatrix=imatrix,
        kernels=kernels,
        kernel_rows=rows,
        engine=engine,
        device_index=device,
    )
    with ByteProgress(quiet) as bar:
        report = validate(request, bar.show)
    typer.echo(render(report, output), nl=False)
    return ExitCode.WRONG if report.fails(Severity(fail_on)) else None


def _names(text: str | None) -> tuple[str, ...]:
    return tuple(name.strip() for name in (text or "").split(",") if name.strip())


def _list_checks() -> str:
    from mmvq_cli.validate import CHECKS

    return "\n".join(f"{check.id:30} {check.severity}" for check in CHECKS.values())


def _explain(name: str) -> str:
    from textwrap import fill

    from mmvq_cli.validate import find_check

    check = find_check(name)
    return f"{check.id} ({check.severity})\n{fill(check.explanation, 100)}"
