"""Progress on stderr: a bar with the time to go on a terminal, plain lines elsewhere, nothing when quiet."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from types import TracebackType

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from mmvq_cli.record import Record, Status
from mmvq_cli.report import number
from mmvq_cli.suite import Case


def note(text: str, quiet: bool = False) -> None:
    """One line for people, beside the data."""
    if not quiet:
        print(text, file=sys.stderr, flush=True)


class ProgressObserver:
    """Shows the running case and its phase; use it as a context."""

    def __init__(self, total: int, quiet: bool) -> None:
        self._quiet = quiet
        self._case_id = ""
        self._path: Path | None = None
        self._index, self._total = 0, total
        self._start_s = time.monotonic()
        console = Console(stderr=True)
        self._bar: Progress | None = None
        if console.is_terminal and not quiet:
            self._bar = Progress(
                BarColumn(bar_width=20),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.description}"),
                console=console,
                transient=True,
            )
            self._task = self._bar.add_task("", total=total)

    def __enter__(self) -> ProgressObserver:
        if self._bar:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar:
            self._bar.stop()
        if kind is KeyboardInterrupt and self._path is not None:
            note(f"the records so far are in {self._path}; the same command with --resume goes on", self._quiet)

    def opened(self, path: Path) -> None:
        """Remember where the records are, for whoever interrupts the run."""
        self._path = path

    def building(self, done: int, total: int) -> None:
        """Say that it takes a while, and how far it is."""
        if self._bar:
            self._bar.update(self._task, description=f"building kernels, {done} of {total}")
        elif done == 0:
            note(f"building {total} kernels that are not in the cache", self._quiet)

    def started(self, case: Case, index: int, total: int) -> None:
        """Name the case."""
        self._case_id, self._index, self._start_s = case.id, index, time.monotonic()
        self.phase("start")

    def phase(self, name: str) -> None:
        """Show what is being done to it."""
        if self._bar:
            self._bar.update(self._task, completed=self._index, description=f"{name:5} {self._case_id}")

    def finished(self, record: Record) -> None:
        """Count it; without a bar, print a line."""
        if self._bar:
            self._bar.update(self._task, completed=self._index + 1)
        else:
            took_s = time.monotonic() - self._start_s
            note(f"[{self._index + 1}/{self._total}] {self._case_id}: {_outcome(record)} ({took_s:.1f} s)", self._quiet)

    def warned(self, text: str) -> None:
        """Print it above the bar."""
        if self._bar:
            self._bar.console.print(f"warning: {text}", markup=False, highlight=False)
        else:
            note(f"warning: {text}", self._quiet)


def _outcome(record: Record) -> str:
    if record.status is not Status.PASSED:
        return f"{record.status}: {record.correctness.reason}"
    if record.timing is None:
        return "PASSED"
    return f"PASSED, {number(record.timing.gpu_ns.median / 1e3)} µs"


class ByteProgress:
    """Shows bytes a second and the time to go of each step on a terminal; silent elsewhere. Use it as a context."""

    def __init__(self, quiet: bool) -> None:
        console = Console(stderr=True)
        columns = (TextColumn("{task.description}"), BarColumn(), TransferSpeedColumn(), TimeRemainingColumn())
        self._progress = Progress(*columns, console=console, transient=True) if console.is_terminal else None
        if quiet:
            self._progress = None
        self._tasks: dict[str, int] = {}

    def __enter__(self) -> ByteProgress:
        if self._progress:
            self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._progress:
            self._progress.stop()

    def show(self, what: str, done: int, total: int) -> None:
        """Move the bar of one step."""
        if self._progress is None:
            return
        if what not in self._tasks:
            self._tasks[what] = self._progress.add_task(what, total=total)
        self._progress.update(self._progress.task_ids[list(self._tasks).index(what)], completed=done)
