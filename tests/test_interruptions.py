"""Whatever ends a run, no finished case is lost, and `--resume` completes it."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mmvq_cli import worker as worker_module
from mmvq_cli.errors import EnvironmentInvalid, OpenError
from mmvq_cli.record import RecordStore, Status, TruncatedRecordWarning, read_records
from mmvq_cli.runner import run_suite
from tests import broken_workers
from tests.test_runner import SETTINGS, SUITE, Watcher

ROOT = Path(__file__).parents[1]
MODEL = ROOT / "tests" / "data" / "models" / "qwen3moe-Q4_K_M.gguf"
CHECK = [sys.executable, "-m", "mmvq_cli", "check", str(MODEL), "--engine", "cpu", "--tokens", "1,2"]


def start(folder, *options):
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [*CHECK, "--results", str(folder), *options]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def resumed(folder):
    """The statuses of a run that goes on in this process."""
    result = run_suite(SUITE, SETTINGS, folder, Watcher(folder), resume=True)
    return [str(record.status) for record in result.records]


def test_a_killed_run_keeps_its_finished_cases(tmp_path):
    process = start(tmp_path)
    while not any(path.stat().st_size for path in tmp_path.glob("*.jsonl")):
        assert process.poll() is None
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate(timeout=20)
    (path,) = tmp_path.glob("*.jsonl")
    whole = [line for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]
    assert whole
    assert {json.loads(line)["correctness"]["status"] for line in whole} == {"PASSED"}


def test_a_line_that_a_kill_cut_is_made_again(tmp_path):
    first = run_suite(SUITE, SETTINGS, tmp_path, Watcher(tmp_path))
    text = first.path.read_bytes()
    first.path.write_bytes(text[: text.rindex(b"\n", 0, -1) + 500])
    with pytest.warns(TruncatedRecordWarning):
        assert resumed(tmp_path) == ["PASSED"] * 4
    assert len(list(read_records(first.path))) == 4


FULL_DISK = """
import resource, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
from mmvq_cli.cli.app import run
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]), resource.RLIM_INFINITY))
sys.exit(run(sys.argv[2:]))
"""


def test_a_full_disk_ends_the_run_in_words_and_keeps_what_fits(tmp_path):
    command = [sys.executable, "-c", FULL_DISK, "6000", *CHECK[3:], "--results", str(tmp_path)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    result = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert result.returncode == 4
    assert "error: cannot write" in result.stderr
    assert "hint: check the path, its permissions and the free space" in result.stderr
    assert "Traceback" not in result.stderr
    (path,) = tmp_path.glob("*.jsonl")
    with pytest.warns(TruncatedRecordWarning):
        kept = list(read_records(path))
    assert {record.status for record in kept} == {Status.PASSED}
    assert len(kept) >= 1


def test_a_disk_that_is_full_for_a_while_loses_one_case(tmp_path, monkeypatch):
    real, calls = RecordStore.append, []

    def append(self, record):
        calls.append(record)
        if len(calls) == 3:
            with self.path.open("ab") as file:
                file.write(record.to_json().encode()[:700])
            raise OpenError(f"cannot write {self.path}: No space left on device")
        real(self, record)

    monkeypatch.setattr(RecordStore, "append", append)
    with pytest.raises(OpenError, match="No space left"):
        run_suite(SUITE, SETTINGS, tmp_path, Watcher(tmp_path))
    with pytest.warns(TruncatedRecordWarning):
        assert resumed(tmp_path) == ["PASSED"] * 4
    (path,) = tmp_path.glob("*.jsonl")
    assert len(list(read_records(path))) == 4


def test_a_kernel_that_faults_ends_its_own_case_and_is_run_again(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(worker_module, "_serve", broken_workers.is_killed)
        result = run_suite(SUITE, SETTINGS, tmp_path, Watcher(tmp_path))
        assert [str(r.status) for r in result.records] == ["PASSED", "PASSED", "LAUNCH_ERROR", "LAUNCH_ERROR"]
        assert result.exit_code == 4
    assert resumed(tmp_path) == ["PASSED"] * 4


def test_a_gpu_that_goes_away_ends_the_run_and_keeps_what_was_done(tmp_path, monkeypatch):
    """The third case kills its process, and no new one can open the device."""
    with monkeypatch.context() as patch:
        patch.setattr(worker_module, "_serve", broken_workers.goes_away(tmp_path / "gone"))
        with pytest.raises(EnvironmentInvalid, match="no such device"):
            run_suite(SUITE, SETTINGS, tmp_path, Watcher(tmp_path))
    (path,) = tmp_path.glob("*.jsonl")
    assert [str(r.status) for r in read_records(path)] == ["PASSED", "PASSED", "LAUNCH_ERROR"]
    assert resumed(tmp_path) == ["PASSED"] * 4
