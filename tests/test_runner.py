"""A whole run: every record on disk before the next case, resuming, the time budget, the exit code."""

from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import pytest

from mmvq_cli import runner as runner_module
from mmvq_cli.engine import cpu
from mmvq_cli.errors import ExitCode
from mmvq_cli.record import Status, read_records
from mmvq_cli.recording import CaseRecorder
from mmvq_cli.run import run_case
from mmvq_cli.runner import RunResult, run_suite
from mmvq_cli.session import RunSettings, Session
from mmvq_cli.suite import Axes, model_suite
from tests.record.factory import make_record

MODEL = Path(__file__).parent / "data" / "models" / "qwen3moe-Q4_K_M.gguf"
SUITE = model_suite(MODEL, Axes(tokens=(1,)))
SETTINGS = RunSettings(engine="cpu", timed=False)


class HereWorker:
    """Runs cases in this process; interrupts, as Ctrl-C would, before the cases in `stop_before`."""

    ran: ClassVar = []
    stop_before = ""
    status: ClassVar = {}

    def __init__(self, settings):
        self._session = Session(settings)
        self.device = self._session.engine.device

    uuid = None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def run(self, case, identity, observe):
        if self.stop_before and self.stop_before in case.id:
            raise KeyboardInterrupt
        self.ran.append(case.id)
        recorder = CaseRecorder(case, identity.run_id, identity.suite, self.device, 1, False)
        recorder.facts = self._session.facts
        for part, status in self.status.items():
            if part in case.id:
                return recorder.failed(status, "made so")
        return run_case(case, self._session, recorder, observe)


class Watcher:
    """An observer that reads the run's file at every step."""

    def __init__(self, folder):
        self.folder, self.seen, self.on_disk, self.warnings, self.built = folder, [], [], [], []
        self.path = None

    def opened(self, path):
        self.path = path

    def building(self, done, total):
        self.built.append((done, total))

    def started(self, case, index, total):
        self.seen.append((case.id, index, total))

    def phase(self, name):
        pass

    def warned(self, text):
        self.warnings.append(text)

    def finished(self, record):
        (path,) = self.folder.glob("*.jsonl")
        self.on_disk.append(len(list(read_records(path))))


@pytest.fixture
def worker(monkeypatch):
    kind = type("FreshWorker", (HereWorker,), {"ran": [], "stop_before": "", "status": {}})
    monkeypatch.setattr(runner_module, "Worker", kind)
    return kind


def run(folder, **options):
    watcher = Watcher(folder)
    return run_suite(SUITE, SETTINGS, folder, watcher, **options), watcher


def test_every_record_is_on_disk_when_it_is_announced(worker, tmp_path):
    result, watcher = run(tmp_path)
    assert watcher.on_disk == [1, 2, 3, 4]
    assert watcher.seen == [(case.id, i, 4) for i, case in enumerate(SUITE.cases)]
    assert list(read_records(result.path)) == list(result.records)
    assert [r.ids.case_id for r in result.records] == [case.id for case in SUITE.cases]
    assert {r.ids.run_id for r in result.records} == {result.path.stem}
    assert result.exit_code is ExitCode.OK


def test_a_wrong_result_makes_exit_code_3(worker, tmp_path, monkeypatch):
    """One kernel is broken on purpose, and the run expects it to fail."""
    real = cpu.execute

    def broken(plan, views, *rest):
        real(plan, views, *rest)
        if plan.descriptor.format.name == "Q6_K":
            cpu.engine.host_args(views, plan.descriptor).output[0, 0] += 1

    monkeypatch.setattr(cpu, "execute", broken)
    result, _ = run(tmp_path)
    assert [str(r.status) for r in result.records] == ["PASSED", "PASSED", "PASSED", "WRONG_RESULT"]
    assert result.exit_code == 3
    assert result.records[3].timing is None


def test_resume_goes_on_where_an_interrupt_came(worker, tmp_path):
    worker.stop_before = "down_exps/Q4_K"
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path)
    (path,) = tmp_path.glob("*.jsonl")
    assert len(list(read_records(path))) == 2
    worker.stop_before = ""
    worker.ran.clear()
    result, watcher = run(tmp_path, resume=True)
    assert [case_id.split("/")[1:] for case_id in worker.ran] == [c.id.split("/")[1:] for c in SUITE.cases[2:]]
    assert result.path == path
    assert [r.ids.case_id for r in result.records] == [case.id for case in SUITE.cases]
    assert [index for _, index, _ in watcher.seen] == [2, 3]


def test_resume_runs_again_what_broke_and_skips_what_was_judged(worker, tmp_path):
    worker.status = {"gate": Status.LAUNCH_ERROR, "up": Status.WRONG_RESULT}
    run(tmp_path)
    worker.status = {}
    worker.ran.clear()
    result, _ = run(tmp_path, resume=True)
    assert worker.ran == [SUITE.cases[0].id]
    assert [str(r.status) for r in result.records] == ["PASSED", "WRONG_RESULT", "PASSED", "PASSED"]
    assert result.exit_code == 3


def test_without_resume_a_run_starts_anew(worker, tmp_path):
    run(tmp_path)
    run(tmp_path / "other")
    assert len(worker.ran) == 8


def test_a_spent_time_budget_skips_the_rest(worker, tmp_path, monkeypatch):
    now = iter([0.0, 1.0, 2.0, 11.0, 12.0])
    monkeypatch.setattr(runner_module, "time", SimpleNamespace(monotonic=lambda: next(now)))
    result, _ = run(tmp_path, time_budget_s=10)
    statuses = [str(r.status) for r in result.records]
    assert statuses == ["PASSED", "PASSED", "SKIPPED", "SKIPPED"]
    assert result.records[2].correctness.reason == "the time budget of 10 s was spent"
    assert result.exit_code == 0


@pytest.mark.parametrize(
    ("statuses", "code"),
    [
        (["PASSED", "UNSUPPORTED", "SKIPPED", "OUT_OF_MEMORY"], 0),
        (["PASSED", "TIMEOUT"], 4),
        (["LAUNCH_ERROR"], 4),
        (["BUILD_ERROR", "PASSED"], 4),
        (["LAUNCH_ERROR", "WRONG_RESULT"], 3),
    ],
)
def test_the_exit_code_is_that_of_the_worst_status(statuses, code, tmp_path):
    records = tuple(make_record(Status(status)) for status in statuses)
    assert RunResult(records, tmp_path).exit_code == code
