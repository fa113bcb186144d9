"""What holds a case, on figures of an H200: 4,559 GB/s, 1.6 µs for a launch that does nothing."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmvq_cli.measure import bound_of


@pytest.mark.parametrize(
    ("time_ns", "n_bytes", "n_launches", "bound"),
    [
        (110_000, 475_000_000, 1, "mem"),
        (3_267, 73_728, 2, "launch"),
        (2_034_000, 1_831_000_000, 2, "compute"),
        (50_000, 66_000_000, 2, "compute"),
        (20_000, 66_000_000, 2, "mem"),
    ],
)
def test_the_larger_explanation_holds_the_case(time_ns, n_bytes, n_launches, bound):
    assert bound_of(time_ns, n_bytes, 4559.0, n_launches, 1600.0) == bound


@given(st.floats(1e3, 1e8), st.integers(1, 2**34), st.integers(1, 9))
def test_a_slower_kernel_is_never_closer_to_the_memory(time_ns, n_bytes, n_launches):
    fast, slow = (bound_of(t, n_bytes, 4559.0, n_launches, 1600.0) for t in (time_ns, 10 * time_ns))
    assert slow in (fast, "compute")
