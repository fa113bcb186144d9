"""Random weights that are legal blocks of a format: random bytes, with every scale field set to a sane value."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from mmvq_cli.op.formats import Format, ScaleField

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Bytes: TypeAlias = NDArray[np.uint8]
    Floats: TypeAlias = NDArray[np.float32]

_SIGMA = 0.02  # of plain float weights, as trained layers have
_SUBNORMAL_SHARE = 0.02  # real files hold them: a kernel that flushes them must fail on these blocks too
_ZERO_SHARE = 0.01


def random_blocks(format: Format, n_blocks: int, rng: np.random.Generator) -> Bytes:
    """Draw `n_blocks` blocks of `format`: u8 [n_blocks, type_size], every weight finite.

    Quantized types: uniformly random codes, for every code is legal (grid indices fill their bits), but for TQ2_0's
    fourth; scales as `_scales` says. Q8_K's bsums agree with its codes. Plain types: Gaussian values.
    """
    if format.is_float:
        return _plain(format, n_blocks, rng)
    blocks = rng.integers(0, 256, (n_blocks, format.type_size), dtype=np.uint8)
    for field in format.scales:
        _put_scale(blocks, field, rng)
    if format.name == "Q8_K":
        _put_bsums(blocks)
    elif format.name == "TQ2_0":
        _put_ternary_codes(blocks, rng)
    return blocks


def _plain(format: Format, n_blocks: int, rng: np.random.Generator) -> Bytes:
    values = rng.standard_normal((n_blocks, 1), dtype=np.float32) * np.float32(_SIGMA)
    encoded: NDArray[Any]
    if format.name == "BF16":
        bits = values.view(np.uint32)
        encoded = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2")  # to nearest, ties to even
    else:
        encoded = values.astype({"F32": "<f4", "F16": "<f2"}[format.name])
    return encoded.view(np.uint8)


def _scales(shape: int, rng: np.random.Generator) -> Floats:
    """Draw scales for floating-point fields: random sign, magnitude 2^U(-12, -6); some fp16-subnormal, some zero."""
    exponent = rng.uniform(-12, -6, shape)
    kind = rng.random(shape)
    exponent = np.where(kind < _SUBNORMAL_SHARE, rng.uniform(-24, -15, shape), exponent)
    values = np.exp2(exponent) * rng.choice((-1.0, 1.0), shape)
    return np.where(kind > 1 - _ZERO_SHARE, 0, values).astype(np.float32)


def _put_f16(blocks: Bytes, offset: int, rng: np.random.Generator) -> None:
    blocks[:, offset : offset + 2] = _scales(len(blocks), rng).astype("<f2")[:, None].view(np.uint8)


def _put_f32(blocks: Bytes, offset: int, rng: np.random.Generator) -> None:
    blocks[:, offset : offset + 4] = _scales(len(blocks), rng).astype("<f4")[:, None].view(np.uint8)


def _put_e8m0(blocks: Bytes, offset: int, rng: np.random.Generator) -> None:
    blocks[:, offset] = rng.integers(110, 126, len(blocks), dtype=np.uint8)  # 2^-17 to 2^-2


def _put_ue4m3(blocks: Bytes, offset: int, rng: np.random.Generator) -> None:
    blocks[:, offset] = rng.integers(1, 0x51, len(blocks), dtype=np.uint8)


def _put_iq1m(blocks: Bytes, offset: int, rng: np.random.Generator) -> None:
    """Scatter an fp16 over the top nibbles of four u16, its lowest nibble in the first, as ggml does."""
    bits = _scales(len(blocks), rng).astype(np.float16).view(np.uint16)
    fields = blocks[:, offset : offset + 8].copy().view("<u2")
    for i in range(4):
        fields[:, i] = (fields[:, i] & 0x0FFF) | ((bits >> (4 * i) & 0xF) << 12)
    blocks[:, offset : offset + 8] = fields.view(np.uint8)


_PUT: dict[str, Callable[[Bytes, int, np.random.Generator], None]] = {
    "f16": _put_f16,
    "f32": _put_f32,
    "e8m0": _put_e8m0,
    "ue4m3": _put_ue4m3,
    "iq1m": _put_iq1m,
}


def _put_scale(blocks: Bytes, field: ScaleField, rng: np.random.Generator) -> None:
    _PUT[field.kind](blocks, field.offset, rng)


def _put_bsums(blocks: Bytes) -> None:
    """Set Q8_K's i16 bsums[16] (bytes 260 to 292) to the sums of its i8 codes (bytes 4 to 260), 16 at a time."""
    codes = blocks[:, 4:260].view(np.int8).reshape(-1, 16, 16)
    blocks[:, 260:] = codes.sum(axis=2, dtype="<i2").view(np.uint8)


def _put_ternary_codes(blocks: Bytes, rng: np.random.Generator) -> None:
    """Set TQ2_0's 2-bit codes (bytes 0 to 64) to 0, 1 or 2: its fourth code means 2, which no ternary weight is."""
    codes = rng.integers(0, 3, (len(blocks), 64, 4), dtype=np.uint8)
    blocks[:, :64] = codes[..., 0] | codes[..., 1] << 2 | codes[..., 2] << 4 | codes[..., 3] << 6
