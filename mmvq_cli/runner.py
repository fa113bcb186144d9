"""A whole run: the cases of a suite one after the other, each record on disk before the next case starts."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from mmvq_cli.errors import ExitCode, worst
from mmvq_cli.record import Record, RecordStore, Status, latest_run_id, new_run_id, read_records
from mmvq_cli.session import RunSettings, git_state
from mmvq_cli.suite import Case, Suite
from mmvq_cli.worker import RunIdentity, Worker, row_id, skipped

# What a status means for the exit code; the others are no fault of the run.
_CODES = {
    Status.WRONG_RESULT: ExitCode.WRONG,
    Status.BUILD_ERROR: ExitCode.ENVIRONMENT,
    Status.LAUNCH_ERROR: ExitCode.ENVIRONMENT,
    Status.TIMEOUT: ExitCode.ENVIRONMENT,
}


class Observer(Protocol):
    """Told what happens; progress bars and plain lines are observers."""

    def opened(self, path: Path) -> None:
        """Records go to this file."""

    def started(self, case: Case, index: int, total: int) -> None:
        """Case `index` of `total` (from 0) begins."""

    def phase(self, name: str) -> None:
        """The running case enters a phase: load, build, check, time."""

    def finished(self, record: Record) -> None:
        """The record is on disk."""


@dataclass(frozen=True, slots=True)
class RunResult:
    """The records of a run in suite order, the file that holds them, and what they mean for the exit code."""

    records: tuple[Record, ...]
    path: Path

    @property
    def exit_code(self) -> ExitCode:
        """Worst outcome of all cases."""
        return worst(_CODES.get(record.status, ExitCode.OK) for record in self.records)


def run_suite(
    suite: Suite,
    settings: RunSettings,
    folder: Path,
    observer: Observer,
    *,
    resume: bool = False,
    time_budget_s: float | None = None,
) -> RunResult:
    """Run every case and append its record to a file in `folder`; with `resume` the newest run of this kind goes on.

    Cases that would start after `time_budget_s` are recorded as SKIPPED. Raises `OpenError` when the folder cannot be
    written and whatever opening the engine raises.
    """
    git = git_state(Path(__file__).parent)
    with Worker(settings) as worker:
        store, done = _open_store(suite, settings, worker, folder, git.rev[:10] if git else "nogit", resume)
        store.require_writable()  # before the first case, not after it
        observer.opened(store.path)
        identity = RunIdentity(store.path.stem, suite.name, git)
        records = []
        end_s = None if time_budget_s is None else time.monotonic() + time_budget_s
        for index, case in enumerate(suite.cases):
            earlier = done.get(row_id(case, settings, worker.device))
            if earlier is not None:
                records.append(earlier)
                continue
            observer.started(case, index, len(suite.cases))
            if end_s is not None and time.monotonic() > end_s:
                reason = f"the time budget of {time_budget_s:g} s was spent"
                record = skipped(case, identity, settings, worker.device, reason)
            else:
                record = worker.run(case, identity, observer.phase)
            store.append(record)
            records.append(record)
            observer.finished(record)
    return RunResult(tuple(records), store.path)


_FINAL = {Status.PASSED, Status.WRONG_RESULT, Status.UNSUPPORTED}


def _open_store(
    suite: Suite, settings: RunSettings, worker: Worker, folder: Path, commit: str, resume: bool
) -> tuple[RecordStore, dict[str, Record]]:
    """The file to append to, and the records in it that need not be made again, by row id."""
    device = worker.device.name
    run_id = latest_run_id(folder, device, suite.name, commit) if resume else None
    if run_id is None:
        return RecordStore(folder, new_run_id(device, suite.name, commit)), {}
    store = RecordStore(folder, run_id)
    done = {record.ids.row_id: record for record in read_records(store.path) if record.status in _FINAL}
    return store, done
