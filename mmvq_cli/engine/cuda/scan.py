"""Scale fields of packed blocks, read by a kernel: extremes and exact sums of each expert, for validation."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmvq_cli.engine.cuda.device import current_device, import_cupy
from mmvq_cli.engine.cuda.launch import launch_errors, load_kernel, on_device
from mmvq_cli.engine.cuda.memory import allocate

N_EXTREMES, N_EXPONENTS = 4, 256  # numbers of an expert, as in kernels/scan.cu
_THREADS = 256
_BLOCKS_PER_SM = 8

_local = threading.local()


class ScaleField(ctypes.Structure):
    """One scale field; kernels/scan.cu states the same struct and what each number means."""

    _fields_ = [
        (name, ctypes.c_uint32 if name in ("sign", "not_finite") else ctypes.c_int32)
        for name in (
            "type_size",
            "offset",
            "width",
            "lanes",
            "sign",
            "not_finite",
            "mantissa_bits",
            "kept_bits",
            "lowest",
            "highest",
        )
    ]


def scan_scales(
    blocks: NDArray[np.uint8], fields: Sequence[ScaleField], device_index: int
) -> list[tuple[NDArray[np.int32], NDArray[np.uint64]]]:
    """Read u8 [n_experts, n_blocks, type_size]; for each field extremes [n_experts, 4] and powers [n_experts, 256].

    Threads may call it at once: each has a stream. Raises `OutOfMemory`, `LaunchError`, `BuildError`.
    """
    cupy = import_cupy()
    kernel = load_kernel("scan_scales", "scan.cu", (), device_index)
    n_experts, n_blocks, _ = blocks.shape
    with on_device(device_index), launch_errors("scan_scales"), _stream(device_index):
        packed = allocate(blocks.nbytes, device_index)
        packed.set(blocks.reshape(-1))
        results = []
        for field in fields:
            extremes = cupy.zeros((n_experts, N_EXTREMES), cupy.int32)
            powers = cupy.zeros((n_experts, N_EXPONENTS), cupy.uint64)
            sizes = (ctypes.c_int64(n_experts * n_blocks), ctypes.c_int64(n_blocks))
            kernel(
                _grid(n_experts * n_blocks, device_index), (_THREADS, 1, 1), (packed, *sizes, field, extremes, powers)
            )
            results.append((extremes.get(), powers.get()))
    return results


def _stream(device_index: int) -> Any:
    """Keep one stream a thread: the memory pool keeps freed blocks by stream and would grow with new ones."""
    streams: dict[int, Any] = _local.__dict__.setdefault("streams", {})
    if device_index not in streams:
        streams[device_index] = import_cupy().cuda.Stream(non_blocking=True)
    return streams[device_index]


def _grid(n_blocks: int, device_index: int) -> tuple[int, int, int]:
    most = current_device(device_index).sm_count * _BLOCKS_PER_SM
    return (max(1, min(most, -(-n_blocks // _THREADS))), 1, 1)
