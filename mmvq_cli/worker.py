"""Cases in a process of their own: a fault that poisons a CUDA context, a crash or a hang ends only its own case."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import count
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any

from mmvq_cli.errors import MmvqError
from mmvq_cli.op import Device
from mmvq_cli.record import Git, Record, Status
from mmvq_cli.recording import CaseRecorder
from mmvq_cli.run import run_case
from mmvq_cli.session import Reading, RunSettings, Session
from mmvq_cli.suite import Case

_POLL_S = 0.2
_LOOK = "look"  # asks the child for a reading instead of a case
_LOOK_TIMEOUT_S = 60.0
# After these the device may be unusable in the process that met them.
_POISONING = {Status.LAUNCH_ERROR, Status.TIMEOUT}


@dataclass(frozen=True, slots=True)
class RunIdentity:
    """What every record of a run repeats."""

    run_id: str
    suite: str
    git: Git | None


class Worker:
    """Runs cases one after the other in a child process, which is started on demand and replaced when it breaks."""

    def __init__(self, settings: RunSettings) -> None:
        self._settings = settings
        self._process: Any = None
        self._connection: Connection | None = None
        self._device: Device | None = None
        self._uuid: str | None = None

    def __enter__(self) -> Worker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def device(self) -> Device:
        """The engine's device, as the child sees it.

        Raises what opening the engine raised.
        """
        self._start()
        assert self._device is not None
        return self._device

    @property
    def uuid(self) -> str | None:
        """The GPU's identity, None on a CPU; raises like `device`."""
        self._start()
        return self._uuid

    def look(self) -> Reading | None:
        """Look at the machine; None when the device fails or hangs, and the child is replaced then."""
        self._start()
        assert self._connection is not None
        with suppress(EOFError, ConnectionError):
            self._connection.send(_LOOK)
            if self._connection.poll(_LOOK_TIMEOUT_S):
                kind, value = self._connection.recv()
                if kind == _LOOK:
                    return value  # type: ignore[no-any-return]
        self.close()
        return None

    def run(self, case: Case, identity: RunIdentity, observe: Callable[[str], None] = lambda phase: None) -> Record:
        """Run one case; a dead or hanging child is a record too."""
        self._start()
        assert self._connection is not None
        deadline = time.monotonic() + self._settings.case_timeout_s
        phase = "start"
        try:
            self._connection.send((case, identity))
            while True:
                if not self._connection.poll(_POLL_S):
                    if time.monotonic() > deadline:
                        reason = f"no result after {self._settings.case_timeout_s:g} s, in phase {phase}"
                        return self._ended(case, identity, Status.TIMEOUT, reason)
                    continue
                kind, value = self._connection.recv()
                if kind == "phase":
                    phase = value
                    observe(phase)
                elif kind == "record":
                    record = Record.from_json(value)
                    if record.status in _POISONING:
                        self.close()
                    return record
                else:
                    raise value
        except (EOFError, ConnectionError):
            return self._ended(case, identity, Status.LAUNCH_ERROR, f"the process died in phase {phase}{self._cause()}")

    def close(self) -> None:
        """End the child."""
        if self._process is None:
            return
        if self._connection is not None:
            self._connection.close()
        self._process.kill()
        self._process.join()
        self._process = self._connection = None

    def _start(self) -> None:
        if self._process is not None:
            return
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, self._settings), daemon=True)
        with _interrupts_ignored():
            self._process.start()
        theirs.close()
        try:
            kind, value = self._connection.recv()
        except EOFError:
            cause = self._cause()
            self.close()
            raise MmvqError(
                f"the worker process could not start{cause}", "`mmvq doctor` checks the installation"
            ) from None
        if kind == "error":
            self.close()
            raise value
        self._device, self._uuid = value

    def _cause(self) -> str:
        self._process.join(timeout=5)
        code = self._process.exitcode
        return f" ({signal.Signals(-code).name})" if code is not None and code < 0 else f" (exit code {code})"

    def _ended(self, case: Case, identity: RunIdentity, status: Status, reason: str) -> Record:
        device = self._device
        assert device is not None
        self.close()
        return _recorder(case, identity, self._settings, device).failed(status, reason)


@contextmanager
def _interrupts_ignored() -> Iterator[None]:
    """A child started in here ignores Ctrl-C from its first instruction; the parent does so only meanwhile."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def skipped(case: Case, identity: RunIdentity, settings: RunSettings, device: Device, reason: str) -> Record:
    """The record of a case that was not run."""
    return _recorder(case, identity, settings, device).failed(Status.SKIPPED, reason)


def row_id(case: Case, settings: RunSettings, device: Device) -> str:
    """The row id that the case's record will have."""
    return _recorder(case, RunIdentity("", "", None), settings, device).row_id


def _recorder(case: Case, identity: RunIdentity, settings: RunSettings, device: Device) -> CaseRecorder:
    draws_n = settings.draws_n if settings.timed else 1
    recorder = CaseRecorder(case, identity.run_id, identity.suite, device, draws_n, settings.timed)
    recorder.git = identity.git
    return recorder


def _serve(connection: Connection, settings: RunSettings) -> None:
    """The child: open the engine; answer each case with its phases and its record, each look with a reading."""
    try:
        session = Session(settings)
        device, uuid = session.engine.device, session.facts.get("uuid")
    except MmvqError as error:
        connection.send(("error", error))
        return
    connection.send(("device", (device, uuid)))
    order = count()
    while True:
        try:
            request = connection.recv()
        except (EOFError, OSError):
            return
        if request == _LOOK:
            connection.send(_reading(session))
            continue
        case, identity = request
        recorder = _recorder(case, identity, settings, device)
        recorder.facts = session.facts
        recorder.placed(next(order), settings.sampling.budget_s)
        try:
            record = run_case(case, session, recorder, lambda phase: connection.send(("phase", phase)))
            session.release()
        except MmvqError as error:
            connection.send(("error", error))
            return
        except Exception as error:  # a bug of ours or too little memory ends this case, not the run
            if os.environ.get("MMVQ_DEBUG"):
                raise
            reason = f"internal error in this case (MMVQ_DEBUG=1 shows all of it): {type(error).__name__}: {error}"
            record = recorder.failed(Status.LAUNCH_ERROR, reason)
        connection.send(("record", record.to_json()))


def _reading(session: Session) -> tuple[str, Reading | str]:
    try:
        return _LOOK, session.look()
    except Exception as error:  # a device that fails here fails in the next case too, and that one has a record
        return "error", str(error)
