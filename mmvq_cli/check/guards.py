"""Poisoned outputs between guard bands: proof that every element is written and nothing else is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmvq_cli.engine.base import Engine
from mmvq_cli.engine.elements import storage_dtype
from mmvq_cli.op import Dtype

GUARD_BYTES = 4096
_GUARD_BYTE = 0xA5
# Quiet NaNs with payloads that no arithmetic makes.
_POISON = {Dtype.F32: 0x7FC0DEAD, Dtype.F16: 0x7EAD, Dtype.BF16: 0x7FEA}


@dataclass(frozen=True, slots=True)
class GuardedOutput:
    """An output [rows, cols] in the middle of one allocation, with `GUARD_BYTES` on both sides."""

    allocation: Any
    array: Any
    dtype: Dtype

    @classmethod
    def allocate(cls, engine: Engine, shape: tuple[int, int], dtype: Dtype) -> GuardedOutput:
        """Allocate and poison."""
        storage = storage_dtype(dtype)
        n_bytes = shape[0] * shape[1] * storage.itemsize
        allocation = engine.xp.empty(n_bytes + 2 * GUARD_BYTES, dtype=np.uint8)
        array = allocation[GUARD_BYTES : GUARD_BYTES + n_bytes].view(storage).reshape(shape)
        output = cls(allocation, array, dtype)
        output.poison()
        return output

    def poison(self) -> None:
        """Fill the output with a NaN payload and the bands with their pattern."""
        self.allocation[...] = _GUARD_BYTE
        bits = self.array.view(np.uint32 if self.dtype is Dtype.F32 else np.uint16)
        bits[...] = _POISON[self.dtype]

    def unwritten(self, host_output: NDArray[Any]) -> int:
        """Elements that still hold the poison."""
        bits = host_output.view(np.uint32 if self.dtype is Dtype.F32 else np.uint16)
        return int(np.count_nonzero(bits == _POISON[self.dtype]))

    def damaged(self) -> int:
        """Bytes of the guard bands that changed."""
        bands = (self.allocation[:GUARD_BYTES], self.allocation[self.allocation.size - GUARD_BYTES :])
        return sum(int((band != _GUARD_BYTE).sum()) for band in bands)


def checksum(array: Any) -> int:
    """Order-independent checksum of an array's bytes: equal before and after a launch means untouched inputs.

    Read in the widest words that its size is a multiple of: equal slices of an aligned buffer start on such words, and
    a GPU faults on any other.
    """
    flat = array.reshape(-1).view(np.uint8)
    word = next(
        word for word in (np.uint64, np.uint32, np.uint16, np.uint8) if flat.size % np.dtype(word).itemsize == 0
    )
    return int(flat.view(word).sum(dtype=np.uint64))
