"""The state of a GPU by a fake NVML."""

import os
import sys

import pytest

from mmvq_cli.measure import DeviceState, Watch, open_nvml
from tests.measure.fake_nvml import FakeNvml


def state_of(**fake):
    return open_nvml("GPU-1", FakeNvml(**fake)).state()


def test_everything_is_asked_and_nothing_is_set():
    assert state_of(pids=(os.getpid(),)) == DeviceState(
        sm_mhz=1980, sm_max_mhz=1980, mem_mhz=3201, power_w=412.5, temp_c=61, slowdown_temp_c=87, throttle_bits=0,
        foreign_pids_n=0, ecc=True, mig=False, persistence=True,
    )  # fmt: skip


def test_what_a_driver_does_not_tell_is_unknown():
    everything = ("clock", "power", "temperature", "threshold", "bits", "pids", "ecc", "mig", "persistence")
    assert state_of(refused=everything) == DeviceState()
    assert state_of(refused=("power",)).power_w is None
    assert DeviceState().problems == ()


@pytest.mark.parametrize(
    ("pids", "foreign"),
    [
        ((), 0),
        ((os.getpid(),), 0),
        ((os.getpid(), 1), 1),
        ((77,), 0),  # a container: this process under the host's number
        ((77, 78), 1),
    ],
)
def test_this_process_is_not_foreign(pids, foreign):
    assert state_of(pids=pids).foreign_pids_n == foreign


@pytest.mark.parametrize(
    ("state", "words"),
    [
        (DeviceState(foreign_pids_n=2), "2 other compute processes"),
        (DeviceState(throttle_bits=0x40), "slowed down by heat"),
        (DeviceState(throttle_bits=0x88), "slowed down by slowdown and power brake"),
        (DeviceState(temp_c=84, slowdown_temp_c=87), "it is hot from 84 °C"),
        (DeviceState(temp_c=85), "hot from 85"),
        (DeviceState(mig=True), "MIG"),
    ],
)
def test_each_problem_is_a_sentence(state, words):
    (problem,) = state.problems
    assert words in problem


def test_idle_and_power_capped_cards_are_no_problem():
    assert DeviceState(throttle_bits=0x5, temp_c=83, slowdown_temp_c=87, foreign_pids_n=0, mig=False).problems == ()


def test_without_nvml_there_is_nothing_to_open(monkeypatch):
    assert open_nvml(None, FakeNvml()) is None
    assert open_nvml("GPU-2", FakeNvml()) is None
    assert open_nvml("GPU-1", FakeNvml(refused=("init",))) is None
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert open_nvml("GPU-1") is None


def test_a_machine_without_a_driver_has_no_nvml():
    assert open_nvml("GPU-00000000-0000-0000-0000-000000000000") is None


class Card:
    """Clocks and throttle bits of one sample after the other; a sample takes 10 ms."""

    def __init__(self, looks):
        self.looks, self.fake, self.now_s = iter(looks), FakeNvml(), 0.0
        self.watch = Watch(open_nvml("GPU-1", self.fake), lambda: self.now_s)

    def sample(self):
        self.now_s += 0.01
        self.fake.sm_mhz, self.fake.bits = next(self.looks)
        return 1000.0


def test_a_watch_sums_up_clocks_and_reasons():
    card = Card([(1900, 0), (1200, 0), (1800, 0x40), (1200, 0), (1850, 0)])
    sample = card.watch.between(card.sample)
    assert [sample() for _ in range(5)] == [1000.0] * 5
    seen = card.watch.conditions()
    assert (seen.sm_start_mhz, seen.sm_min_mhz, seen.sm_end_mhz) == (1900, 1800, 1850)  # 20 ms apart: 1200 is not seen
    assert seen.throttle_bits == 0x40
    assert seen.after.power_w == 412.5


def test_a_reason_counts_from_one_look_in_twenty():
    card = Card([(1900, 0x80 if i == 4 else 0x1) for i in range(80)])
    sample = card.watch.between(card.sample)
    for _ in range(80):
        sample()
    assert card.watch.conditions().throttle_bits == 0x1


def test_a_card_that_tells_nothing_leaves_the_conditions_open():
    watch = Watch(open_nvml("GPU-1", FakeNvml(refused=("clock", "bits"))))
    watch.between(lambda: 1.0)()
    seen = watch.conditions()
    assert (seen.sm_start_mhz, seen.sm_min_mhz, seen.sm_end_mhz, seen.throttle_bits) == (None, None, None, None)
