"""Twins: every one is found, whatever agrees besides, and nothing is hashed twice."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mmvq_cli.op.ggml import GGML
from mmvq_cli.validate import Request, validate
from mmvq_cli.validate.twins import find_twins


@given(st.lists(st.binary(max_size=2)), st.integers(1, 3))
def test_every_twin_is_found_however_coarse_the_keys(texts, n_keys):
    hashed = []

    def hash_of(index):
        hashed.append(index)
        return texts[index]

    keys = [len(text) % n_keys for text in texts]
    found = dict(find_twins(range(len(texts)), keys, hash_of))
    assert found == {i: texts.index(text) for i, text in enumerate(texts) if texts.index(text) < i}
    assert len(set(hashed)) == len(hashed)


def test_experts_with_one_sample_are_told_apart(kit, tmp_path):
    """Blocks between those sampled differ in codes alone: the fingerprints agree, the hashes do not."""
    model = kit.make(GGML.Q8_0)
    gate = model.tensors["blk.0.ffn_gate_exps.weight"]
    for expert in (3, 4, 5):
        gate.expert(expert)[...] = gate.expert(2)
    gate.expert(4)[10, 20] ^= 1  # every third block is sampled
    report = validate(Request(model.write(tmp_path / "x.gguf"), ("blocks",)))
    twins = {f.place.expert: f.message for f in report.findings if f.check == "blocks.duplicate-expert"}
    assert twins == dict.fromkeys((3, 5), "is identical to expert 2, byte for byte")
