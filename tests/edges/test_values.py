"""The values hold what their kind promises, in storage form."""

from __future__ import annotations

import numpy as np
import pytest

from mmvq_cli.edges.values import edge_activations, edge_weights
from mmvq_cli.engine.cpu.dequantize import oracle_dequantizer
from mmvq_cli.engine.elements import storage_dtype, widen
from mmvq_cli.op import FORMATS, Dtype

SMALLEST_NORMAL = {Dtype.F32: 2.0**-126, Dtype.F16: 2.0**-14, Dtype.BF16: 2.0**-126}


def activations(kind, dtype):
    array = edge_activations(kind, 6, 96, dtype, 0)
    assert array.dtype == storage_dtype(dtype)
    return widen(array, dtype)


@pytest.mark.parametrize("dtype", Dtype)
def test_non_finite_values_stay_in_three_rows(dtype):
    values = activations("nonfinite", dtype)
    assert [np.isfinite(row).all() for row in values] == [True, False, False, False, True, True]
    assert np.isnan(values[1]).sum() == 1
    assert values[2].max() == np.inf
    assert values[3].min() == -np.inf


@pytest.mark.parametrize("dtype", Dtype)
def test_large_values_exceed_half_precision_alone_or_in_sum(dtype):
    values = activations("large", dtype)
    assert values[0].max() > (5e4 if dtype is Dtype.F16 else 65504)
    assert (values[1].reshape(-1, 32).sum(axis=1) > 65504).all()
    assert np.isfinite(values).all()


@pytest.mark.parametrize("dtype", Dtype)
def test_subnormal_activations_are_all_subnormal(dtype):
    magnitudes = np.abs(activations("subnormal", dtype))
    assert (magnitudes > 0).all()
    assert (magnitudes < SMALLEST_NORMAL[dtype]).all()


def weights(kind, name, n_rows=64):
    """Float64 weights [n_rows, n_cols] by gguf-py."""
    format = FORMATS[name]
    n_cols = 3 * format.block_size if not format.is_float else 37
    packed = edge_weights(kind, format, n_cols, n_rows, 0).reshape(n_rows, -1)
    out = np.empty((n_rows, n_cols), np.float32)
    oracle_dequantizer().decode(format, packed, out)
    return out


@pytest.mark.parametrize("name", FORMATS)
def test_zero_weights_are_zero(name):
    assert not weights("zero", name).any()


@pytest.mark.parametrize("name", FORMATS)
def test_unit_scales_give_no_tiny_weights(name):
    magnitudes = np.abs(weights("unit", name))
    assert np.isfinite(magnitudes).all()
    assert magnitudes[magnitudes > 0].min() >= 0.1


@pytest.mark.parametrize("name", [name for name in FORMATS if name != "NVFP4"])
def test_special_scales_are_finite_and_span_orders_of_magnitude(name):
    rows = np.abs(weights("special", name)).max(axis=1)
    assert np.isfinite(rows).all()
    assert rows.max() > 1e4 * np.median(rows) or FORMATS[name].is_float
    tiny = {"MXFP4": 2.0**-120, "F32": 2.0**-126, "BF16": 2.0**-126}.get(name, 2.0**-8)
    assert ((rows > 0) & (rows < tiny)).any()


def test_ue4m3_takes_every_code():
    packed = edge_weights("special", FORMATS["NVFP4"], 192, 64, 0).reshape(-1, FORMATS["NVFP4"].type_size)
    assert len(np.unique(packed[:, :4])) == 256


def test_special_half_scales_are_read_back():
    blocks = edge_weights("special", FORMATS["Q8_0"], 32, 8, 0).reshape(8, -1)
    scales = np.ascontiguousarray(blocks[:, :2]).view(np.uint16)[:5, 0]
    assert scales.tolist() == [0, 0x8000, 1, 0x03FF, 0x7BFF]
    scattered = edge_weights("special", FORMATS["IQ1_M"], 256, 8, 0).reshape(8, -1)[:5, 48:].copy().view(np.uint16)
    nibbles = scattered >> 12
    assert sum(nibbles[:, i].astype(int) << 4 * i for i in range(4)).tolist() == [0, 0x8000, 1, 0x03FF, 0x7BFF]
