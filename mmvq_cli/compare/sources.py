"""Where records to compare come from: a file, a folder of files, a run in the results folder, a named baseline."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mmvq_cli.compare.baseline import BaselineStore
from mmvq_cli.errors import NothingMatched, OpenError
from mmvq_cli.record import Record, read_records


@dataclass(frozen=True, slots=True)
class Source:
    """Named records, oldest first, of one session or more: a session is a run, or one file of a run that went on."""

    name: str
    records: tuple[Record, ...]

    @property
    def latest(self) -> dict[str, Record]:
        """The newest record of each row, by row id, in the order of first appearance."""
        return {record.ids.row_id: record for record in self.records}

    @property
    def sessions(self) -> dict[str, dict[str, Record]]:
        """Run id -> the last record of each row, by row id."""
        sessions: dict[str, dict[str, Record]] = {}
        for record in self.records:
            sessions.setdefault(record.ids.run_id, {})[record.ids.row_id] = record
        return sessions

    def matching(self, case_ids: Sequence[str]) -> Source:
        """Keep the records of these cases."""
        kept = set(case_ids)
        return Source(self.name, tuple(record for record in self.records if record.ids.case_id in kept))


def open_source(text: str, baselines: BaselineStore, results: Path) -> Source:
    """Read what `text` names: a file, a folder, a baseline, or the beginning of a run id in `results`, in this order.

    Raises `OpenError` when nothing has that name or a file cannot be read, `NothingMatched` when it holds no record.
    """
    paths = _paths(text, baselines, results)
    records = sorted((record for path in paths for record in read_records(path)), key=lambda r: r.ids.time_utc)
    if not records:
        raise NothingMatched(f"{text} holds no records", "was the run interrupted before its first case?")
    return Source(text, tuple(records))


def latest_run(results: Path) -> Path:
    """Find the newest run of a results folder by its name, which begins with the time.

    Raises `OpenError` when there is none.
    """
    runs = record_files(results)
    if not runs:
        raise OpenError(f"no records in {results}", "name a file, or run `mmvq bench` first")
    return max(runs, key=lambda path: path.name)


def record_files(folder: Path) -> list[Path]:
    """List the record files of a folder by name."""
    return sorted(p for p in folder.glob("*.jsonl*") if p.name.endswith((".jsonl", ".jsonl.gz")))


def _paths(text: str, baselines: BaselineStore, results: Path) -> list[Path]:
    path = Path(text)
    if path.is_file():
        return [path]
    if path.is_dir():
        return record_files(path)
    if baselines.find(text):
        return record_files(baselines.require(text))
    runs = [run for run in record_files(results) if run.name.startswith(text)]
    if len(runs) == 1:
        return runs
    if runs:
        raise OpenError(f"{text} begins {len(runs)} runs in {results}", f"write more of it: {runs[0].name}")
    raise OpenError(
        f"{text} is no file, folder, baseline or run in {results}", "`mmvq baseline list` shows the baselines"
    )
