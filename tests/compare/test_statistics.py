"""Small functions against published values, and the properties that they must have."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmvq_cli.compare.statistics import (
    Estimate,
    binomial_upper,
    block_difference,
    log_ratio,
    mean_of,
    next_of,
    t_cdf,
    t_quantile,
)
from mmvq_cli.errors import UsageError


# Student's t, two-sided tables of every textbook.
@pytest.mark.parametrize(
    ("probability", "degrees", "value"),
    [(0.975, 1, 12.7062), (0.975, 9, 2.2622), (0.995, 9, 3.2498), (0.95, 30, 1.6973), (0.995, 1e6, 2.5758)],
)
def test_t_quantiles_of_the_tables(probability, degrees, value):
    assert t_quantile(probability, degrees) == pytest.approx(value, rel=1e-4)


@given(st.floats(0.001, 0.999), st.floats(1, 200))
def test_the_quantile_inverts_the_distribution(probability, degrees):
    assert t_cdf(t_quantile(probability, degrees), degrees) == pytest.approx(probability, abs=1e-7)


@pytest.mark.parametrize(("probability", "degrees"), [(0.0, 3), (1.0, 3), (0.9, 0)])
def test_there_is_no_quantile_without_a_distribution(probability, degrees):
    with pytest.raises(UsageError, match="no t quantile"):
        t_quantile(probability, degrees)


def test_the_bound_of_no_event_is_the_rule_of_three():
    assert binomial_upper(0, 200) == pytest.approx(1 - 0.05 ** (1 / 200), rel=1e-6)
    assert binomial_upper(5, 5) == 1.0


@given(st.integers(0, 2**31), st.floats(0.5, 2))
@settings(max_examples=20, deadline=None)
def test_log_ratio_is_antisymmetric_and_scales(seed, factor):
    rng = np.random.default_rng(seed)
    a, b = rng.normal(1000, 10, 12), rng.normal(1100, 10, 15)
    forward, backward = log_ratio(a, b), log_ratio(b, a)
    assert forward.difference == pytest.approx(-backward.difference)
    assert forward.standard_error == pytest.approx(backward.standard_error)
    assert log_ratio(a, b * factor).difference == pytest.approx(forward.difference + math.log(factor))
    assert forward.degrees == 11


def test_the_interval_of_a_ratio_covers_the_truth():
    rng = np.random.default_rng(1)
    covered = 0
    for _ in range(150):
        estimate = log_ratio(rng.normal(1000, 20, 12), rng.normal(1050, 20, 12))
        covered += abs(estimate.difference - math.log(1.05)) <= estimate.half_width(0.025)
    assert covered >= 0.9 * 150  # of 95 % intervals


def test_the_mean_of_blocks_has_the_error_of_a_mean():
    estimate = mean_of([0.01, 0.03])
    assert (estimate.difference, estimate.degrees) == (pytest.approx(0.02), 1)
    assert estimate.standard_error == pytest.approx(0.01)


def test_the_next_value_is_less_certain_than_the_mean():
    history = [0.0, 0.01, -0.01, 0.0]
    estimate = next_of(history, 0.05)
    assert estimate.difference == pytest.approx(0.05)
    assert estimate.standard_error == pytest.approx(np.std(history, ddof=1) * math.sqrt(1.25))


def test_a_block_sees_the_ratio_of_medians():
    rng = np.random.default_rng(0)
    base = np.exp(rng.normal(0, 0.5, (3, 4, 33)))
    assert block_difference(base, base * 1.05) == pytest.approx(math.log(1.05) * np.ones((3, 4)))


def test_half_width_grows_with_certainty():
    estimate = Estimate(0.0, 0.01, 9)
    assert estimate.half_width(0.005) == pytest.approx(0.032498, rel=1e-4)
    assert estimate.half_width(0.0005) > estimate.half_width(0.005)
