"""Folding of layers into rows."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from mmvq_cli.model import open_model, summarize
from mmvq_cli.model.summary import layer_ranges

MODELS = Path(__file__).parents[1] / "data" / "models"


@given(st.sets(st.integers(0, 60)))
def test_ranges_hold_exactly_the_layers(layers):
    text = layer_ranges(layers)
    parts = [part.split("-") for part in text.split(",")] if text else []
    assert [n for part in parts for n in range(int(part[0]), int(part[-1]) + 1)] == sorted(layers)


def test_ranges():
    assert layer_ranges([5, 0, 2, 1]) == "0-2,5"


def test_equal_layers_fold_and_unequal_do_not():
    summary = summarize(open_model(MODELS / "gptoss288-Q4_K_M.gguf"))
    assert [(row.layers, row.role, row.format) for row in summary.experts] == [
        ("0-1", "gate", "Q5_0"),
        ("0-1", "up", "Q5_0"),
        ("0", "down", "Q5_0"),
        ("1", "down", "Q8_0"),
    ]
    gate = summary.experts[0]
    assert (gate.layer_bytes, gate.total_bytes) == (8 * 288 * 9 * 22, 2 * 8 * 288 * 9 * 22)
    assert gate.bits_per_weight == 5.5
    assert sum(row.total_bytes for row in summary.experts) == summary.expert_bytes
    biases = [row for row in summary.outside if row.kind == "expert bias"]
    assert [(row.layers, row.name, row.shape, row.total_bytes) for row in biases] == [
        ("0-1", f"ffn_{role}_exps.bias", (288, 8), 2 * 288 * 8 * 4) for role in ("down", "gate", "up")
    ]


def test_every_type_of_the_zoo_but_q1_0_has_a_kernel():
    summary = summarize(open_model(MODELS / "format-zoo.gguf"))
    assert len(summary.experts) == 24
    assert [row.format for row in summary.experts if row.unsupported] == ["Q1_0"]
