"""Rounding to the storage types."""

import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmvq_cli.engine.elements import narrow, storage_dtype, widen
from mmvq_cli.op import Dtype

ALL_BF16 = np.arange(2**16, dtype=np.uint16)


def nearest_bf16(value):
    """Independent of bit tricks: of the two neighbours take the nearer one, of equals the even one."""
    (bits,) = struct.unpack("<I", struct.pack("<f", value))
    lower = bits >> 16
    low, high = (widen(np.array([b], np.uint16), Dtype.BF16).astype(np.float64)[0] for b in (lower, lower + 1))
    if not np.isfinite(high):  # past the largest finite value: the midpoint is half a step beyond it
        high = np.copysign(2.0**128, low)
    below, above = abs(value - low), abs(high - value)
    if below == above:
        return lower if lower % 2 == 0 else lower + 1
    return lower if below < above else lower + 1


@given(st.floats(width=32, allow_nan=False, allow_infinity=False))
def test_bf16_is_the_nearest_even(value):
    assert narrow(np.array([value], np.float32), Dtype.BF16)[0] == nearest_bf16(value)


@pytest.mark.parametrize("offset", [0x7FFF, 0x8000, 0x8001])
def test_bf16_around_every_midpoint(offset):
    finite = ALL_BF16[np.isfinite(widen(ALL_BF16, Dtype.BF16))]
    values = ((finite.astype(np.uint32) << 16) + np.uint32(offset)).view(np.float32)
    up = {0x7FFF: finite * 0, 0x8000: finite % 2, 0x8001: finite * 0 + 1}[offset]
    np.testing.assert_array_equal(narrow(values, Dtype.BF16), finite + up)


def test_all_bf16_values_survive_widening_and_nan_stays_nan():
    wide = widen(ALL_BF16, Dtype.BF16)
    back = narrow(wide, Dtype.BF16)
    is_nan = np.isnan(wide)
    np.testing.assert_array_equal(back[~is_nan], ALL_BF16[~is_nan])
    assert np.isnan(widen(back[is_nan], Dtype.BF16)).all()
    low_payload = np.array([0x7F800001, 0xFFFFFFFF], np.uint32).view(np.float32)
    assert np.isnan(widen(narrow(low_payload, Dtype.BF16), Dtype.BF16)).all()


def test_overflow_is_infinite_without_a_warning():
    values = np.array([70000, -70000, np.nan], np.float32)
    with np.errstate(all="raise"):
        assert narrow(values, Dtype.F16)[:2].tolist() == [np.inf, -np.inf]
    assert np.isnan(narrow(values, Dtype.F16)[2])
    assert widen(narrow(np.array([3.4e38], np.float32), Dtype.BF16), Dtype.BF16)[0] == np.inf


@pytest.mark.parametrize("dtype", list(Dtype))
def test_storage_has_the_dtypes_size_and_keeps_the_shape(dtype):
    values = np.arange(6, dtype=np.float32).reshape(2, 3)
    stored = narrow(values, dtype)
    assert stored.dtype == storage_dtype(dtype)
    assert stored.itemsize == dtype.itemsize
    np.testing.assert_array_equal(widen(stored, dtype), values)
    np.testing.assert_array_equal(widen(narrow(values[:, ::2], dtype), dtype), values[:, ::2])
