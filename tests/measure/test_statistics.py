import math
from bisect import bisect_left

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmvq_cli.errors import UsageError
from mmvq_cli.measure import median_interval, summarize

times = st.lists(st.floats(1.0, 1e9), min_size=1, max_size=60)


def exact_interval(samples, level=0.95):
    """Order statistics that cover the median of independent samples with at least `level`, by the binomial law."""
    ordered, n = sorted(samples), len(samples)
    tails = np.cumsum([math.comb(n, k) / 2**n for k in range(n)])
    k = max(0, bisect_left(tails, (1 - level) / 2) - 1)
    return ordered[k], ordered[n - 1 - k]


def drifting(rng, n, phi):
    """Times around 1000 ns whose neighbours correlate with `phi`; their median is 1000."""
    noise = rng.normal(size=n)
    for i in range(1, n):
        noise[i] = phi * noise[i - 1] + math.sqrt(1 - phi * phi) * noise[i]
    return 1000 + 10 * noise


@given(times)
def test_summary_is_ordered_and_inside_the_samples(samples):
    s = summarize(samples)
    assert min(samples) == s.min <= s.p05 <= s.q1 <= s.median <= s.q3 <= s.p95 <= s.max == max(samples)
    assert s.min * (1 - 1e-12) <= s.mean <= s.max * (1 + 1e-12)


@given(times, st.floats(0.5, 2000))
def test_summary_scales_with_the_unit(samples, factor):
    one, other = summarize(samples), summarize([factor * x for x in samples])
    assert other.median == pytest.approx(factor * one.median)
    assert other.cv == pytest.approx(one.cv, rel=1e-6, abs=1e-9)
    assert other.iqr_rel == pytest.approx(one.iqr_rel, rel=1e-6, abs=1e-9)


def test_summary_of_known_samples():
    s = summarize([1, 2, 3, 4, 5])
    assert (s.p05, s.q1, s.median, s.q3, s.p95, s.mean) == (1.2, 2, 3, 4, 4.8, 3)
    assert s.cv == pytest.approx(math.sqrt(2.5) / 3)
    assert s.iqr_rel == pytest.approx(2 / 3)
    assert summarize([7]).cv == 0


@pytest.mark.parametrize("samples", [[], [1.0, 0.0], [-1.0], [math.nan], [math.inf]])
@pytest.mark.parametrize("statistic", [summarize, median_interval])
def test_impossible_samples_are_refused(statistic, samples):
    with pytest.raises(UsageError):
        statistic(samples)


@given(times)
def test_interval_holds_its_median_and_repeats(samples):
    interval = median_interval(samples, n_resamples=100)
    assert min(samples) <= interval.low_ns <= interval.high_ns <= max(samples)
    assert interval == median_interval(samples, n_resamples=100)
    assert interval.median_ns == np.median(samples)


def test_relative_half_width():
    interval = median_interval([990.0, 1000.0, 1010.0] * 30)
    assert interval.relative_half_width == (interval.high_ns - interval.low_ns) / 2 / 1000


def test_interval_of_independent_samples_is_as_wide_as_the_exact_one():
    rng = np.random.default_rng(1)
    bootstrap, exact = [], []
    for _ in range(60):
        samples = drifting(rng, 100, phi=0.0)
        interval = median_interval(samples, n_resamples=300)
        bootstrap.append(interval.high_ns - interval.low_ns)
        low, high = exact_interval(samples)
        exact.append(high - low)
    assert 0.8 < np.mean(bootstrap) / np.mean(exact) < 1.1


@pytest.mark.parametrize(("n", "phi", "least"), [(30, 0.0, 0.89), (100, 0.0, 0.90), (100, 0.5, 0.80)])
def test_interval_covers_the_true_median(n, phi, least):
    rng = np.random.default_rng(2)
    intervals = [median_interval(drifting(rng, n, phi), n_resamples=300) for _ in range(300)]
    covered = np.mean([interval.low_ns <= 1000 <= interval.high_ns for interval in intervals])
    assert covered > least


def test_blocks_widen_the_interval_of_drifting_samples():
    rng = np.random.default_rng(3)
    samples = drifting(rng, 300, phi=0.8)
    shuffled = rng.permutation(samples)
    assert median_interval(samples).relative_half_width > 1.2 * median_interval(shuffled).relative_half_width
