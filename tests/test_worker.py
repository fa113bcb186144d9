"""The worker process: real cases, and every way in which a child can let its parent down."""

import signal
import time
from dataclasses import replace
from pathlib import Path

import pytest

from mmvq_cli import worker as worker_module
from mmvq_cli.errors import EnvironmentInvalid, MmvqError
from mmvq_cli.record import Status
from mmvq_cli.session import RunSettings
from mmvq_cli.suite import Axes, model_suite
from mmvq_cli.worker import RunIdentity, Worker, row_id, skipped
from tests import broken_workers

MODEL = Path(__file__).parent / "data" / "models" / "qwen3moe-Q4_K_M.gguf"
GATE, _, DOWN, _ = model_suite(MODEL, Axes(tokens=(1,))).cases
SETTINGS = RunSettings(engine="cpu", timed=False)
IDENTITY = RunIdentity("run", "suite", None)


def test_a_case_runs_in_the_child_and_its_record_comes_back():
    phases = []
    with Worker(SETTINGS) as worker:
        record = worker.run(GATE, IDENTITY, phases.append)
        assert worker.run(DOWN, IDENTITY).status is Status.PASSED
        assert worker.device.backend == "cpu"
    assert record.status is Status.PASSED
    assert (record.ids.case_id, record.ids.run_id, record.ids.suite) == (GATE.id, "run", "suite")
    assert record.ids.row_id == row_id(GATE, SETTINGS, worker._device)
    assert record.kernel.dequantizer
    assert phases == ["load", "build", "check"]


@pytest.mark.parametrize(
    ("serve", "words"),
    [
        (broken_workers.exits, "the process died in phase check (exit code 7)"),
        (broken_workers.is_killed, "the process died in phase check (SIGKILL)"),
        (broken_workers.raises, "ZeroDivisionError: a bug of ours"),
    ],
)
def test_a_child_that_breaks_ends_only_its_own_case(monkeypatch, capfd, serve, words):
    monkeypatch.setattr(worker_module, "_serve", serve)
    with Worker(SETTINGS) as worker:
        broken = worker.run(DOWN, IDENTITY)
        assert broken.status is Status.LAUNCH_ERROR
        assert words in broken.correctness.reason
        assert worker.run(GATE, IDENTITY).status is Status.PASSED
    assert "Traceback" not in capfd.readouterr().err


def test_a_child_that_hangs_is_ended(monkeypatch):
    monkeypatch.setattr(worker_module, "_serve", broken_workers.hangs)
    start_s = time.monotonic()
    with Worker(replace(SETTINGS, case_timeout_s=0.5)) as worker:
        record = worker.run(DOWN, IDENTITY)
        assert record.status is Status.TIMEOUT
        assert record.correctness.reason == "no result after 0.5 s, in phase check"
        assert worker._process is None
    assert time.monotonic() - start_s < 30


def test_a_child_that_left_between_two_cases_is_a_record_too(monkeypatch):
    monkeypatch.setattr(worker_module, "_serve", broken_workers.leaves_after_a_case)
    with Worker(SETTINGS) as worker:
        assert worker.run(GATE, IDENTITY).status is Status.PASSED
        worker._process.join(10)
        assert worker.run(GATE, IDENTITY).status is Status.LAUNCH_ERROR


def test_what_opening_the_engine_raises_is_raised_here(monkeypatch):
    monkeypatch.setattr(worker_module, "_serve", broken_workers.cannot_open)
    with Worker(SETTINGS) as worker, pytest.raises(EnvironmentInvalid, match="no such device") as caught:
        worker.run(GATE, IDENTITY)
    assert caught.value.hint == "plug one in"


def test_a_child_that_cannot_start_is_an_error_in_words(monkeypatch):
    monkeypatch.setattr(worker_module, "_serve", broken_workers.dies_at_once)
    with Worker(SETTINGS) as worker, pytest.raises(MmvqError, match=r"could not start \(exit code 3\)"):
        worker.run(GATE, IDENTITY)


def test_a_skipped_case_has_its_reason_and_the_row_of_a_run_one():
    from mmvq_cli.op import CPU

    record = skipped(GATE, IDENTITY, SETTINGS, CPU, "no time")
    assert (record.status, record.correctness.reason) == (Status.SKIPPED, "no time")
    assert record.ids.row_id == row_id(GATE, SETTINGS, CPU)
    assert row_id(GATE, replace(SETTINGS, timed=True), CPU) != record.ids.row_id


def test_the_child_ignores_ctrl_c_from_its_start_and_the_parent_does_not(monkeypatch):
    monkeypatch.setattr(worker_module, "_serve", broken_workers.tells_its_handler)
    before = signal.getsignal(signal.SIGINT)
    with Worker(SETTINGS) as worker, pytest.raises(EnvironmentInvalid, match="SIG_IGN"):
        worker.run(GATE, IDENTITY)
    assert signal.getsignal(signal.SIGINT) is before is not signal.SIG_IGN


def test_a_look_comes_from_the_child_and_cases_go_on():
    with Worker(SETTINGS) as worker:
        assert worker.uuid is None  # a CPU
        reading = worker.look()
        assert worker.run(GATE, IDENTITY).status is Status.PASSED
    assert reading.gb_s > 0
    assert reading.state is None


@pytest.mark.parametrize("serve", [broken_workers.cannot_look, broken_workers.dies_of_a_look])
def test_a_look_that_fails_is_none_and_the_child_is_replaced(monkeypatch, serve):
    with Worker(SETTINGS) as worker:
        with monkeypatch.context() as patch:
            patch.setattr(worker_module, "_serve", serve)
            assert worker.look() is None
        assert worker.run(GATE, IDENTITY).status is Status.PASSED


def test_a_record_knows_its_place_in_its_process():
    with Worker(SETTINGS) as worker:
        orders = [worker.run(case, IDENTITY).protocol.order_in_block for case in (GATE, DOWN)]
        worker.close()
        orders.append(worker.run(GATE, IDENTITY).protocol.order_in_block)
    assert orders == [0, 1, 0]


def test_a_child_whose_device_may_be_broken_is_replaced_at_once(monkeypatch):
    monkeypatch.setattr(worker_module, "_serve", broken_workers.raises)
    with Worker(SETTINGS) as worker:
        assert worker.run(GATE, IDENTITY).status is Status.PASSED
        assert worker._process is not None
        assert worker.run(DOWN, IDENTITY).status is Status.LAUNCH_ERROR
        assert worker._process is None
