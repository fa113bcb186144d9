"""What the scales of packed blocks say of each expert, as integers: a CPU and a GPU gather the same to the last bit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mmvq_cli.op.formats import Format
from mmvq_cli.validate.scales import SIGNIFICANT_BITS, Bytes, Scales, scales_of

_LOWEST_EXPONENT = 64  # MXFP4 code below which no quantizer writes weights that are not zero
_HIGHEST_EXPONENT = 160


@dataclass(slots=True)
class FieldFacts:
    """One scale field, arrays [n_experts, ...]: magnitudes are bits without sign, `powers` as in `Scales.powers`."""

    largest: NDArray[np.int64]
    is_negative: NDArray[np.bool_]
    powers: NDArray[np.int64]


@dataclass(slots=True)
class Facts:
    """All scale fields of some blocks of a few experts, arrays [n_experts]."""

    fields: tuple[FieldFacts, ...]
    is_any: NDArray[np.bool_]
    has_odd_exponent: NDArray[np.bool_]

    def add(self, other: Facts) -> None:
        """Take in the facts of other blocks of the same experts."""
        for own, more in zip(self.fields, other.fields, strict=True):
            np.maximum(own.largest, more.largest, out=own.largest)
            own.is_negative |= more.is_negative
            own.powers += more.powers
        self.is_any |= other.is_any
        self.has_odd_exponent |= other.has_odd_exponent


# Takes packed blocks u8 [n_experts, n_blocks, type_size].
Gather = Callable[[Bytes, Format], Facts]


def facts_of(blocks: Bytes, weight_format: Format) -> Facts:
    """Gather on the CPU from u8 [n_experts, n_blocks, type_size]."""
    fields, is_any, is_odd = [], np.zeros(len(blocks), bool), np.zeros(len(blocks), bool)
    for scales in scales_of(weight_format):
        bits = scales.read(blocks)
        magnitudes = scales.magnitudes(bits)
        largest = magnitudes.max(axis=1).astype(np.int64)
        is_negative = np.zeros(len(blocks), bool)
        powers = np.zeros((len(blocks), 0), np.int64)
        if not weight_format.is_float:
            powers = scales.powers(magnitudes)
            if scales.encoding.sign:
                is_negative = bits.max(axis=1) > scales.encoding.sign
        fields.append(FieldFacts(largest, is_negative, powers))
        if scales.stored == "e8m0":
            is_odd |= odd_exponents(blocks).any(axis=1)
            is_any |= blocks.reshape(len(blocks), -1).any(axis=1)
        else:
            is_any |= largest > 0
    return Facts(tuple(fields), is_any, is_odd)


def cuda_gather(device_index: int) -> Gather:
    """Gather on GPU `device_index`.

    Raises `EnvironmentInvalid` when it cannot be used, and, while gathering, `OutOfMemory` or `LaunchError`.
    """
    from mmvq_cli.engine.cuda import ScaleField, current_device, scan_scales

    current_device(device_index)

    def gather(blocks: Bytes, weight_format: Format) -> Facts:
        every = scales_of(weight_format)
        rows = [ScaleField(*_kernel_field(scales, weight_format)) for scales in every]
        fields, is_any, is_odd = [], np.zeros(len(blocks), bool), np.zeros(len(blocks), bool)
        for scales, (extremes, powers) in zip(every, scan_scales(blocks, rows, device_index), strict=True):
            n_exponents = 0 if weight_format.is_float else scales.encoding.n_exponents
            largest, negative, not_zero, odd = extremes.T
            is_negative = negative > 0 if n_exponents else np.zeros(len(blocks), bool)
            field = FieldFacts(
                largest.astype(np.uint32).astype(np.int64), is_negative, powers[:, :n_exponents].astype(np.int64)
            )
            fields.append(field)
            is_any |= not_zero > 0
            is_odd |= odd > 0
        return Facts(tuple(fields), is_any, is_odd)

    return gather


def _kernel_field(scales: Scales, weight_format: Format) -> tuple[int, ...]:
    """The numbers of `ScaleField`, in order."""
    encoding, is_exponent = scales.encoding, scales.stored == "e8m0"
    width = 8 if scales.stored == "iq1m" else np.dtype(scales.dtype).itemsize
    kept_bits = -1 if weight_format.is_float else min(encoding.mantissa_bits, SIGNIFICANT_BITS)
    bounds = (_LOWEST_EXPONENT, _HIGHEST_EXPONENT) if is_exponent else (-1, -1)
    bits = (encoding.sign, encoding.not_finite, encoding.mantissa_bits, kept_bits)
    return weight_format.type_size, scales.offset, width, encoding.lanes, *bits, *bounds


def odd_exponents(blocks: Bytes) -> NDArray[np.bool_]:
    """Which MXFP4 blocks [..., 17] have an exponent that no quantizer writes: above 160, or below 64 with weights."""
    exponents = blocks[..., 0]
    odd: NDArray[np.bool_] = exponents > _HIGHEST_EXPONENT
    low = exponents < _LOWEST_EXPONENT
    if low.any():
        odd[low] = (blocks[low][:, 1:] & 0x77).any(axis=1)  # without the signs: -0 is 0
    return odd
