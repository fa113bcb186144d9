"""One timed run at a time on each GPU."""

import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from mmvq_cli.measure import device_lock, lock

HOLD = """
import sys, time
from mmvq_cli.measure import device_lock
with device_lock(sys.argv[1], print):
    print("held", flush=True)
    time.sleep(float(sys.argv[2]))
"""
ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _folder(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))


def hold(uuid, seconds):
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, uuid, str(seconds)], stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    assert process.stdout.readline() == "held\n"
    return process


def test_a_run_waits_for_another_on_the_same_gpu_and_says_so():
    other, said = hold("GPU-1", 60), []
    entered = threading.Event()

    def run():
        with device_lock("GPU-1", said.append):
            entered.set()

    thread = threading.Thread(target=run)
    thread.start()
    assert not entered.wait(0.3)
    assert said == [f"waiting for another timed run on this GPU (process {other.pid})"]
    other.kill()  # a lock is not left behind, not even so
    assert entered.wait(10)
    thread.join()
    other.communicate()


def test_other_gpus_and_later_runs_do_not_wait():
    other, said = hold("GPU-1", 60), []
    start_s = time.monotonic()
    with device_lock("GPU-2", said.append):
        pass
    with device_lock("GPU-2", said.append):
        pass
    assert time.monotonic() - start_s < 5
    assert said == []
    other.kill()
    other.communicate()


def test_without_a_place_for_the_lock_the_run_goes_on(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "file"))
    said = []
    with device_lock("GPU-1", said.append):
        pass
    assert len(said) == 1
    assert "does not keep others from the GPU" in said[0]


def test_the_lock_lives_in_the_runtime_folder_or_the_cache(monkeypatch, tmp_path):
    assert lock.lock_folder() == tmp_path / "mmvq"
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert lock.lock_folder() == tmp_path / "cache" / "mmvq"
