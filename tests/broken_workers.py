"""What a worker process may do wrong: stand-ins for `worker._serve` that break on every `down` tensor.

A spawned child imports this module by name, so the faults work where a monkeypatch of the parent cannot reach.
"""

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

from mmvq_cli import worker
from mmvq_cli.errors import EnvironmentInvalid
from mmvq_cli.session import Session


def _serve_with(fault):
    def serve(connection, settings):
        real = worker.run_case

        def run_case(case, session, recorder, observe):
            if "down" in case.id:
                observe("check")
                fault()
            return real(case, session, recorder, observe)

        worker.run_case = run_case
        worker._serve(connection, settings)

    return serve


def _raise():
    raise ZeroDivisionError("a bug of ours")


def exits(connection, settings):
    _serve_with(lambda: os._exit(7))(connection, settings)


def is_killed(connection, settings):
    _serve_with(lambda: os.kill(os.getpid(), signal.SIGKILL))(connection, settings)


def hangs(connection, settings):
    _serve_with(lambda: time.sleep(60))(connection, settings)


def raises(connection, settings):
    _serve_with(_raise)(connection, settings)


def cannot_open(connection, settings):
    connection.send(("error", EnvironmentInvalid("no such device", "plug one in")))


def dies_at_once(connection, settings):
    os._exit(3)


def leaves_after_a_case(connection, settings):
    """Answers its first case and is gone before the second is sent."""
    session = Session(settings)
    connection.send(("device", (session.engine.device, None)))
    case, identity = connection.recv()
    recorder = worker._recorder(case, identity, settings, session.engine.device)
    connection.send(("record", worker.run_case(case, session, recorder).to_json()))
    connection.close()
    os._exit(0)


def tells_its_handler(connection, settings):
    connection.send(("error", EnvironmentInvalid(f"Ctrl-C is {signal.getsignal(signal.SIGINT)!r}")))


def _serve_without_look(fault, connection, settings):
    worker.Session.look = lambda session: fault()
    worker._serve(connection, settings)


def cannot_look(connection, settings):
    _serve_without_look(_raise, connection, settings)


def dies_of_a_look(connection, settings):
    _serve_without_look(lambda: os._exit(9), connection, settings)


@dataclass(frozen=True)
class goes_away:  # noqa: N801 (used like the functions here)
    """Dies on a `down` tensor, and finds no device from then on; `mark` is the file that tells."""

    mark: Path

    def __call__(self, connection, settings):
        if self.mark.exists():
            cannot_open(connection, settings)
        else:
            _serve_with(self._leave)(connection, settings)

    def _leave(self):
        self.mark.write_text("")
        os._exit(1)
