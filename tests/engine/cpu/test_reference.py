"""Which dequantizer the exact answer uses."""

import numpy as np

from mmvq_cli.engine.cpu import CpuEngine, reference
from mmvq_cli.engine.cpu.dequantize import fastest_dequantizer, oracle_dequantizer
from tests.op.problems import make_args, make_descriptor


def test_gguf_py_answers_up_to_a_limit_and_the_fastest_beyond_it():
    assert reference.reference_dequantizer(reference.ORACLE_WEIGHTS).name == oracle_dequantizer().name
    assert reference.reference_dequantizer(reference.ORACLE_WEIGHTS + 1).name == fastest_dequantizer().name


def test_only_touched_experts_count(monkeypatch):
    asked = []
    monkeypatch.setattr(
        reference, "reference_dequantizer", lambda n_weights: asked.append(n_weights) or oracle_dequantizer()
    )
    d = make_descriptor(n_experts=300, m_tokens=1, m_total=1, top_k=1)
    CpuEngine().reference(d, make_args(d))
    assert asked == [5 * 64]


def test_chunks_of_rows_give_the_same_answer(monkeypatch):
    d = make_descriptor()
    args = make_args(d, weighted=True)
    whole = CpuEngine().reference(d, args)
    monkeypatch.setattr(reference, "_CHUNK_WEIGHTS", 2 * 64)
    parts = CpuEngine().reference(d, args)
    np.testing.assert_allclose(parts.values, whole.values, rtol=1e-13)
    np.testing.assert_allclose(parts.magnitude, whole.magnitude, rtol=1e-13)


def test_the_facts_say_which():
    oracle = CpuEngine().facts()["oracle"]
    assert oracle_dequantizer().name in oracle
    assert fastest_dequantizer().name in oracle
