"""Activations and weights that break arithmetic: NaN and infinity, large, subnormal and zero values, special scales."""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmvq_cli.engine.elements import narrow, storage_dtype, widen
from mmvq_cli.engine.workload import random_activations
from mmvq_cli.model.synthetic import random_blocks
from mmvq_cli.op import Dtype, Format
from mmvq_cli.op.formats import ScaleField

Bytes = NDArray[np.uint8]

_MANTISSA_BITS = {"f32": 23, "f16": 10, "bf16": 7}
_ONE = {"f32": 0x3F800000, "f16": 0x3C00, "bf16": 0x3F80}
# fp16 scales: both zeros, the smallest and the largest subnormal, the largest finite value.
_SPECIAL_F16 = np.array([0.0, -0.0, 2.0**-24, 1023 * 2.0**-24, 65504.0], np.float32)
_SPECIAL_E8M0 = np.array([0, 1, 254], np.uint8)
_SMALL_CODES = 0xBB  # of E2M1, clears the bit of 2, 3, 4 and 6: times 2^126 these would exceed float32
_SPECIAL_EVERY = 8  # rows; the others keep ordinary scales
_UNIT_E8M0, _UNIT_UE4M3 = 128, 0x38


def edge_activations(kind: str, n_rows: int, n_cols: int, dtype: Dtype, seed: int) -> NDArray[Any]:
    """Activations [n_rows, n_cols] in storage form; a pure function of the arguments.

    `ordinary`; `nonfinite`: NaN in row 1, infinities in rows 2 and 3; `large`: 1e5 (6e4 in f16) in row 0, every sum of
    32 of row 1 beyond 65504; `subnormal`: nothing but subnormals of `dtype`; `small_start`: 2^-10 in the first 32.
    """
    if kind == "subnormal":
        return _subnormal_bits(dtype.value, (n_rows, n_cols), np.random.default_rng(seed)).view(storage_dtype(dtype))
    values = widen(random_activations(n_rows, n_cols, dtype, (seed,)), dtype)
    if kind == "nonfinite":
        for row, value in ((1, np.nan), (2, np.inf), (3, -np.inf)):
            values[row, (7 * row) % n_cols] = value
    elif kind == "large":
        values[0, ::9] = 6e4 if dtype is Dtype.F16 else 1e5
        values[1] = 3000.0
    elif kind == "small_start":
        values[:, :32] *= 2.0**-10
    return narrow(values, dtype)


def edge_weights(kind: str, format: Format, n_cols: int, n_rows: int, seed: int) -> Bytes:
    """Packed weights u8 [bytes] of `n_rows` rows in all; a pure function of the arguments.

    `zero`: every byte; `unit`: scales of 1 (plain types: magnitudes of 1 to 2); `special`: rows with scales that are
    zero, subnormal or extreme among ordinary ones (plain types: rows of subnormals, and zeros of both signs).
    """
    blocks_per_row = n_cols // format.block_size
    blocks = random_blocks(format, n_rows * blocks_per_row, np.random.default_rng([seed, zlib.crc32(kind.encode())]))
    rows = np.repeat(np.arange(n_rows), blocks_per_row)
    if kind == "zero":
        blocks[:] = 0
    elif format.is_float:
        _put_plain(blocks, format.name.lower(), kind, rows, np.random.default_rng(seed))
    elif kind == "unit":
        for field in format.scales:
            _put_unit(blocks, field)
    else:
        first_of_row = np.arange(len(blocks)) % max(blocks_per_row, 1) == 0
        for field in format.scales:
            _put_special(blocks, field, rows, first_of_row)
    return blocks.reshape(-1)


def _subnormal_bits(name: str, shape: tuple[int, ...], rng: np.random.Generator) -> NDArray[Any]:
    """Bits of nothing but subnormals of either sign, u32 or u16."""
    bits = np.uint32 if name == "f32" else np.uint16
    sign = rng.integers(0, 2, shape, dtype=bits) << (np.iinfo(bits).bits - 1)
    return rng.integers(1, 1 << _MANTISSA_BITS[name], shape, dtype=bits) | sign


def _put_plain(blocks: Bytes, name: str, kind: str, rows: NDArray[np.intp], rng: np.random.Generator) -> None:
    bits = blocks.view(np.uint32 if name == "f32" else np.uint16)[:, 0]
    subnormal = _subnormal_bits(name, bits.shape, rng)
    if kind == "unit":
        bits[:] = subnormal + bits.dtype.type(_ONE[name])
        return
    turn = rows % _SPECIAL_EVERY
    bits[turn == 0] = 0
    bits[turn == 1] = 1 << (8 * bits.dtype.itemsize - 1)
    bits[turn == 2] = subnormal[turn == 2]


def _put_unit(blocks: Bytes, field: ScaleField) -> None:
    if field.kind == "e8m0":
        blocks[:, field.offset] = _UNIT_E8M0
    elif field.kind == "ue4m3":
        blocks[:, field.offset] = _UNIT_UE4M3
    else:
        _put_float(blocks, field, np.arange(len(blocks)), np.ones(len(blocks), np.float32))


def _put_special(blocks: Bytes, field: ScaleField, rows: NDArray[np.intp], first_of_row: NDArray[np.bool_]) -> None:
    """Give row r the special scale r % 8, where there is one; UE4M3 takes all its 256 codes in turn."""
    if field.kind == "ue4m3":
        blocks[:, field.offset] = 4 * np.arange(len(blocks)) + field.offset
        return
    turn = rows % _SPECIAL_EVERY
    if field.kind == "e8m0":
        huge = _SPECIAL_E8M0.max() == _SPECIAL_E8M0
        # One huge block in a row, at small activations (`small_start`), so that no sum overflows float32.
        special = (turn < len(_SPECIAL_E8M0)) & (first_of_row | ~np.isin(turn, np.flatnonzero(huge)))
        blocks[special, field.offset] = _SPECIAL_E8M0[turn[special]]
        blocks[np.ix_(blocks[:, field.offset] == _SPECIAL_E8M0.max(), np.arange(1, blocks.shape[1]))] &= _SMALL_CODES
    else:
        special_blocks = np.flatnonzero(turn < len(_SPECIAL_F16))
        _put_float(blocks, field, special_blocks, _SPECIAL_F16[turn[special_blocks]])


def _put_float(blocks: Bytes, field: ScaleField, chosen: NDArray[np.intp], values: NDArray[np.float32]) -> None:
    """Write scales of kind f32, f16 or iq1m (an fp16 in the top nibbles of four u16, lowest first)."""
    if field.kind == "f32":
        blocks[chosen, field.offset : field.offset + 4] = values[:, None].view(np.uint8)
        return
    bits = values.astype(np.float16).view(np.uint16)
    if field.kind == "f16":
        blocks[chosen, field.offset : field.offset + 2] = bits[:, None].view(np.uint8)
        return
    high_bytes = field.offset + 1 + 2 * np.arange(4)
    nibbles = (bits[:, None] >> (4 * np.arange(4, dtype=np.uint16)) & 0xF).astype(np.uint8)
    blocks[np.ix_(chosen, high_bytes)] = blocks[np.ix_(chosen, high_bytes)] & 0x0F | nibbles << 4
