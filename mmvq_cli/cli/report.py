"""`mmvq report`: a stored run, readable."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mmvq_cli.cli.compare import RunsFolder
from mmvq_cli.cli.options import OUTPUT, Exports, Pattern, Quiet


def report(
    run: Annotated[
        str,
        typer.Argument(help="A record file, a folder, a baseline or the beginning of a run id.", show_default=False),
    ],
    pattern: Pattern = None,
    results: RunsFolder = Path("results"),
    output: Annotated[
        str,
        typer.Option(
            "-o",
            "--output",
            help="html (default), table, md, json, jsonl, csv, nvbench, llama-sql or github-action.",
            rich_help_panel=OUTPUT,
        ),
    ] = "html",
    to: Annotated[
        Path | None,
        typer.Option(
            "--to",
            help="Write this file. Without it html goes to RUN.html here, other formats to stdout.",
            rich_help_panel=OUTPUT,
            show_default=False,
        ),
    ] = None,
    exports: Exports = None,
    quiet: Quiet = False,
) -> None:
    """Write a stored run as one HTML page, as a table, or for other tools.

    [bold]Examples[/bold]

    mmvq report results/20261122T173237Z-nvidia-h200-decode-6c9335c870.jsonl.gz

    mmvq report 20261122T173237Z -o md

    mmvq report 20261122T173237Z -o nvbench --to decode.json

    mmvq report main --export llama-sql:main.sql --export github-action:main.json

    The page needs no network: tables, throughput against batch size, roofline, error against time, routing skew.
    """
    from mmvq_cli.cli.compare import choose
    from mmvq_cli.cli.progress import note
    from mmvq_cli.compare import default_store, open_source
    from mmvq_cli.errors import UsageError
    from mmvq_cli.record import write_whole
    from mmvq_cli.report import OUTPUT_FORMATS, export, parse_export, render
    from mmvq_cli.report.html_page import html_page

    if output not in ("html", *OUTPUT_FORMATS):
        raise UsageError(f"-o {output!r} is not an output format", f"use one of html, {', '.join(OUTPUT_FORMATS)}")
    for target in exports or ():
        parse_export(target)
    source = choose(open_source(run, default_store(), results), pattern)
    records = list(source.latest.values())
    text = html_page(records) if output == "html" else render(records, output)
    path = to or (Path(f"{records[-1].ids.run_id}.html") if output == "html" else None)
    if path:
        write_whole(path, text)
        note(f"wrote {path}", quiet)
    else:
        typer.echo(text, nl=False)
    for target in exports or ():
        note(f"wrote {export(records, target)}", quiet)
