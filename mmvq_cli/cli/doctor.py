"""`mmvq doctor`: what this machine can run, what is wrong, and how to mend it."""

from __future__ import annotations

import json
from dataclasses import asdict
from enum import StrEnum
from typing import Annotated

import typer

from mmvq_cli.engine.discovery import Diagnosis, Level, diagnose
from mmvq_cli.errors import EnvironmentInvalid


class Engine(StrEnum):
    """The engines that can be asked for."""

    AUTO = "auto"
    CUDA = "cuda"
    CPU = "cpu"


class Output(StrEnum):
    """The forms of the answer."""

    TABLE = "table"
    JSON = "json"


_COLOURS = {Level.OK: "green", Level.WARNING: "yellow", Level.PROBLEM: "red"}


def doctor(
    engine: Annotated[Engine, typer.Option(help="Fail (exit 4) when this engine cannot run here.")] = Engine.AUTO,
    output: Annotated[Output, typer.Option("--output", "-o", help="Form of the answer.")] = Output.TABLE,
) -> None:
    """Check driver, GPUs, CuPy, NVRTC, headers, cache and packages, and say how to mend what is wrong.

    [bold]Examples[/bold]

    mmvq doctor

    mmvq doctor --engine cuda -o json
    """
    diagnosis = diagnose()
    if output is Output.JSON:
        typer.echo(_to_json(diagnosis))
    else:
        _print_table(diagnosis)
    if engine is Engine.CUDA and diagnosis.cuda_problem:
        raise EnvironmentInvalid(
            f"the CUDA engine cannot run here: {diagnosis.cuda_problem}",
            "see the findings above, or use --engine cpu",
        )


def _to_json(diagnosis: Diagnosis) -> str:
    facts = {
        "cpu_engine": True,
        "cuda_engine": not diagnosis.cuda_problem,
        "cuda_problem": diagnosis.cuda_problem,
        "findings": [asdict(finding) for finding in diagnosis.findings],
    }
    return json.dumps(facts, indent=1)


def _print_table(diagnosis: Diagnosis) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for title in ("", "what", "seen"):
        table.add_column(title, overflow="fold")
    for finding in diagnosis.findings:
        seen = escape(finding.seen)
        if finding.mend:
            seen += f"\n[dim]mend:[/] {escape(finding.mend)}"
        table.add_row(f"[{_COLOURS[finding.level]}]{finding.level}[/]", escape(finding.name), seen)
    console = Console()
    console.print(table)
    cuda = f"no ({diagnosis.cuda_problem})" if diagnosis.cuda_problem else "yes"
    console.print(f"\nengines: cpu yes, cuda {cuda}", markup=False, highlight=False)
