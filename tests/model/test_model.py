"""Opened models: hyperparameters, and what lies outside the expert blocks."""

from __future__ import annotations

from pathlib import Path

import pytest

from mmvq_cli.errors import ModelError
from mmvq_cli.model import open_model

MODELS = Path(__file__).parents[1] / "data" / "models"
UP = "blk.{}.ffn_up_exps.weight"


@pytest.mark.parametrize(
    ("name", "architecture", "layers", "formats"),
    [
        ("deepseek2-Q6_K", "deepseek2", [1], {"Q6_K"}),
        ("gpt-oss-MXFP4_MOE", "gpt-oss", [0, 1], {"MXFP4"}),
        ("gptoss288-Q4_K_M", "gpt-oss", [0, 1], {"Q5_0", "Q8_0"}),
        ("llama-Q3_K_M", "llama", [0, 1], {"Q3_K", "Q4_K"}),
        ("qwen3moe-IQ2_XS", "qwen3moe", [0, 1], {"IQ2_XS"}),
        ("qwen3moe-Q4_K_M", "qwen3moe", [0, 1], {"Q4_K", "Q6_K"}),
    ],
)
def test_fixture(name, architecture, layers, formats):
    model = open_model(MODELS / f"{name}.gguf")
    assert (model.architecture, model.n_layers, model.n_experts, model.top_k) == (architecture, 2, 8, 2)
    assert [(t.layer, t.role) for t in model.expert_tensors] == [
        (layer, role) for layer in layers for role in ("gate", "up", "down")
    ]
    assert {tensor.format_name for tensor in model.expert_tensors} <= formats
    assert model.file_size_bytes == (MODELS / f"{name}.gguf").stat().st_size
    assert model.warnings == ()


def test_outside_tensors():
    deepseek = open_model(MODELS / "deepseek2-Q6_K.gguf")
    assert deepseek.outside_tensors(0) == ()
    assert {(o.kind, o.tensor.name) for o in deepseek.outside_tensors(1)} == {
        ("router", "blk.1.ffn_gate_inp.weight"),
        ("selection bias", "blk.1.exp_probs_b.bias"),
        *(("shared expert", f"blk.1.ffn_{role}_shexp.weight") for role in ("gate", "up", "down")),
    }
    gpt_oss = open_model(MODELS / "gpt-oss-MXFP4_MOE.gguf")
    assert {(o.kind, o.tensor.name) for o in gpt_oss.outside_tensors(0)} == {
        ("router", "blk.0.ffn_gate_inp.weight"),
        ("router", "blk.0.ffn_gate_inp.bias"),
        *(("expert bias", f"blk.0.ffn_{role}_exps.bias") for role in ("gate", "up", "down")),
    }


def test_outside_names_of_other_architectures(kit, tmp_path):
    names = {
        "blk.0.ffn_up_exps.scale": "expert scale",
        "blk.0.ffn_down_exps.input_scale": "expert scale",
        "blk.0.ffn_gate_inp_shexp.weight": "shared expert",
        "blk.0.exp_probs_b": "selection bias",
        "blk.0.ffn_gate_chexps.weight": "chunk experts",
        "blk.0.ffn_latent_down.weight": "latent projection",
        "blk.0.attn_q.weight": None,
        "output.weight": None,
    }
    file = kit.file(kit.moe(), [kit.tensor(name, (32,)) for name in names])
    model = open_model(file.write(tmp_path / "x.gguf"))
    assert {o.tensor.name: o.kind for o in model.outside} == {name: kind for name, kind in names.items() if kind}


def test_top_k_per_layer(kit, tmp_path):
    tensors = [kit.tensor(UP.format(layer), (4, 4, 8)) for layer in (1, 2)]
    path = kit.file(kit.moe(n_layers=3, n_experts=8, top_k=[0, 2, 4]), tensors).write(tmp_path / "x.gguf")
    model = open_model(path)
    assert model.top_k == 4
    assert [model.top_k_of(layer) for layer in range(3)] == [0, 2, 4]


def test_dense_model(kit, tmp_path):
    metadata = {"general.architecture": "toy", "toy.block_count": 1}
    model = open_model(kit.file(metadata, [kit.tensor("blk.0.ffn_up.weight", (32, 8))]).write(tmp_path / "x.gguf"))
    assert (model.expert_tensors, model.n_experts, model.top_k) == ((), 0, 0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"general.architecture": 5}, "general.architecture is 5"),
        ({"general.architecture": "\x1b[2J"}, "general.architecture is"),
        ({"toy.block_count": 0}, "blk.0.ffn_up_exps.weight lies beyond the 0 layers"),
        ({"toy.block_count": 2**31}, "toy.block_count is 2147483648, it must be an integer from 0 to 4096"),
        ({"toy.block_count": True}, "toy.block_count is True"),
        ({"toy.expert_count": "8"}, "toy.expert_count is 8, it must be an integer"),
        ({"toy.expert_count": 4}, "the metadata says 4 experts"),
        ({"toy.expert_used_count": 0}, "toy.expert_used_count is 0"),
        ({"toy.expert_used_count": 9}, "toy.expert_used_count is 9"),
        ({"toy.expert_used_count": [1, 2]}, r"toy.expert_used_count is \(1, 2\)"),
        ({"toy.expert_used_count": [0]}, "toy.expert_used_count is"),
        ({"toy.expert_used_count": "2"}, "toy.expert_used_count is 2"),
    ],
)
def test_metadata_that_contradicts(kit, tmp_path, change, message):
    metadata = {**kit.moe(n_experts=8, top_k=2), **change}
    path = kit.file(metadata, [kit.tensor(UP.format(0), (4, 4, 8))]).write(tmp_path / "x.gguf")
    with pytest.raises(ModelError, match=message):
        open_model(path)


@pytest.mark.parametrize("key", ["general.architecture", "toy.expert_count", "toy.expert_used_count"])
def test_missing_key(kit, tmp_path, key):
    metadata = kit.moe(n_experts=8)
    del metadata[key]
    path = kit.file(metadata, [kit.tensor(UP.format(0), (4, 4, 8))]).write(tmp_path / "x.gguf")
    with pytest.raises(ModelError):
        open_model(path)
