"""A timed run on a GPU looks at the machine and keeps it to itself: with a made worker, without a GPU."""

from dataclasses import replace
from types import SimpleNamespace

import pytest

from mmvq_cli import runner as runner_module
from mmvq_cli.measure import Canary, DeviceState
from mmvq_cli.op import find_device
from mmvq_cli.record import Status, TimeStatistics, read_looks, read_records
from mmvq_cli.runner import run_suite
from mmvq_cli.session import Reading, RunSettings
from mmvq_cli.worker import row_id
from tests.record.factory import SAMPLES_NS, make_record
from tests.test_runner import SUITE, Watcher

SETTINGS = RunSettings(engine="cuda")
H200 = replace(find_device("H200"), name="NVIDIA H200")


def reading(gb_s=4550.0, *, checksum_ok=True, **state):
    n_bytes = 4 * 2**30
    return Reading(Canary(n_bytes, n_bytes / gb_s, (132, 512), checksum_ok), DeviceState(**state))


class GpuWorker:
    """Passes every case; its looks come from a list, None for a device that fails."""

    looks: list
    uuid = "GPU-1"
    device = H200

    def __init__(self, settings):
        self.events = type(self).events

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def look(self):
        self.events.append("look")
        return self.looks.pop(0)

    def run(self, case, identity, observe):
        self.events.append(case.id)
        return make_record(
            ids__row_id=row_id(case, SETTINGS, H200),
            ids__case_id=case.id,
            ids__run_id=identity.run_id,
            timing__gpu_ns=TimeStatistics.of(SAMPLES_NS).model_dump(),
            env__canary_gbps={"start": 4550.0},
        )


@pytest.fixture
def gpu(monkeypatch, tmp_path):
    """`run(looks)` runs the suite of four cases; gives result, watcher and the worker's events."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "runtime"))

    def run(*looks, settings=SETTINGS, **options):
        kind = type("FreshWorker", (GpuWorker,), {"looks": list(looks), "events": []})
        monkeypatch.setattr(runner_module, "Worker", kind)
        # Plans instead of kernels, and what was looked at before.
        monkeypatch.setattr(
            runner_module, "build_ahead", lambda plans, notify: notify(len(kind.events), len(list(plans)))
        )
        watcher = Watcher(tmp_path)
        return run_suite(SUITE, settings, tmp_path, watcher, **options), watcher, kind.events

    return run


def canaries(records):
    return [tuple(record.env.canary_gbps.model_dump().values()) for record in records]


def test_looks_are_taken_before_half_way_and_after(gpu):
    result, watcher, events = gpu(reading(4556.0), reading(4552.0), reading(4559.0))
    a, b, c, d = (case.id for case in SUITE.cases)
    assert events == ["look", a, b, "look", c, d, "look"]
    assert canaries(result.records) == [(4556.0, 4552.0, 4559.0)] * 4
    assert list(read_records(result.path)) == list(result.records)
    assert [look.point for look in read_looks(result.path)] == ["start", "mid", "end"]
    assert (watcher.warnings, result.problems, result.exit_code) == ([], (), 0)


def test_kernels_are_built_before_anything_is_looked_at_and_only_for_what_is_pending(gpu):
    _, watcher, _ = gpu(reading(), reading(), reading())
    assert watcher.built == [(0, 4)]
    _, watcher, _ = gpu(resume=True)
    assert watcher.built == [(0, 0)]


@pytest.mark.parametrize(
    ("looks", "words"),
    [
        ((reading(), reading(4490.0), reading()), "reaches 4490 GB/s, this device gives 4500"),
        ((reading(4800.0), reading(4600.0), reading(4800.0)), "changed by 4.3 %"),
        ((reading(), reading(checksum_ok=False), reading()), "do not add up"),
    ],
)
def test_a_disturbed_machine_makes_the_run_invalid(gpu, looks, words):
    result, watcher, _ = gpu(*looks)
    (problem,) = result.problems
    assert words in problem
    assert watcher.warnings == [f"no time of this run is valid: {problem}"]
    assert result.exit_code == 4
    assert {record.status for record in result.records} == {Status.PASSED}


def test_what_nvml_sees_is_said_once_and_kept(gpu):
    busy = reading(foreign_pids_n=1, throttle_bits=0x20, temp_c=70.0)
    result, watcher, _ = gpu(busy, busy, reading())
    assert watcher.warnings == ["1 other compute processes use the GPU", "the GPU is slowed down by heat"]
    assert result.exit_code == 0
    states = [look.state for look in read_looks(result.path)]
    assert [(state.foreign_pids_n, state.throttle_bits) for state in states] == [(1, 0x20), (1, 0x20), (None, None)]


def test_without_nvml_there_is_one_warning(gpu):
    bare = replace(reading(), state=None)
    result, watcher, _ = gpu(bare, bare, bare)
    assert watcher.warnings == ["NVML does not tell clocks and other processes"]
    assert [look.state for look in read_looks(result.path)] == [None] * 3


def test_a_look_that_fails_costs_only_itself(gpu):
    result, _, _ = gpu(reading(), None, None)
    assert canaries(result.records) == [(4550.0, None, None)] * 4
    assert len(result.records) == 4


def test_a_resumed_run_looks_anew_and_a_finished_one_does_not(gpu):
    first, _, _ = gpu(reading(), reading(), reading())
    again, _, events = gpu(resume=True)
    assert events == []
    assert again.records == first.records
    lines = first.path.read_text().splitlines()
    first.path.write_text("\n".join(lines[:3]) + "\n")  # killed after the second case
    result, _, events = gpu(reading(4530.0), reading(4540.0), reading(4535.0), resume=True)
    assert events.count("look") == 3
    assert canaries(result.records) == [(4550.0, None, None)] * 2 + [(4530.0, 4540.0, 4535.0)] * 2
    assert list(read_records(result.path)) == list(result.records)


def test_a_run_without_times_neither_looks_nor_locks(gpu, monkeypatch):
    def refuse(*_):
        raise AssertionError("no lock for a check")

    monkeypatch.setattr(runner_module, "device_lock", refuse)
    _, _, events = gpu(settings=replace(SETTINGS, timed=False))
    assert "look" not in events


def test_a_timed_run_holds_the_lock_of_its_gpu(gpu, monkeypatch, tmp_path):
    import fcntl

    held = []

    def try_lock(self):
        with (tmp_path / "runtime" / "mmvq" / "GPU-1.lock").open() as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                held.append(False)
            except BlockingIOError:
                held.append(True)
        return reading()

    monkeypatch.setattr(GpuWorker, "look", try_lock)
    gpu()
    assert held == [True] * 3


def test_a_gpu_that_a_driver_cannot_name_is_not_locked(gpu, monkeypatch):
    monkeypatch.setattr(GpuWorker, "uuid", None)
    monkeypatch.setattr(runner_module, "device_lock", lambda *_: SimpleNamespace())
    result, _, _ = gpu(reading(), reading(), reading())
    assert result.exit_code == 0
