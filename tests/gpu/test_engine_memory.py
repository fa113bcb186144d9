"""Weights on a GPU: staged uploads, synthetic blocks, and a refusal before memory runs out."""

from __future__ import annotations

import numpy as np
import pytest

from mmvq_cli.engine.cuda import CudaEngine, device_facts
from mmvq_cli.engine.discovery import cuda_available
from mmvq_cli.errors import EnvironmentInvalid, OutOfMemory
from mmvq_cli.model.synthetic import random_blocks
from mmvq_cli.op import FORMATS

USABLE, REASON = cuda_available()
pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not USABLE, reason=REASON)]


@pytest.fixture(scope="module")
def engine():
    return CudaEngine(0)


class Tensor:
    """An expert tensor of which every byte is known, on no disk."""

    def __init__(self, n_experts, expert_bytes):
        self.expert_bytes = expert_bytes
        self.n_bytes = n_experts * expert_bytes

    def expected(self, offset, n_bytes):
        return ((np.arange(offset, offset + n_bytes, dtype=np.uint64) * 2654435761) >> 13).astype(np.uint8)

    def read_into(self, offset, buffer):
        buffer[:] = self.expected(offset, len(buffer)).data


def test_pieces_that_reuse_the_staging_buffer_arrive_whole(engine):
    tensor = Tensor(n_experts=5, expert_bytes=33 * 2**20 + 7)  # each longer than half the staging buffer
    weights = engine.download(engine.load_experts(tensor, [4, 1, 0]))
    for expert in (0, 1, 4):
        start = expert * tensor.expert_bytes
        expected = tensor.expected(start, tensor.expert_bytes)
        np.testing.assert_array_equal(weights[start : start + tensor.expert_bytes], expected)


@pytest.mark.parametrize("name", FORMATS)
def test_synthetic_weights_are_pool_blocks_in_an_order_by_seed(engine, name):
    format = FORMATS[name]
    n_blocks = 12 * 2**20 // format.type_size
    first = engine.download(engine.synthesize(format, n_blocks * format.type_size, seed=7)).reshape(n_blocks, -1)
    pool_size = 4 * 2**20 // format.type_size
    pool = random_blocks(format, pool_size, np.random.default_rng([7, format.id])).reshape(pool_size, -1)
    known = {block.tobytes() for block in pool}
    sample = np.random.default_rng(0).choice(n_blocks, 2000)
    assert all(block.tobytes() in known for block in first[sample])
    again = engine.download(engine.synthesize(format, n_blocks * format.type_size, seed=7)).reshape(n_blocks, -1)
    np.testing.assert_array_equal(first, again)
    other = engine.download(engine.synthesize(format, n_blocks * format.type_size, seed=8)).reshape(n_blocks, -1)
    assert (first != other).any(axis=1).mean() > 0.5


def test_too_much_memory_is_refused_with_both_numbers(engine):
    with pytest.raises(OutOfMemory) as caught:
        engine.synthesize(FORMATS["F32"], engine.free_bytes() + 2**30, seed=0)
    assert caught.value.needed_bytes > caught.value.free_bytes > 0


def test_memory_comes_back(engine):
    engine.release()
    before = engine.free_bytes()
    weights = engine.synthesize(FORMATS["F32"], 2**30, seed=0)
    assert engine.free_bytes() <= before - 2**30
    del weights
    engine.release()
    assert engine.free_bytes() >= before - 64 * 2**20


def test_the_device_has_its_facts(engine):
    assert engine.device.compute_capability >= (8, 0)
    assert engine.device.sm_count > 0
    assert engine.device.l2_bytes > 2**20
    facts = device_facts(0)
    assert facts.uuid.startswith("GPU-")
    assert facts.bus_bits > 0
    assert facts.max_shared_bytes > 48 * 1024


def test_an_index_beyond_the_devices_is_refused():
    with pytest.raises(EnvironmentInvalid, match="no CUDA device 999"):
        CudaEngine(999)
