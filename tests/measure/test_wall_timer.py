from itertools import count

from mmvq_cli.measure import Overheads, WallTimer


def test_samples_one_launch_at_a_time_in_turn():
    seen, clock = [], count(0, 250)
    timer = WallTimer(seen.append, 3, clock_ns=lambda: next(clock))
    assert [timer.sample() for _ in range(5)] == [250.0] * 5
    assert seen == [0, 1, 2, 0, 1]
    assert timer.launches_per_sample == 1
    assert timer.overheads(1.0) == Overheads()
