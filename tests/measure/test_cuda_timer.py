import pytest

from mmvq_cli.errors import LaunchError
from mmvq_cli.measure import FlushTimer, GraphTimer
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


class CachedGpu:
    """Launches that take 500 ns when the launch before them ran the same, and 9,000 ns after a flush."""

    def __init__(self, gpu):
        self.gpu, self.flushes, self.resets = gpu, 0, 0
        self.is_cold = True
        self.times_ns = []

    def flush(self, stream):
        def empty():
            self.flushes += 1
            self.is_cold = True

        self.gpu.launch(60_000, effect=empty)

    def enqueue(self, i, stream):
        def warm():
            self.times_ns.append(9_000 if self.is_cold else 500)
            self.gpu.idle_from_ns += self.times_ns[-1]
            self.is_cold = False

        self.gpu.launch(1000 * (i + 1), effect=warm)

    def reset(self):
        self.resets += 1


def test_every_launch_is_timed_after_a_flush(gpu):
    cache = CachedGpu(gpu)
    timer = FlushTimer(cache.enqueue, 3, cache.flush, cache.reset)
    assert cache.flushes == 0  # what is captured has not run
    cache.times_ns.clear()
    samples = [timer.sample() for _ in range(4)]
    assert samples == [9_000 + (1000 + 2000 + 3000) / 3] * 4
    assert set(cache.times_ns) == {9_000}
    assert cache.flushes >= 12
    assert cache.resets == 4


def test_a_flush_shorter_than_the_enqueueing_is_repeated(gpu):
    timer = FlushTimer(lambda i, stream: gpu.launch(2000), 1, lambda stream: gpu.launch(9500), lambda: None)
    assert timer.sample() == 2000
    assert timer._lead_replays == 2


def test_the_overheads_of_a_flushed_launch_are_cold_too(gpu):
    cache = CachedGpu(gpu)
    timer = FlushTimer(cache.enqueue, 2, cache.flush, cache.reset)
    timer._clock_ns = lambda: gpu.cpu_ns
    assert timer.overheads(10_000).isolated_latency_ns == 10_000
