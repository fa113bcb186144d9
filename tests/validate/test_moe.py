"""One fault each in a model that is clean otherwise; each is found by its own check."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mmvq_cli.validate import Request, Severity, validate

QWEN, GPT_OSS, DEEPSEEK = "qwen3moe-Q4_K_M", "gpt-oss-MXFP4_MOE", "deepseek2-Q6_K"
NAN = float("nan")


def found(model, tmp_path, *checks):
    report = validate(Request(model.write(tmp_path / "x.gguf"), checks or ("structure", "moe")))
    return {finding.check for finding in report.findings}, report


def key(name, value):
    """Set a hyperparameter of the model's architecture; None removes it."""

    def change(model):
        whole = f"{model.metadata['general.architecture']}.{name}"
        if value is None:
            model.metadata.pop(whole, None)
        else:
            model.metadata[whole] = value

    return change


def drop(*names):
    def change(model):
        for name in names:
            del model.tensors[name]

    return change


def reshape(name, *ne):
    def change(model):
        model.tensors[name].ne = ne

    return change


def fill(name, value, at=slice(None)):
    """Overwrite f32 values."""

    def change(model):
        model.tensors[name].data.view(np.float32)[at] = value

    return change


def crop_rows(name, rows):
    """Keep the first rows of every expert."""

    def change(model):
        tensor = model.tensors[name]
        cols, old, n_experts = tensor.ne
        tensor.data = tensor.data.reshape(n_experts, old, -1)[:, :rows].copy().reshape(-1)
        tensor.ne = (cols, rows, n_experts)

    return change


def crop_experts(name, n):
    def change(model):
        tensor = model.tensors[name]
        tensor.data = tensor.data[: tensor.data.size * n // tensor.ne[-1]].copy()
        tensor.ne = (*tensor.ne[:-1], n)

    return change


def copy(source, target):
    def change(model):
        model.tensors[target] = model.tensors[source]

    return change


def split_legacy(model):
    """Store each expert as a tensor of its own."""
    for name in [name for name in model.tensors if "_exps.weight" in name]:
        tensor = model.tensors.pop(name)
        for expert, data in enumerate(tensor.data.reshape(tensor.ne[2], -1)):
            part = type(tensor)(tensor.ne[:2], tensor.type_id, data.copy())
            model.tensors[name.replace("_exps.", f".{expert}.")] = part


def legacy_gap(model):
    split_legacy(model)
    model.rename("blk.0.ffn_up.7.weight", "blk.0.ffn_up.9.weight")


def fuse(rows):
    """Store gate and up of layer 0 as one tensor, of which `rows` are kept."""

    def change(model):
        gate, up = (model.tensors.pop(f"blk.0.ffn_{role}_exps.weight") for role in ("gate", "up"))
        both = np.concatenate([gate.data.reshape(8, 256, -1), up.data.reshape(8, 256, -1)], axis=1)
        data = both[:, :rows].copy().reshape(-1)
        model.tensors["blk.0.ffn_gate_up_exps.weight"] = type(gate)((256, rows, 8), gate.type_id, data)

    return change


def to_f16(name):
    def change(model):
        tensor = model.tensors[name]
        tensor.data = tensor.data.view(np.float32).astype(np.float16).view(np.uint8)
        tensor.type_id = 1

    return change


G0, U0, D0, R0 = (f"blk.0.ffn_{part}.weight" for part in ("gate_exps", "up_exps", "down_exps", "gate_inp"))

FAULTS = {
    "expert-count": (QWEN, key("expert_count", 7), "moe.expert-count"),
    "expert-count-missing": (QWEN, key("expert_count", None), "moe.expert-count"),
    "expert-count-huge": (QWEN, key("expert_count", 1025), "moe.expert-count"),
    "fewer-experts-in-one": (QWEN, crop_experts(G0, 4), "moe.expert-count"),
    "router-of-fewer": (QWEN, crop_experts(R0, 4), "moe.expert-count"),
    "used-0": (QWEN, key("expert_used_count", 0), "moe.used-count"),
    "used-9": (QWEN, key("expert_used_count", 9), "moe.used-count"),
    "used-missing": (QWEN, key("expert_used_count", None), "moe.used-count"),
    "block-count-high": (QWEN, key("block_count", 3), "moe.block-count"),
    "block-count-low": (QWEN, key("block_count", 1), "moe.block-count"),
    "block-count-huge": (QWEN, key("block_count", 513), "moe.block-count"),
    "groups": (DEEPSEEK, key("expert_group_count", 3), "moe.groups"),
    "groups-used": (
        DEEPSEEK,
        lambda m: (key("expert_group_count", 4)(m), key("expert_group_used_count", 4)(m)),
        "moe.groups",
    ),
    "epsilon": (QWEN, key("attention.layer_norm_rms_epsilon", NAN), "moe.norm-epsilon"),
    "array": (QWEN, key("expert_used_count", [2, 2, 2]), "moe.per-layer-array"),
    "gating": (DEEPSEEK, key("expert_gating_func", 9), "moe.gating"),
    "no-gate": (QWEN, drop(G0), "moe.missing-tensor"),
    "no-router": (QWEN, drop(R0), "moe.missing-tensor"),
    "no-experts-in-layer": (QWEN, drop(G0, U0, D0, R0), "moe.missing-tensor"),
    "experts-in-dense-layer": (DEEPSEEK, key("leading_dense_block_count", 2), "moe.extra-tensor"),
    "widths-differ": (QWEN, crop_rows(G0, 128), "moe.dimensions"),
    "metadata-width": (QWEN, key("expert_feed_forward_length", 128), "moe.dimensions"),
    "metadata-embedding": (QWEN, key("embedding_length", 512), "moe.dimensions"),
    "fused-beside-separate": (QWEN, copy(G0, "blk.0.ffn_gate_up_exps.weight"), "moe.fused"),
    "fused-odd": (QWEN, fuse(511), "moe.fused"),
    "fused-width": (QWEN, fuse(510), "moe.fused"),
    "legacy-gap": (QWEN, legacy_gap, "moe.legacy-experts"),
    "shared-width": (DEEPSEEK, key("expert_shared_count", 2), "moe.shared-expert"),
    "shared-missing": (DEEPSEEK, drop("blk.1.ffn_up_shexp.weight"), "moe.shared-expert"),
    "router-f16": (QWEN, to_f16(R0), "moe.router-type"),
    "router-zero": (QWEN, fill(R0, 0), "moe.router-values"),
    "router-nan": (QWEN, fill(R0, NAN, 77), "moe.router-values"),
    "selection-bias-nan": (DEEPSEEK, fill("blk.1.exp_probs_b.bias", NAN, 3), "moe.selection-bias"),
    "expert-bias-missing": (GPT_OSS, drop("blk.0.ffn_up_exps.bias"), "moe.expert-bias"),
    "expert-bias-nan": (GPT_OSS, fill("blk.0.ffn_up_exps.bias", NAN, 5), "moe.expert-bias"),
    "mixed-types": (QWEN, lambda m: copy("blk.1.ffn_down_exps.weight", G0)(m), "moe.mixed-types"),
    "file-type": (QWEN, lambda m: m.metadata.update({"general.file_type": 7}), "moe.file-type"),
    "unknown": (QWEN, lambda m: m.metadata.update({"general.architecture": "new"}), "moe.unknown-architecture"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_found_by_its_check(kit, tmp_path, fault):
    name, change, check = FAULTS[fault]
    model = kit.load(name)
    change(model)
    checks, _ = found(model, tmp_path)
    assert check in checks


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_silent_when_its_check_is_skipped(kit, tmp_path, fault):
    name, change, check = FAULTS[fault]
    model = kit.load(name)
    change(model)
    report = validate(Request(model.write(tmp_path / "x.gguf"), ("moe",), (check,)))
    assert check not in {finding.check for finding in report.findings}


@pytest.mark.parametrize("path", sorted((Path(__file__).parents[1] / "data" / "models").glob("[!f]*.gguf")))
def test_clean_models_have_no_error_and_no_warning(path):
    report = validate(Request(path, all_tensors=True))
    assert [finding for finding in report.findings if finding.severity is not Severity.INFO] == []
    assert report.checked_blocks > 0


@pytest.mark.parametrize("change", [split_legacy, fuse(512), key("expert_used_count", [2, 2])])
def test_legal_layouts_are_clean(kit, tmp_path, change):
    model = kit.load(QWEN)
    change(model)
    _, report = found(model, tmp_path, "structure", "moe", "blocks")
    assert [finding for finding in report.findings if finding.severity is not Severity.INFO] == []
    assert report.checked_blocks == 12288


def test_all_missing_tensors_are_listed(kit, tmp_path):
    model = kit.load(QWEN)
    drop(G0, "blk.1.ffn_up_exps.weight", R0)(model)
    _, report = found(model, tmp_path)
    assert len([finding for finding in report.findings if finding.check == "moe.missing-tensor"]) == 3


def test_selection_bias_range_is_compared_between_layers(kit, tmp_path):
    model = kit.load(DEEPSEEK)
    key("block_count", 6)(model)
    names = [name for name in model.tensors if name.startswith("blk.1.")]
    for layer in range(2, 6):
        for name in names:
            source = model.tensors[name]
            copied = type(source)(source.ne, source.type_id, source.data.copy())
            model.tensors[name.replace("blk.1.", f"blk.{layer}.")] = copied
    assert "moe.selection-bias-range" not in found(model, tmp_path)[0]
    model.tensors["blk.3.exp_probs_b.bias"].data.view(np.float32)[:] *= 1000
    assert "moe.selection-bias-range" in found(model, tmp_path)[0]


@pytest.mark.parametrize(
    ("scales", "expected"),
    [
        ({}, {"moe.no-expert-scale"}),
        ({"gate": 1.0}, {"moe.expert-scale"}),
        (dict.fromkeys(("gate", "up", "down"), 1.0), set()),
        ({"gate": 0.0, "up": 1.0, "down": 1.0}, {"moe.expert-scale"}),
    ],
)
def test_nvfp4_scales(kit, tmp_path, scales, expected):
    from mmvq_cli.op.ggml import GGML

    model = kit.make(GGML.NVFP4)
    for role, value in scales.items():
        data = np.full(8, value, np.float32).view(np.uint8)
        model.tensors[f"blk.0.ffn_{role}_exps.scale"] = kit.tensor((8,), 0, data)
    assert found(model, tmp_path)[0] == expected
