"""`mmvq compare`: stored records against stored records."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mmvq_cli.cli.options import OUTPUT, SELECT, Pattern, Quiet

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mmvq_cli.compare import Comparison, Source


class ViewName(StrEnum):
    """How much of each row is shown."""

    SIMPLE = "simple"
    INTERVALS = "intervals"
    EXPLAIN = "explain"


CompareFormat = Annotated[
    str, typer.Option("-o", "--output", help="Print table, md, json, csv, junit or github.", rich_help_panel=OUTPUT)
]
ViewOption = Annotated[
    ViewName, typer.Option(help="simple, intervals (with what could be detected) or explain.", rich_help_panel=OUTPUT)
]
OnlyChanged = Annotated[
    bool, typer.Option("--only-changed", help="Leave out rows that are the same or unknown.", rich_help_panel=OUTPUT)
]
RunsFolder = Annotated[
    Path, typer.Option("--results", help="Folder in which run names are looked up.", rich_help_panel=SELECT)
]
ThresholdTexts = Annotated[
    list[str] | None,
    typer.Option(
        "--threshold",
        help="Smallest change that matters, 3% (default) or PATTERN=5% for some case ids; repeatable.",
        rich_help_panel="Decide",
        show_default=False,
    ),
]


def compare(
    base: Annotated[str, typer.Argument(help="A record file, a folder, a baseline or the beginning of a run id.")],
    heads: Annotated[list[str], typer.Argument(help="One or more of the same, each compared with BASE.")],
    pattern: Pattern = None,
    results: RunsFolder = Path("results"),
    thresholds: ThresholdTexts = None,
    view: ViewOption = ViewName.SIMPLE,
    only_changed: OnlyChanged = False,
    output: CompareFormat = "table",
    quiet: Quiet = False,
) -> None:
    """Compare stored runs row by row: ratio, interval, and what the interval allows to say.

    [bold]Examples[/bold]

    mmvq compare before.jsonl after.jsonl

    mmvq compare main 20261122T173237Z --view intervals --only-changed

    mmvq compare before.jsonl after.jsonl -k Q4_K -o md

    Two stored runs are one process each: their intervals do not hold the noise between processes. `mmvq gate` judges
    by the history of a baseline. Slower rows do not change the exit code here; wrong results do.
    """
    from mmvq_cli.compare import compare as compare_sources
    from mmvq_cli.compare import default_store, exit_code, load_config, open_source
    from mmvq_cli.errors import worst

    check_format(output)
    config = load_config(thresholds=thresholds or ())
    store = default_store()
    first, *others = (choose(open_source(text, store, results), pattern) for text in (base, *heads))
    comparisons = [compare_sources(first, other, config.limits_of) for other in others]
    print_comparisons(comparisons, output, view, only_changed)
    raise typer.Exit(worst(exit_code(comparison, frozenset()) for comparison in comparisons))


def check_format(output: str) -> None:
    """Refuse a format that does not exist before anything is read; raises `UsageError`."""
    from mmvq_cli.errors import UsageError
    from mmvq_cli.report.compare_output import COMPARE_FORMATS

    if output not in COMPARE_FORMATS:
        raise UsageError(f"-o {output!r} is not an output format", f"use one of {', '.join(COMPARE_FORMATS)}")


def choose(source: Source, pattern: str | None) -> Source:
    """Keep the cases whose id matches; raises `NothingMatched` when none does, `UsageError` for a bad pattern."""
    import re

    from mmvq_cli.errors import NothingMatched, UsageError

    if pattern is None:
        return source
    try:
        found = [r.ids.case_id for r in source.records if re.search(pattern, r.ids.case_id)]
    except re.error as error:
        raise UsageError(f"-k {pattern!r} is not a regular expression: {error}", "quote it for the shell") from error
    if not found:
        raise NothingMatched(f"no case of {source.name} matches {pattern!r}", "`mmvq compare A A` lists its cases")
    return source.matching(found)


def print_comparisons(
    comparisons: Sequence[Comparison], output: str, view: ViewName, only_changed: bool, footer: str = ""
) -> None:
    """Print to stdout, in colour on a terminal; in a GitHub job the summary gets the same as Markdown."""
    import os
    import sys

    from rich.console import Console

    from mmvq_cli.errors import OpenError
    from mmvq_cli.report.compare_columns import View
    from mmvq_cli.report.compare_output import comparison_markdown, comparison_table, render_comparisons

    level = View[view.name]
    if output == "table" and sys.stdout.isatty():
        for comparison in comparisons:
            Console(highlight=False).print(comparison_table(comparison, level, only_changed))
    else:
        typer.echo(render_comparisons(comparisons, output, level, only_changed), nl=False)
    if output == "github" and (path := os.environ.get("GITHUB_STEP_SUMMARY")):
        text = "\n".join(comparison_markdown(c, View.INTERVALS, only_changed=False) for c in comparisons)
        try:
            with Path(path).open("a", encoding="utf-8") as file:
                file.write(f"{text}\n{footer}\n")
        except OSError as error:
            raise OpenError(f"cannot write {path}: {error.strerror}", "GITHUB_STEP_SUMMARY names it") from error
