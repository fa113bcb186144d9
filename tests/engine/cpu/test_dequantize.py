"""Dequantizers: ours bit-equal to gguf-py and to what ggml's C code gave for the format zoo."""

from pathlib import Path

import numpy as np
import pytest

from mmvq_cli.engine.cpu import CpuEngine
from mmvq_cli.engine.cpu.dequantize import fastest_dequantizer, oracle_dequantizer
from mmvq_cli.model.synthetic import random_blocks
from mmvq_cli.op import FORMATS

ZOO = np.load(Path(__file__).parents[2] / "data" / "models" / "format-zoo.npz")
ZOO_TYPES = sorted(key.split(".")[0] for key in ZOO.files if key.endswith(".blocks"))
QUANTIZED = [row for row in FORMATS.values() if not row.is_float]
DEQUANTIZERS = [fastest_dequantizer(), oracle_dequantizer()]


def decode(dequantizer, format, packed, n_cols):
    out = np.full((len(packed), n_cols), np.nan, np.float32)
    dequantizer.decode(format, packed, out)
    return out


def rows_of(format, n_rows=64, blocks_per_row=3, seed=0):
    """Packed rows of random legal blocks."""
    blocks = random_blocks(format, n_rows * blocks_per_row, np.random.default_rng(seed))
    return blocks.reshape(n_rows, -1), blocks_per_row * format.block_size


def test_the_zoo_holds_the_23_types_of_ggml_and_the_two_without_a_kernel():
    assert len(ZOO_TYPES) == 25
    assert len(set(ZOO_TYPES) & set(FORMATS)) == 23


@pytest.mark.parametrize("dequantizer", DEQUANTIZERS, ids=lambda d: d.name)
@pytest.mark.parametrize("name", [name for name in ZOO_TYPES if name in FORMATS])
def test_the_zoo_is_bit_equal_to_ggmls_c_code(name, dequantizer):
    blocks, expected = ZOO[f"{name}.blocks"], ZOO[f"{name}.f32"]
    got = decode(dequantizer, FORMATS[name], blocks.reshape(-1, blocks.shape[-1]), expected.shape[-1])
    assert got.view(np.uint32).tobytes() == expected.astype(np.float32).view(np.uint32).tobytes()


@pytest.mark.parametrize("format", QUANTIZED, ids=str)
@pytest.mark.parametrize("seed", [0, 1])
def test_the_fastest_is_bit_equal_to_the_oracle_on_random_blocks(format, seed):
    packed, n_cols = rows_of(format, seed=seed)
    fast, oracle = (decode(dequantizer, format, packed, n_cols) for dequantizer in DEQUANTIZERS)
    assert np.isfinite(oracle).all()
    assert fast.tobytes() == oracle.tobytes()


@pytest.mark.parametrize("dequantizer", DEQUANTIZERS, ids=lambda d: d.name)
def test_q8_k_is_scale_times_code_whatever_its_sums_say(dequantizer):
    packed, n_cols = rows_of(FORMATS["Q8_K"], n_rows=5)
    got = decode(dequantizer, FORMATS["Q8_K"], packed, n_cols)
    for row in range(5):
        for block in range(3):
            raw = packed[row, 292 * block : 292 * (block + 1)]
            scale = np.frombuffer(raw[:4].tobytes(), "<f4")[0]
            codes = np.frombuffer(raw[4:260].tobytes(), np.int8).astype(np.float32)
            np.testing.assert_array_equal(got[row, 256 * block : 256 * (block + 1)], scale * codes)
    packed.reshape(5, 3, 292)[:, :, 260:] = 0
    assert decode(dequantizer, FORMATS["Q8_K"], packed, n_cols).tobytes() == got.tobytes()


@pytest.mark.parametrize(("name", "numpy_dtype"), [("F32", np.float32), ("F16", np.float16)])
def test_plain_types_are_exact(name, numpy_dtype):
    values = np.arange(-20, 20, dtype=np.float32).reshape(4, 10) / 8
    packed = values.astype(numpy_dtype).view(np.uint8)
    np.testing.assert_array_equal(decode(fastest_dequantizer(), FORMATS[name], packed, 10), values)


def test_bf16_is_the_upper_half_of_a_float32():
    bits = np.arange(2**16, dtype=np.uint16).reshape(256, 256)
    got = decode(fastest_dequantizer(), FORMATS["BF16"], bits.view(np.uint8), 256)
    np.testing.assert_array_equal(got.view(np.uint32), bits.astype(np.uint32) << 16)


def test_without_libgguf_the_oracle_does_the_work(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "libgguf", None)
    assert fastest_dequantizer().name.startswith("gguf-")


def test_the_engine_gives_rows_of_any_shape():
    packed, n_cols = rows_of(FORMATS["Q4_K"], n_rows=6)
    expected = decode(oracle_dequantizer(), FORMATS["Q4_K"], packed, n_cols)
    np.testing.assert_array_equal(CpuEngine().dequantize(FORMATS["Q4_K"], packed.reshape(2, 3, -1), n_cols), expected)
