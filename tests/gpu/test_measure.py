"""The timers and the canary on a real GPU."""

import ctypes
import time

import pytest

from mmvq_cli.errors import MmvqError
from mmvq_cli.measure import CudaCanary, GraphTimer, SamplingSettings, sample_until
from mmvq_cli.measure.canary import rounded_size

pytestmark = pytest.mark.gpu

N_BYTES = 64 * 2**20


@pytest.fixture(scope="module")
def device():
    from mmvq_cli.engine.cuda.device import current_device

    try:
        return current_device(0)
    except MmvqError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def canary(device):
    from mmvq_cli.engine.cuda.launch import load_kernel

    return CudaCanary(load_kernel, device)


@pytest.fixture(scope="module")
def read(device):
    """`read(n_bytes)` gives an enqueue that reads the first bytes of one buffer with `canary_read`."""
    import cupy

    from mmvq_cli.engine.cuda.launch import load_kernel

    kernel = load_kernel("canary_read", "canary.cu", ())
    data, total = cupy.cuda.alloc(N_BYTES), cupy.cuda.alloc(8)
    data.memset(1, N_BYTES)

    def reader(n_bytes):
        def enqueue(i, stream):
            args = (ctypes.c_uint64(data.ptr), ctypes.c_int64(n_bytes // 16), ctypes.c_uint64(total.ptr))
            kernel((2 * device.sm_count, 1, 1), (512, 1, 1), args, stream)

        return enqueue

    return reader


def time_ns(timer):
    samples = sample_until(timer.sample, SamplingSettings(max_samples=50)).samples_ns
    return sorted(samples)[len(samples) // 2]


def test_a_graph_launch_takes_as_long_as_in_any_graph(read):
    few, many = (time_ns(GraphTimer(read(N_BYTES), n)) for n in (16, 64))
    assert few == pytest.approx(many, rel=0.05)


def test_event_time_agrees_with_the_wall_clock(read):
    timer = GraphTimer(read(N_BYTES), 64)
    event_ns = time_ns(timer)
    start_ns = time.perf_counter_ns()
    for _ in range(20):
        timer.replay()
    wall_ns = (time.perf_counter_ns() - start_ns) / 20 / 64
    assert event_ns == pytest.approx(wall_ns, rel=0.1)


def test_overheads_are_plausible(read):
    timer = GraphTimer(read(2**20), 32)
    graph_ns = time_ns(timer)
    overheads = timer.overheads(graph_ns)
    print(f"graph {graph_ns:.0f} ns, {overheads}")
    assert 0 <= overheads.event_overhead_ns < 10_000
    assert 0.5 * graph_ns < overheads.isolated_latency_ns < graph_ns + 20_000
    assert -graph_ns < overheads.launch_overhead_ns < 1e6


def test_stream_canary_is_near_the_data_sheet(canary, device):
    result = canary.stream()
    print(f"{result}, {result.gb_s:.0f} GB/s")
    assert result.checksum_ok
    if device.bandwidth_gb_s:
        assert 0.5 < result.gb_s / device.bandwidth_gb_s < 1.02


@pytest.mark.parametrize("n_bytes", [1000, 100_000, 1_000_000, 7_000_000, 50_000_000, 400_000_000])
def test_size_matched_canary(canary, device, n_bytes):
    start_s = time.perf_counter()
    result = canary.size_matched(n_bytes)
    spent_s = time.perf_counter() - start_s
    print(f"{result}, {result.gb_s:.0f} GB/s in {spent_s:.2f} s")
    assert result.checksum_ok
    assert result.n_bytes == rounded_size(n_bytes)
    assert spent_s < 1.0
    if device.bandwidth_gb_s:
        assert result.gb_s < 1.02 * device.bandwidth_gb_s  # faster would be the cache


def test_a_wrong_word_is_seen(canary, monkeypatch):
    monkeypatch.setattr(canary._pattern, "sum_words", lambda n_bytes, word: 1)
    assert not canary.read(2**20).checksum_ok
