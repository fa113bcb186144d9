"""Outliers by medians."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmvq_cli.validate.robust import outliers


@given(st.integers(0, 2**32 - 1), st.integers(4, 200))
def test_normal_siblings_are_never_outliers(seed, n):
    values = np.exp(0.05 * np.random.default_rng(seed).standard_normal(n))
    assert list(outliers(values)) == []


@given(st.integers(0, 2**32 - 1), st.floats(6, 1e6), st.booleans())
def test_a_far_one_is_found_with_its_ratio(seed, ratio, small):
    values = 3 * np.exp(0.01 * np.random.default_rng(seed).standard_normal(16))
    values[5] = 3 / ratio if small else 3 * ratio
    ((index, seen),) = outliers(values)
    assert index == 5
    assert seen == pytest.approx(1 / ratio if small else ratio, rel=0.1)


def test_what_cannot_be_compared_takes_no_part():
    assert list(outliers(np.array([1.0, 1.0, 1.0, 1.0, np.nan, np.inf, 0.0, -5.0]))) == []
    assert list(outliers(np.array([1.0, 1.0, 100.0]))) == []
    assert list(outliers(np.array([1.0, 1.0, 1.0, 1.0, 0.01]), both=False)) == []
