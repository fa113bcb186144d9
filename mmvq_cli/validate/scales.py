"""The scales of packed blocks as arrays: their bits, which bits are wrong, and what they are worth.

Layouts: ggml-common.h. A scale array is [n_experts, n_blocks x lanes], its integers ordered like the magnitudes.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmvq_cli.op.formats import Format

Bytes = NDArray[np.uint8]
Bits = NDArray[np.unsignedinteger[Any]]

# Types whose quantizer in ggml never writes a negative scale in these fields (measured on mixed data).
_NEVER_NEGATIVE = {
    **dict.fromkeys(("Q4_1", "Q5_1", "Q8_0", "TQ1_0", "TQ2_0"), (0,)),
    **dict.fromkeys(("IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S"), (0,)),
    **dict.fromkeys(("Q2_K", "Q4_K", "Q5_K"), (0, 1)),
}


@dataclass(frozen=True, slots=True)
class Encoding:
    """How one kind of scale is stored: `sign` bit (0: none), smallest magnitude that is NaN or Inf, `lanes` a block."""

    kind: str
    sign: int
    not_finite: int
    lanes: int = 1


_ENCODINGS = {
    "f16": Encoding("f16", 0x8000, 0x7C00),
    "bf16": Encoding("bf16", 0x8000, 0x7F80),
    "f32": Encoding("f32", 0x80000000, 0x7F800000),
    "iq1m": Encoding("f16", 0x8000, 0x7C00),
    "e8m0": Encoding("e8m0", 0, 0xFF),
    "ue4m3": Encoding("ue4m3", 0x80, 0x7F, lanes=4),
}


@dataclass(frozen=True, slots=True)
class Scales:
    """One scale field of a format: `read` takes packed blocks u8 [n_experts, n_blocks, type_size]."""

    stored: str
    offset: int
    never_negative: bool

    @property
    def encoding(self) -> Encoding:
        """How its bits are to be read."""
        return _ENCODINGS[self.stored]

    @property
    def dtype(self) -> str:
        """The integer type of its bits."""
        return {"f32": "<u4", "e8m0": "u1", "ue4m3": "u1"}.get(self.stored, "<u2")

    def read(self, blocks: Bytes) -> Bits:
        """Gather the bits of all scales: [n_experts, n_blocks x lanes], contiguous."""
        n_experts = len(blocks)
        match self.stored:
            case "e8m0":
                return blocks[..., self.offset].copy()
            case "ue4m3":
                return blocks[..., self.offset : self.offset + 4].reshape(n_experts, -1)
            case "iq1m":
                return _gather_iq1m(blocks[..., self.offset : self.offset + 8])
            case _:
                field = blocks[..., self.offset : self.offset + (4 if self.stored == "f32" else 2)]
                return np.ascontiguousarray(field.view(self.dtype)[..., 0])

    def magnitudes(self, bits: Bits) -> Bits:
        """The bits without their sign."""
        sign = self.encoding.sign
        return bits & bits.dtype.type(sign - 1) if sign else bits

    def values(self, magnitudes: Bits) -> NDArray[np.float64]:
        """What magnitudes are worth; NaN or Inf where they are not finite."""
        if self.encoding.kind == "f32":
            with np.errstate(invalid="ignore"):  # signalling NaNs
                return magnitudes.view(np.float32).astype(np.float64)
        return np.asarray(_table(self.encoding.kind).take(magnitudes))

    def squares(self, magnitudes: Bits) -> NDArray[np.float64]:
        """The sum of squares of each expert's finite scales: [n_experts]."""
        if self.encoding.kind == "f32":
            values = np.nan_to_num(self.values(magnitudes), nan=0, posinf=0)
            return np.asarray(np.square(values).sum(axis=1))
        return np.asarray(_square_table(self.encoding.kind).take(magnitudes).sum(axis=1), np.float64)


def scales_of(weight_format: Format) -> tuple[Scales, ...]:
    """The scale fields of a format; a plain format is one whose every weight is a scale."""
    if weight_format.is_float:
        return (Scales(weight_format.name.lower(), 0, never_negative=False),)
    never = _NEVER_NEGATIVE.get(weight_format.name, ())
    fields = [field for field in weight_format.scales if field.kind != "ue4m3"] or [weight_format.scales[0]]
    return tuple(Scales(field.kind, field.offset, number in never) for number, field in enumerate(fields))


def _gather_iq1m(fields: Bytes) -> Bits:
    """Put the fp16 together that IQ1_M scatters over the top nibbles of four u16, lowest nibble first."""
    words = np.ascontiguousarray(fields).view("<u2")
    top = words >> words.dtype.type(12)
    return np.asarray(top[..., 0] | top[..., 1] << 4 | top[..., 2] << 8 | top[..., 3] << 12, np.uint16)


@cache
def _table(kind: str) -> NDArray[np.float64]:
    """The value of every magnitude of a kind with at most 16 bits."""
    with np.errstate(over="ignore", invalid="ignore"):
        match kind:
            case "f16":
                return np.arange(2**15, dtype=np.uint16).view(np.float16).astype(np.float64)
            case "bf16":
                return (np.arange(2**15, dtype=np.uint32) << 16).view(np.float32).astype(np.float64)
            case "e8m0":
                return np.append(np.exp2(np.arange(255) - 127.0), np.nan)
            case _:  # ue4m3: bias 7, subnormals below 8, 0x7F is NaN
                code = np.arange(128)
                exponent, mantissa = code >> 3, code & 7
                value = np.where(exponent, np.exp2(exponent - 7.0) * (1 + mantissa / 8), mantissa * 2.0**-9)
                return np.where(code == 0x7F, np.nan, value)


@cache
def _square_table(kind: str) -> NDArray[np.floating[Any]]:
    """The squares of finite magnitudes, 0 for the others; f32 for fp16, so that the table stays in the L2 cache."""
    values = _table(kind)
    squares = np.where(np.isfinite(values), values, 0) ** 2
    return squares.astype(np.float32) if kind == "f16" else squares
