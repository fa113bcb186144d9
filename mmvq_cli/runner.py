"""A whole run: the cases of a suite one after the other, each record on disk before the next case starts."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, Protocol

from mmvq_cli.engine.cuda import build_ahead
from mmvq_cli.errors import ExitCode, MmvqError, worst
from mmvq_cli.measure import device_lock, least_stream_gb_s, stream_problems
from mmvq_cli.op import Device, Plan
from mmvq_cli.record import (
    Look,
    MachineState,
    Record,
    RecordStore,
    Status,
    latest_run_id,
    new_run_id,
    read_records,
    with_looks,
)
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

    def building(self, done: int, total: int) -> None:
        """So many of the kernels that the run needs are built; the first time before any is."""

    def started(self, case: Case, index: int, total: int) -> None:
        """Case `index` of `total` (from 0) begins."""

    def phase(self, name: str) -> None:
        """The running case enters a phase: load, build, check, time."""

    def finished(self, record: Record) -> None:
        """The record is on disk."""

    def warned(self, text: str) -> None:
        """Something about the machine that whoever reads the times must know."""


@dataclass(frozen=True, slots=True)
class RunResult:
    """The records of a run in suite order, the file that holds them, and what they mean for the exit code.

    `problems` say why no time of the run is valid.
    """

    records: tuple[Record, ...]
    path: Path
    problems: tuple[str, ...] = ()

    @property
    def exit_code(self) -> ExitCode:
        """Worst outcome of all cases; ENVIRONMENT when the times are not valid."""
        codes = [_CODES.get(record.status, ExitCode.OK) for record in self.records]
        return worst([*codes, *([ExitCode.ENVIRONMENT] if self.problems else [])])


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

    A timed run on a GPU waits for others on it, and looks at the machine before, half way and after. Kernels that are
    not in the cache are built before the first case. Cases that would start after `time_budget_s` are recorded as
    SKIPPED. Raises `OpenError` when the folder cannot be written and whatever opening the engine raises.
    """
    git = git_state(Path(__file__).parent)
    with Worker(settings) as worker, _lock(settings, worker, observer):
        store, done = _open_store(suite, settings, worker, folder, git.rev[:10] if git else "nogit", resume)
        store.require_writable()  # before the first case, not after it
        observer.opened(store.path)
        identity = RunIdentity(store.path.stem, suite.name, git)
        earlier = [done.get(row_id(case, settings, worker.device)) for case in suite.cases]
        pending = [index for index, record in enumerate(earlier) if record is None]
        end_s = None if time_budget_s is None else time.monotonic() + time_budget_s
        build_ahead(_plans([suite.cases[index] for index in pending], worker.device), observer.building)
        looks = _Looks(worker, store, observer, wanted=settings.timed and bool(pending))
        looks.take("start")
        made: dict[int, Record] = {}
        for index in pending:
            case = suite.cases[index]
            if len(pending) > 1 and len(made) == len(pending) // 2:
                looks.take("mid")
            observer.started(case, index, len(suite.cases))
            if end_s is not None and time.monotonic() > end_s:
                reason = f"the time budget of {time_budget_s:g} s was spent"
                record = skipped(case, identity, settings, worker.device, reason)
            else:
                record = worker.run(case, identity, observer.phase)
            store.append(record)
            made[index] = record
            observer.finished(record)
        looks.take("end")
    found = dict(zip(made, with_looks(made.values(), looks.taken), strict=True))
    records = tuple(record or found[index] for index, record in enumerate(earlier))
    return RunResult(records, store.path, looks.problems())


def _plans(cases: Iterable[Case], device: Device) -> Iterator[Plan]:
    """What will be launched; a case that has no plan says so when it runs."""
    if device.backend == "cpu":
        return
    for case in cases:
        with suppress(MmvqError):
            yield Plan.select(case.descriptor, device, case.preference)


def _lock(settings: RunSettings, worker: Worker, observer: Observer) -> AbstractContextManager[None]:
    """Times need the GPU alone; checks do not.

    Who waits has an open engine but no CUDA context yet, so that the other's NVML does not count it.
    """
    if not settings.timed or worker.uuid is None:
        return nullcontext()
    return device_lock(worker.uuid, observer.warned)


class _Looks:
    """The looks of a run: taken when `wanted`, on a GPU; on disk at once; what is wrong is said once."""

    def __init__(self, worker: Worker, store: RecordStore, observer: Observer, *, wanted: bool) -> None:
        self._worker, self._store, self._observer = worker, store, observer
        self._device = worker.device
        self._wanted = wanted and self._device.backend == "cuda"
        self._warned: set[str] = set()
        self.taken: list[Look] = []

    def take(self, point: Literal["start", "mid", "end"]) -> None:
        """Look now."""
        reading = self._worker.look() if self._wanted else None
        if reading is None:
            return
        look = Look(
            run_id=self._store.path.stem,
            point=point,
            time_utc=datetime.now(UTC),
            canary_gbps=reading.gb_s,
            state=MachineState.model_validate(reading.state) if reading.state else None,
        )
        self._store.append(look)
        self.taken.append(look)
        self._warn(reading.state.problems if reading.state else ("NVML does not tell clocks and other processes",))
        if point == "end":
            self._warn([f"no time of this run is valid: {problem}" for problem in self.problems()])

    def problems(self) -> tuple[str, ...]:
        """Why no time of the run is valid."""
        readings = [look.canary_gbps for look in self.taken]
        broken = ("the streaming read's words do not add up",) if None in readings else ()
        return broken + stream_problems(readings, least_stream_gb_s(self._device))

    def _warn(self, texts: Iterable[str]) -> None:
        for text in texts:
            if text not in self._warned:
                self._warned.add(text)
                self._observer.warned(text)


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
