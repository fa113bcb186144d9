"""Activations and outputs on the host: f32, f16, and bf16 as the upper 16 bits of a float32."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmvq_cli.op import Dtype

_STORAGE: dict[Dtype, np.dtype[Any]] = {
    Dtype.F32: np.dtype(np.float32),
    Dtype.F16: np.dtype(np.float16),
    Dtype.BF16: np.dtype(np.uint16),
}


def storage_dtype(dtype: Dtype) -> np.dtype[Any]:
    """The NumPy dtype that holds `dtype`; uint16 bits for bf16."""
    return _STORAGE[dtype]


def widen(values: NDArray[Any], dtype: Dtype) -> NDArray[np.float32]:
    """Exact float32 values of an array in storage form."""
    if dtype is Dtype.BF16:
        return (values.astype(np.uint32) << 16).view(np.float32)
    return values.astype(np.float32)


def narrow(values: NDArray[np.float32], dtype: Dtype) -> NDArray[Any]:
    """Round float32 to storage form, to nearest even; NaN stays NaN, overflow becomes infinite."""
    if dtype is not Dtype.BF16:
        with np.errstate(over="ignore"):
            return values.astype(_STORAGE[dtype])
    bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
    rounded = ((bits.astype(np.uint64) + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
    quiet_nan = ((bits >> 16) | 0x40).astype(np.uint16)
    return np.where(np.isnan(values), quiet_nan, rounded)
