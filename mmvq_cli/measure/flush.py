"""Emptying the last-level cache before a launch: write, then read, twice its size, so that the lines left are clean."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np

from mmvq_cli.measure.cuda_canary import Kernel, LoadKernel
from mmvq_cli.measure.rotation import FLUSH_X_L2
from mmvq_cli.op.device import Device

_BLOCKS_PER_SM, _THREADS = 2, 512


class CudaFlush:
    """Enqueues a flush of the current GPU's L2 cache; holds 2x L2 bytes of device memory."""

    def __init__(self, load: LoadKernel, device: Device) -> None:
        import cupy

        self._n_bytes = int(FLUSH_X_L2 * device.l2_bytes) // 16 * 16
        self._kernel: Kernel = load("canary_read", "canary.cu", ())
        self._blocks = _BLOCKS_PER_SM * device.sm_count
        self._data, self._total = cupy.cuda.alloc(self._n_bytes), cupy.cuda.alloc(8)

    def __call__(self, stream: Any) -> None:
        """Enqueue on a CuPy stream."""
        self._data.memset_async(0, self._n_bytes, stream)
        vectors = ctypes.c_int64(self._n_bytes // 16)
        args = (ctypes.c_uint64(self._data.ptr), vectors, ctypes.c_uint64(self._total.ptr))
        self._kernel((self._blocks, 1, 1), (_THREADS, 1, 1), args, stream)


class CpuFlush:
    """Flushes a CPU's last-level cache of `cache_bytes`; holds twice that."""

    def __init__(self, cache_bytes: int) -> None:
        self._words = np.empty(int(FLUSH_X_L2 * cache_bytes) // 8, np.uint64)

    def __call__(self) -> None:
        """Write and read the whole buffer."""
        self._words.fill(0)
        self._words.sum()
