from itertools import chain, count, repeat

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmvq_cli.measure import SamplingSettings, StopReason, sample_until


class Machine:
    """A mock of the timed device: each sample takes as long as it says, and nothing else takes time."""

    def __init__(self, times_ns):
        self.times_ns = iter(times_ns)
        self.now_s = 0.0
        self.taken = []

    def sample(self):
        time_ns = next(self.times_ns)
        self.taken.append(time_ns)
        self.now_s += time_ns / 1e9
        return time_ns

    def clock_s(self):
        return self.now_s


def run(times_ns, **settings):
    machine = Machine(times_ns)
    return sample_until(machine.sample, SamplingSettings(**settings), machine.clock_s), machine


def noisy(low, high):
    """Alternate between two times, so that the median stays unknown."""
    return chain.from_iterable(repeat((low, high, high, low)))


def test_stable_times_stop_at_the_first_look():
    samples, machine = run(repeat(1e6), warmup_min_s=0.0)
    assert samples.stop_reason is StopReason.PRECISION
    assert (samples.warmup_n, len(samples.samples_ns)) == (15, 10)
    assert len(machine.taken) == 25


def test_noise_runs_to_the_limit_of_samples():
    samples, _ = run(noisy(1e6, 2e6), max_samples=40)
    assert samples.stop_reason is StopReason.MAX_SAMPLES
    assert len(samples.samples_ns) == 40


def test_budget_ends_a_slow_case():
    samples, _ = run(noisy(1e9, 2e9), budget_s=4.5)
    assert samples.stop_reason is StopReason.BUDGET
    assert len(samples.samples_ns) in (3, 4)


def test_one_sample_is_taken_whatever_it_costs():
    samples, _ = run(repeat(60e9), budget_s=1.0)
    assert samples.samples_ns == (60e9,)
    assert (samples.warmup_n, samples.stop_reason) == (1, StopReason.BUDGET)


def test_warm_up_waits_for_the_times_to_settle():
    falling = chain((3e6 * 0.9**i for i in range(40)), repeat(3e6 * 0.9**40))
    samples, _ = run(falling, warmup_min_s=0.0)
    assert set(samples.samples_ns) == {3e6 * 0.9**40}
    assert 40 < samples.warmup_n <= 60


def test_warm_up_lasts_its_least_time():
    samples, _ = run(repeat(1e6), warmup_min_s=0.1)
    assert samples.warmup_n == 100


def test_warm_up_ends_at_its_longest_time():
    samples, _ = run((1e6 * 1.02**i for i in count()), warmup_max_s=0.05, max_samples=10)
    assert 20 < samples.warmup_n < 50


def test_samples_are_kept_in_order():
    times = [1e6 + i for i in range(200)]
    samples, machine = run(times, warmup_min_s=0.0, precision=1e-9, max_samples=100)
    assert list(samples.samples_ns) == machine.taken[samples.warmup_n :]


@given(
    st.lists(st.floats(1e3, 1e9), min_size=1, max_size=30),
    st.integers(1, 20),
    st.integers(1, 60),
    st.floats(0, 3),
)
def test_every_limit_holds(times_ns, min_samples, max_samples, budget_s):
    samples, _ = run(
        chain.from_iterable(repeat(times_ns)),
        min_samples=min_samples,
        max_samples=max_samples,
        budget_s=budget_s,
        warmup_max_s=0.01,
        warmup_min_s=0.0,
    )
    n, spent_s = len(samples.samples_ns), sum(samples.samples_ns) / 1e9
    assert 1 <= n <= max(1, max_samples)
    assert spent_s - samples.samples_ns[-1] / 1e9 <= budget_s + 1e-9
    if samples.stop_reason is StopReason.PRECISION:
        assert n >= min_samples
    elif samples.stop_reason is StopReason.BUDGET:
        assert spent_s >= budget_s - 1e-9
    else:
        assert n == max_samples


@pytest.mark.parametrize("precision", [0.02, 0.005])
def test_a_tighter_precision_needs_more_samples(precision):
    times = np.random.default_rng(0).normal(1e6, 2e4, 1000)
    samples, _ = run(times, precision=precision, max_samples=300)
    assert samples.stop_reason is StopReason.PRECISION
    assert (len(samples.samples_ns) > 20) == (precision == 0.005)
