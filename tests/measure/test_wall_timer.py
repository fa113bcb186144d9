from itertools import count

from mmvq_cli.measure import Overheads, WallTimer


def test_samples_one_launch_at_a_time_in_turn():
    seen, clock = [], count(0, 250)
    timer = WallTimer(seen.append, 3, clock_ns=lambda: next(clock))
    assert [timer.sample() for _ in range(5)] == [250.0] * 5
    assert seen == [0, 1, 2, 0, 1]
    assert timer.launches_per_sample == 1
    assert timer.overheads(1.0) == Overheads()


def test_what_comes_before_a_launch_is_not_timed():
    now, events = [0], []

    def spend(name, ns):
        events.append(name)
        now[0] += ns

    timer = WallTimer(lambda i: spend(i, 100), 2, clock_ns=lambda: now[0], before_launch=lambda: spend("flush", 9_000))
    assert [timer.sample(), timer.sample()] == [100.0, 100.0]
    assert events == ["flush", 0, "flush", 1]
