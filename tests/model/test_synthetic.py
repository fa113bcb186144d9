"""Random blocks: legal, finite, and nasty enough (subnormal and zero scales, both signs)."""

from __future__ import annotations

import numpy as np
import pytest

from mmvq_cli.model.synthetic import random_blocks
from mmvq_cli.op.formats import FORMATS, find_format

N_BLOCKS = 4000


def blocks_of(name, n_blocks=N_BLOCKS, seed=1):
    return random_blocks(find_format(name), n_blocks, np.random.default_rng(seed))


@pytest.mark.parametrize("name", FORMATS)
def test_shape_and_seed(name):
    blocks = blocks_of(name, 50)
    assert (blocks.shape, blocks.dtype) == ((50, FORMATS[name].type_size), np.uint8)
    assert blocks.flags.c_contiguous
    assert np.array_equal(blocks, blocks_of(name, 50))
    assert not np.array_equal(blocks, blocks_of(name, 50, seed=2))
    assert blocks_of(name, 0).shape == (0, FORMATS[name].type_size)


@pytest.mark.parametrize("name", [name for name in FORMATS if name != "Q8_K"])
def test_finite_and_varied(name):
    from gguf.quants import dequantize

    weights = dequantize(blocks_of(name), find_format(name).type).reshape(N_BLOCKS, -1)
    assert np.isfinite(weights).all()
    assert np.abs(weights).max() < 2000
    live = (weights != 0).any(axis=1).mean()
    assert live > 0.95
    assert 0.2 < (weights > 0).mean() < 0.8


@pytest.mark.parametrize("name", [n for n, f in FORMATS.items() if f.scales and f.scales[0].kind == "f16"])
def test_f16_scales(name):
    for field in FORMATS[name].scales:
        raw = np.ascontiguousarray(blocks_of(name)[:, field.offset : field.offset + 2]).view("<f2").ravel()
        size = np.abs(raw.astype(np.float64))
        subnormal = (size > 0) & (size < 2**-14)
        assert 0.01 < subnormal.mean() < 0.03
        assert 0.004 < (size == 0).mean() < 0.02
        assert size[~subnormal & (size > 0)].min() >= 2**-12
        assert size.max() <= 2**-6
        assert 0.45 < np.signbit(raw).mean() < 0.55


def test_iq1_m_scale_is_put_together_as_ggml_does():
    blocks = blocks_of("IQ1_M")
    parts = np.ascontiguousarray(blocks[:, 48:]).view("<u2").astype(np.uint32)
    bits = parts[:, 0] >> 12 | (parts[:, 1] >> 8 & 0xF0) | (parts[:, 2] >> 4 & 0xF00) | (parts[:, 3] & 0xF000)
    size = np.abs(bits.astype(np.uint16).view(np.float16).astype(np.float64))
    assert size.max() <= 2**-6
    assert (size >= 2**-12).mean() > 0.95
    assert len(np.unique(parts & 0xFFF)) > 1000  # the sub-block scales below stay random


def test_q8_k_is_consistent():
    blocks = blocks_of("Q8_K")
    d = np.ascontiguousarray(blocks[:, :4]).view("<f4")
    codes = blocks[:, 4:260].view(np.int8).astype(int)
    bsums = np.ascontiguousarray(blocks[:, 260:]).view("<i2")
    assert np.isfinite(d).all()
    assert np.array_equal(bsums, codes.reshape(N_BLOCKS, 16, 16).sum(axis=2))


def test_fp4_scales():
    assert set(np.unique(blocks_of("MXFP4")[:, 0])) == set(range(110, 126))
    assert set(np.unique(blocks_of("NVFP4")[:, :4])) == set(range(1, 0x51))


def test_tq2_0_is_ternary():
    codes = blocks_of("TQ2_0")[:, :64, None] >> np.array([0, 2, 4, 6], np.uint8) & 3
    assert set(np.unique(codes)) == {0, 1, 2}


@pytest.mark.parametrize("name", ["F32", "F16", "BF16"])
def test_plain_floats_are_gaussian(name):
    from gguf.quants import dequantize

    weights = dequantize(blocks_of(name, 100_000), find_format(name).type)
    assert abs(weights.std() - 0.02) < 3e-4
    assert abs(weights.mean()) < 3e-4
