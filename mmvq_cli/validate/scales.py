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

_MANY = 4096  # scales of an expert, from which on counting codes beats summing squares
SIGNIFICANT_BITS = 10  # of a mantissa that count in a sum of squares: all of them, but for f32


@dataclass(frozen=True, slots=True)
class Encoding:
    """How one kind of scale is stored: `sign` bit (0: none), smallest magnitude that is NaN or Inf, `lanes` a block.

    `mantissa_bits` lie below the exponent, whose value 1 stands for 2^`lowest`; e8m0 is an exponent alone.
    """

    kind: str
    sign: int
    not_finite: int
    mantissa_bits: int
    lowest: int
    lanes: int = 1

    @property
    def n_exponents(self) -> int:
        """How many values the exponent of a finite magnitude has."""
        return (self.not_finite - 1 >> self.mantissa_bits) + 1


_ENCODINGS = {
    "f16": Encoding("f16", 0x8000, 0x7C00, 10, -14),
    "bf16": Encoding("bf16", 0x8000, 0x7F80, 7, -126),
    "f32": Encoding("f32", 0x80000000, 0x7F800000, 23, -126),
    "iq1m": Encoding("f16", 0x8000, 0x7C00, 10, -14),
    "e8m0": Encoding("e8m0", 0, 0xFF, 0, -126),
    "ue4m3": Encoding("ue4m3", 0x80, 0x7F, 3, -6, lanes=4),
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

    def powers(self, magnitudes: Bits) -> NDArray[np.int64]:
        """Squares of each expert's significands, summed by exponent: [n_experts, n_exponents], exact in any order."""
        if magnitudes.dtype.itemsize < 4 and magnitudes.shape[1] >= _MANY:
            return np.stack([self._powers_by_code(row) for row in magnitudes])
        encoding, n_experts = self.encoding, len(magnitudes)
        spare = encoding.n_exponents + 1  # one more for what is not finite
        exponents = magnitudes >> magnitudes.dtype.type(encoding.mantissa_bits)
        exponents[magnitudes >= encoding.not_finite] = encoding.n_exponents
        squares = np.square(_significands(magnitudes, encoding), dtype=np.float64)
        places = exponents + (np.arange(n_experts) * spare)[:, None]
        sums = np.bincount(places.reshape(-1), weights=squares.reshape(-1), minlength=n_experts * spare)
        return sums.reshape(n_experts, spare)[:, :-1].astype(np.int64)

    def _powers_by_code(self, magnitudes: Bits) -> NDArray[np.int64]:
        """The same of one expert, by counting how often each magnitude comes: for many scales it is faster."""
        squares = _significand_squares(self.encoding.kind)
        counts = np.bincount(magnitudes, minlength=squares.size)[: squares.size]
        return np.asarray((counts.reshape(squares.shape) * squares).sum(axis=1))

    def root_mean_squares(self, powers: NDArray[np.int64], n_scales: int) -> NDArray[np.float64]:
        """The root mean square [n_experts] of `n_scales` scales an expert, from their `powers`."""
        encoding = self.encoding
        exponents = np.maximum(np.arange(encoding.n_exponents), 0 if encoding.mantissa_bits == 0 else 1)
        unit = 2.0 ** (exponents - 1 + encoding.lowest - min(encoding.mantissa_bits, SIGNIFICANT_BITS))
        return np.asarray(np.sqrt((powers * np.square(unit)).sum(axis=1) / n_scales))


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


def _significands(magnitudes: Bits, encoding: Encoding) -> Bits:
    """The top bits of each mantissa as an integer, with the leading 1 of those that are not subnormal."""
    kind, bits = magnitudes.dtype.type, encoding.mantissa_bits
    kept = min(bits, SIGNIFICANT_BITS)
    leading = ((magnitudes >> kind(bits)) > 0) | (bits == 0)
    mantissas = (magnitudes & kind((1 << bits) - 1)) >> kind(bits - kept)
    return np.asarray(mantissas | leading.astype(magnitudes.dtype) << kind(kept))


@cache
def _significand_squares(kind: str) -> NDArray[np.int64]:
    """The square of the significand of every magnitude, 0 for NaN: [n_exponents, 2^mantissa_bits]."""
    encoding = next(encoding for encoding in _ENCODINGS.values() if encoding.kind == kind)
    codes = np.arange(encoding.n_exponents << encoding.mantissa_bits, dtype=np.uint16)
    squares = np.square(_significands(codes, encoding), dtype=np.int64)
    return np.where(codes < encoding.not_finite, squares, 0).reshape(encoding.n_exponents, -1)


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
