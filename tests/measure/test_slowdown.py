"""Launches that take a known share longer."""

from itertools import pairwise

import pytest

from mmvq_cli.measure import with_extra_launches, with_idle_time


@pytest.mark.parametrize(
    ("n", "share", "extra"), [(16, 0.1, 2), (100, 0.05, 5), (8, 0.01, 1), (4, 1.0, 4), (3, 2.0, 6)]
)
def test_extra_launches_are_spread_and_far_from_the_launch_they_follow(n, share, extra):
    seen = []
    slowed = with_extra_launches(lambda i, stream: seen.append(i), n, share)
    for i in range(n):
        slowed(i, None)
    assert len(seen) == n + extra
    assert sorted(set(seen)) == list(range(n))
    if share <= 1:
        assert all(a != b for a, b in pairwise(seen))


def test_idle_time_is_the_share_of_the_launch():
    now = [0]

    def clock():
        now[0] += 1
        return now[0]

    def launch(i):
        now[0] += 1000

    with_idle_time(launch, 0.5, clock)(0)
    assert now[0] == pytest.approx(1500, abs=10)
