import ctypes

import numpy as np
import pytest

from mmvq_cli.measure import CudaCanary
from mmvq_cli.op import Device

L2_BYTES = 2**20
DEVICE = Device(name="fake", backend="cuda", sm_count=4, l2_bytes=L2_BYTES)
FASTEST = (8, 512)  # two blocks on each of the four multiprocessors


class ReadKernel:
    """`canary_read` on the fake GPU: 1 byte per ns in the best launch shape, half of that in others."""

    def __init__(self, gpu):
        self.gpu = gpu
        self.addresses = []
        self.skips = 0

    def __call__(self, grid, block, args, stream):
        address, n_vectors, total = (arg.value for arg in args)
        self.addresses.append(address)

        def add():
            words = (ctypes.c_uint32 * (4 * n_vectors - self.skips)).from_address(address)
            word_sum = int(np.frombuffer(words, np.uint32).sum(dtype=np.uint64))
            target = ctypes.c_uint64.from_address(total)
            target.value = (target.value + word_sum) % 2**64

        # The launches of a replay take no CPU time, so a short one is never late.
        self.gpu.launch(16 * n_vectors * (1 if (grid[0], block[0]) == FASTEST else 2) + 100, effect=add)


@pytest.fixture
def kernel(gpu):
    return ReadKernel(gpu)


@pytest.fixture
def canary(kernel, monkeypatch):
    for name, value in (("_SETTLE_S", 0.0), ("_SHAPE_SAMPLES", 1), ("_SAMPLES", 1)):
        monkeypatch.setattr(f"mmvq_cli.measure.cuda_canary.{name}", value)
    loaded = []

    def load(entry, source, defines):
        loaded.append((entry, source, defines))
        return kernel

    canary = CudaCanary(load, DEVICE)
    assert loaded == [("canary_read", "canary.cu", ())]
    return canary


def test_reads_in_the_best_shape_and_adds_up(canary):
    result = canary.read(2**20)
    assert (result.n_bytes, result.launch_shape, result.checksum_ok) == (2**20, FASTEST, True)
    assert result.time_ns == pytest.approx(2**20 + 100)


@pytest.mark.parametrize("n_bytes", [16 * 1000, 2**20, 3 * 2**20 + 16, 20 * 2**20])
def test_slices_together_are_too_large_for_the_cache(canary, kernel, n_bytes):
    assert canary.read(n_bytes).checksum_ok
    slices = sorted(set(kernel.addresses))
    assert len(slices) * n_bytes >= 4 * L2_BYTES or n_bytes >= 4 * L2_BYTES


def test_a_read_larger_than_the_memory_is_cut(canary, gpu):
    gpu.memory_bytes = 2**20
    result = canary.read(2**21)
    assert result.n_bytes == int(0.8 * 2**20) // 16 * 16
    assert result.checksum_ok


def test_a_kernel_that_leaves_a_word_out_is_seen(canary, kernel):
    kernel.skips = 1
    assert not canary.read(2**20).checksum_ok


def test_a_launch_has_no_more_blocks_than_vectors_need(canary):
    assert canary.read(16).launch_shape[0] == 1
