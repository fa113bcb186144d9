"""What the streaming kernel multiplies with: activations as f16 parts, as digits, or as they are (kernels/mma.cuh)."""

from __future__ import annotations

from dataclasses import dataclass, replace

from mmvq_cli.op.descriptor import Descriptor, Dtype


@dataclass(frozen=True, slots=True)
class Operands:
    """How activations lie in shared memory and on the tensor cores.

    `parts` columns of `element_bytes` for each weight make up a dispatch, which takes `slots` columns of an mma;
    `is_scaled`: 256 activations share a power of two. `digits` is 0 where parts are f16. `min_groups` is the
    format's where offsets are products of their own, `grid_words` where strips look its codebook up, else 0.
    `is_plain`: f32 products instead of the tensor cores.
    """

    parts: int
    slots: int
    element_bytes: int
    is_scaled: bool
    digits: int
    min_groups: int = 0
    grid_words: int = 0
    is_plain: bool = False


_DIGITS = Operands(parts=3, slots=4, element_bytes=1, is_scaled=True, digits=3)
_HALVES = {
    Dtype.F32: Operands(parts=2, slots=2, element_bytes=2, is_scaled=True, digits=0),
    Dtype.F16: Operands(parts=1, slots=1, element_bytes=2, is_scaled=False, digits=0),
    Dtype.BF16: Operands(parts=1, slots=1, element_bytes=2, is_scaled=True, digits=0),
}
_PLAIN = {dtype: Operands(1, 1, dtype.itemsize, is_scaled=False, digits=0, is_plain=True) for dtype in Dtype}


def operands_of(d: Descriptor) -> Operands:
    """The operands of any tile: f16 parts for block formats, plain floats as they are."""
    if d.format.is_float:
        return _PLAIN[d.dtype]
    return replace(_HALVES[d.dtype], min_groups=d.format.min_groups, grid_words=d.format.grid_words)


def halves_of(d: Descriptor) -> Operands:
    """The operands of wide tiles of plain floats: f16 parts, scaled whatever the dtype, so that none is subnormal."""
    return replace(_HALVES[d.dtype], is_scaled=True)


def digits_of(d: Descriptor) -> Operands:
    """The operands of narrow tiles, where `has_digits`."""
    return replace(_DIGITS, min_groups=d.format.min_groups, grid_words=d.format.digit_grid_words)


def has_digits(d: Descriptor) -> bool:
    """Whether narrow tiles of such weights and activations are multiplied as integers.

    Not of f32: 24 bits below the largest of 256 activations miss its error bound (precision.py) on short rows.
    """
    return d.format.digit_tiles > 0 and d.dtype is not Dtype.F32
