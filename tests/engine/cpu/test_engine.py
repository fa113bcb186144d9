"""The CPU as an engine: loading, synthetic weights, facts."""

from pathlib import Path

import numpy as np
import pytest

from mmvq_cli.engine.cpu import CpuEngine
from mmvq_cli.model import open_model
from mmvq_cli.op import FORMATS

MODELS = Path(__file__).parents[2] / "data" / "models"


def test_only_the_named_experts_are_read():
    tensor = open_model(MODELS / "qwen3moe-Q4_K_M.gguf").expert_tensors[0]
    weights = CpuEngine().load_experts(tensor, [1, 5])
    assert len(weights) == tensor.n_bytes
    for expert in (1, 5):
        start = expert * tensor.expert_bytes
        assert bytes(weights[start : start + tensor.expert_bytes]) == bytes(tensor.read_expert(expert))


@pytest.mark.parametrize("format", FORMATS.values(), ids=str)
def test_synthetic_weights_are_finite_and_a_function_of_their_seed(format):
    engine, n_bytes = CpuEngine(), 600 * format.type_size
    weights = engine.synthesize(format, n_bytes, 7)
    assert weights.nbytes == n_bytes
    assert (weights == engine.synthesize(format, n_bytes, 7)).all()
    assert (weights != engine.synthesize(format, n_bytes, 8)).any()
    assert np.isfinite(engine.dequantize(format, weights, 4 * format.block_size)).all()


def test_more_weights_than_the_pool_repeat_it(monkeypatch):
    monkeypatch.setattr("mmvq_cli.engine.cpu.engine._POOL_BYTES", 10 * 34)
    weights = CpuEngine().synthesize(FORMATS["Q8_0"], 34 * 25, 0).reshape(25, 34)
    assert len({block.tobytes() for block in weights}) == 10


def test_uploads_and_downloads_are_copies():
    engine, array = CpuEngine(), np.zeros(4)
    engine.upload(array)[:] = 1
    engine.download(array)[:] = 1
    assert not array.any()


def test_facts_and_device():
    engine = CpuEngine()
    assert engine.device.backend == "cpu"
    assert engine.device.name
    assert engine.facts()["threads"] >= 1
    assert engine.free_bytes() > 0
    engine.synchronize()
