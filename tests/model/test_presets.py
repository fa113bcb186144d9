"""Presets: all of them load, their shapes hold whole blocks, and a typing error gets a hint."""

from __future__ import annotations

import pytest

from mmvq_cli.errors import UsageError
from mmvq_cli.model import find_preset, load_presets


def test_at_least_twenty_known_models():
    presets = load_presets()
    assert len(presets) >= 20
    assert list(presets) == sorted(presets)
    for known in ("qwen3-30b-a3b", "deepseek-v3", "mixtral-8x7b", "gpt-oss-20b", "kimi-k2", "glm-4.5", "olmoe-1b-7b"):
        assert known in presets


@pytest.mark.parametrize("preset", load_presets().values(), ids=lambda preset: preset.name)
def test_preset_is_sound(preset):
    assert preset.name == preset.name.lower()
    assert preset.title
    assert preset.source
    assert 0 < preset.top_k < preset.n_experts or preset.top_k == preset.n_experts == 1
    assert min(preset.n_layers, preset.n_embd, preset.n_ff) > 0
    assert preset.formats.keys() == preset.shapes.keys()
    for role, (_, cols) in preset.shapes.items():
        assert cols % preset.formats[role].block_size == 0


def test_shapes_and_formats():
    qwen = find_preset("Qwen3-30B-A3B")
    assert qwen.shapes == {"gate": (768, 2048), "up": (768, 2048), "down": (2048, 768)}
    assert {role: format.name for role, format in qwen.formats.items()} == {
        "gate": "Q4_K",
        "up": "Q4_K",
        "down": "Q6_K",
    }
    assert (qwen.n_experts, qwen.top_k, qwen.n_layers, qwen.architecture) == (128, 8, 48, "qwen3moe")


def test_formats_where_rows_hold_no_super_blocks():
    assert find_preset("deepseek-v2-lite").formats["down"].name == "Q8_0"  # 1408 columns
    assert {format.name for format in find_preset("gpt-oss-120b").formats.values()} == {"MXFP4"}
    nemotron = find_preset("nemotron-3-nano-30b-a3b")
    assert {role: format.name for role, format in nemotron.formats.items()} == {"up": "Q5_0", "down": "Q8_0"}


def test_unknown_name():
    with pytest.raises(UsageError, match="no preset is called qwen3-30b") as caught:
        find_preset("qwen3-30b")
    assert "qwen3-30b-a3b" in caught.value.hint
    with pytest.raises(UsageError) as caught:
        find_preset("zzzz")
    assert "mmvq list presets" in caught.value.hint
