import pytest

from mmvq_cli.errors import LaunchError
from mmvq_cli.measure import GraphTimer
from tests.measure.fake_cupy import EVENT_CPU_NS


def timer_of(gpu, times_ns, cpu_ns=0):
    timer = GraphTimer(lambda i, stream: gpu.launch(times_ns[i], cpu_ns), len(times_ns))
    timer._clock_ns = lambda: gpu.cpu_ns
    return timer


def test_a_sample_is_the_mean_launch_of_one_replay(gpu):
    timer = timer_of(gpu, [1000, 3000] * 16)
    assert timer.launches_per_sample == 32
    assert [timer.sample() for _ in range(3)] == [2000.0] * 3


def test_cpu_time_does_not_enter_a_short_replay(gpu):
    """10 µs of GPU work against 10 µs of enqueueing: two replays ahead hide it, one does not."""
    timer = timer_of(gpu, [2500] * 4)
    assert timer.sample() == 2500.0
    assert timer._lead_replays == 2


def test_inputs_on_other_streams_are_waited_for(gpu):
    timer_of(gpu, [1000])
    assert gpu.device_syncs == 1


def test_isolated_latency_has_no_launch_gap(gpu):
    timer = timer_of(gpu, [2000, 9000] * 16, cpu_ns=400_000)
    assert timer.isolated_latency_ns() == pytest.approx(2000)


def test_an_empty_pair_costs_what_events_cost(gpu):
    timer = timer_of(gpu, [50_000] * 4)
    assert timer.event_overhead_ns() == 0  # on the fake GPU, events take CPU time alone


def test_launch_overhead_is_what_the_graph_saves(gpu):
    timer = timer_of(gpu, [2000] * 1000, cpu_ns=5000)
    assert timer.launch_overhead_ns(2000.0) == pytest.approx(5000 - 2000, rel=0.01)


def test_a_gpu_faster_than_its_feeding_gives_an_upper_bound(gpu):
    timer = timer_of(gpu, [10])
    assert 10 <= timer.sample() <= 10_000 + 2 * EVENT_CPU_NS


def test_overheads_come_together(gpu):
    overheads = timer_of(gpu, [20_000] * 8, cpu_ns=5000).overheads(20_000.0)
    assert overheads.isolated_latency_ns == pytest.approx(20_000)
    assert (overheads.event_overhead_ns, overheads.launch_overhead_ns) == (0, pytest.approx(625))


def test_a_failed_capture_is_closed(gpu):
    def enqueue(i, stream):
        if gpu.captured is not None:
            raise LaunchError("refused", "k")
        gpu.launch(1000)

    with pytest.raises(LaunchError, match="refused"):
        GraphTimer(enqueue, 2)
    assert gpu.captured is None


def test_a_device_failure_is_a_launch_error(gpu):
    timer = timer_of(gpu, [1000] * 32)
    gpu.failure = gpu.error("illegal address")
    for call in (timer.sample, timer.replay, lambda: timer.overheads(1.0)):
        with pytest.raises(LaunchError, match="illegal address"):
            call()
