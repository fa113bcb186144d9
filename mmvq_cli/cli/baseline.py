"""`mmvq baseline`: named sets of sessions to compare and gate against."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, assert_never

import typer

from mmvq_cli.cli.compare import RunsFolder
from mmvq_cli.cli.options import OUTPUT, SELECT, Quiet

if TYPE_CHECKING:
    from mmvq_cli.compare import BaselineStore, Source


class Action(StrEnum):
    """What to do."""

    SAVE = "save"
    LIST = "list"
    SHOW = "show"
    RM = "rm"
    EXPORT = "export"


def baseline(
    action: Annotated[Action, typer.Argument(help="save, list, show, rm or export.", show_default=False)],
    name: Annotated[str | None, typer.Argument(help="The baseline.", show_default=False)] = None,
    target: Annotated[
        str | None,
        typer.Argument(help="save: the run to add (default: the newest); export: FILE.jsonl.", show_default=False),
    ] = None,
    user: Annotated[
        bool, typer.Option("--user", help="Your own baselines before the project's.", rich_help_panel=SELECT)
    ] = False,
    results: RunsFolder = Path("results"),
    output: Annotated[
        str, typer.Option("-o", "--output", help="list and show: table, md or json.", rich_help_panel=OUTPUT)
    ] = "table",
    quiet: Quiet = False,
) -> None:
    """Save runs as sessions of a named baseline; list, show, remove and export baselines.

    [bold]Examples[/bold]

    mmvq baseline save main

    mmvq baseline save main results/20261122T173237Z-nvidia-h200-decode-6c9335c870.jsonl.gz

    mmvq baseline show main

    mmvq baseline export main main.jsonl

    A project's baselines are folders below .mmvq/baselines, with one record file for each session: commit them, or
    keep them in a cache of the CI. `save` adds a session and keeps those of before.
    """
    from mmvq_cli.cli.progress import note
    from mmvq_cli.cli.tables import print_rows
    from mmvq_cli.compare import default_store, latest_run, open_source
    from mmvq_cli.errors import UsageError
    from mmvq_cli.record import write_whole

    store = default_store(user=user)
    if action is Action.LIST:
        rows = _listing(store)
        print_rows(rows, output)
        if not rows:
            note("there are no baselines: `mmvq baseline save NAME RUN` makes one", quiet)
        return
    if name is None:
        raise UsageError(f"baseline {action} needs a name", f"mmvq baseline {action} NAME")
    match action:
        case Action.SAVE:
            source = open_source(target or str(latest_run(results)), store, results)
            folder = store.save(name, source.records)
            note(f"{name}: {_count(store, name)} sessions in {folder}", quiet)
        case Action.SHOW:
            print_rows(_rows(open_source(str(store.require(name)), store, results)), output)
        case Action.RM:
            note(f"removed {store.remove(name)}", quiet)
        case Action.EXPORT:
            if target is None:
                raise UsageError("baseline export needs a file", f"mmvq baseline export {name} {name}.jsonl")
            records = open_source(str(store.require(name)), store, results).records
            write_whole(Path(target), "".join(f"{record.to_json()}\n" for record in records))
            note(f"wrote {target}", quiet)
        case _:
            assert_never(action)


def _count(store: BaselineStore, name: str) -> int:
    from mmvq_cli.compare.sources import record_files

    return len(record_files(store.require(name)))


def _listing(store: BaselineStore) -> list[dict[str, object]]:
    from mmvq_cli.compare import GateConfig, open_source

    needed = GateConfig().min_sessions
    rows: list[dict[str, object]] = []
    for name, folder in store.names().items():
        source = open_source(str(folder), store, folder)
        sessions = len(source.sessions)
        rows.append(
            {
                "baseline": name,
                "sessions": sessions,
                "rows": len(source.latest),
                "devices": ", ".join(sorted({record.env.device.name for record in source.records})),
                "newest": f"{source.records[-1].ids.time_utc:%Y-%m-%d %H:%M}",
                "gates": "yes" if sessions >= needed else f"advisory until {needed} sessions",
                "folder": str(folder),
            }
        )
    return rows


def _rows(source: Source) -> list[dict[str, object]]:
    """One row for each case: sessions, median time, and the spread of time over canary between sessions."""
    import statistics

    from mmvq_cli.compare import canary_log_ratio

    rows: list[dict[str, object]] = []
    for row_id, latest in source.latest.items():
        seen = [rows_[row_id] for rows_ in source.sessions.values() if row_id in rows_]
        times = [record.timing.gpu_ns.median for record in seen if record.timing]
        ratios = [ratio for record in seen if (ratio := canary_log_ratio(record)) is not None]
        spread = f"{100 * statistics.stdev(ratios):.2f} %" if len(ratios) > 1 else "—"
        rows.append(
            {
                "case": latest.ids.case_id,
                "sessions": len(seen),
                "median µs": round(statistics.median(times) / 1e3, 3) if times else "—",
                "spread": spread,
                "status": str(latest.status),
            }
        )
    return rows
