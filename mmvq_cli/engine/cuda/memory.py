"""Device memory: how much is free, allocation that says no beforehand, and upload through bounded pinned memory."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmvq_cli.engine.cuda.device import import_cupy
from mmvq_cli.engine.cuda.launch import launch_errors, on_device
from mmvq_cli.errors import OutOfMemory
from mmvq_cli.model import ExpertTensor

# Left free for what allocates behind our back: loaded modules, graphs, the driver's own local memory.
MARGIN_BYTES = 256 * 2**20
_HALF_BYTES = 32 * 2**20  # of the staging buffer; one half is read from disk while the other is copied


def free_bytes(device_index: int) -> int:
    """Bytes that can still be allocated: the device's free memory and the pool's, minus the margin."""
    cupy = import_cupy()
    with on_device(device_index):
        unused = cupy.cuda.runtime.memGetInfo()[0] + cupy.get_default_memory_pool().free_bytes()
    return max(0, int(unused) - MARGIN_BYTES)


def release(device_index: int) -> None:
    """Give the pool's unused blocks, device and pinned, back to the driver; waits for the device."""
    cupy = import_cupy()
    with on_device(device_index), launch_errors("before memory was released"):
        cupy.cuda.runtime.deviceSynchronize()
        cupy.get_default_memory_pool().free_all_blocks()
        cupy.get_default_pinned_memory_pool().free_all_blocks()


def allocate(n_bytes: int, device_index: int) -> Any:
    """Make an array u8 [n_bytes], not initialized.

    Raises `OutOfMemory`, before allocating, when it does not fit.
    """
    cupy = import_cupy()
    require_free(n_bytes, device_index)
    with on_device(device_index):
        try:
            return cupy.empty(n_bytes, cupy.uint8)
        except cupy.cuda.memory.OutOfMemoryError as error:  # somebody else took it meanwhile
            raise OutOfMemory(n_bytes, free_bytes(device_index)) from error


def require_free(n_bytes: int, device_index: int) -> None:
    """Raise `OutOfMemory` unless `n_bytes` more can be allocated in one piece."""
    with on_device(device_index):
        unused = import_cupy().cuda.runtime.memGetInfo()[0]
    if n_bytes <= unused - MARGIN_BYTES:
        return
    release(device_index)  # blocks that the pool keeps may have the wrong sizes
    if n_bytes > free_bytes(device_index):
        raise OutOfMemory(n_bytes, free_bytes(device_index))


def download(array: Any) -> NDArray[Any]:
    """Copy to the host a device array, or of anything with the CUDA array interface."""
    with launch_errors("download"):
        host: NDArray[Any] = import_cupy().asarray(array).get()
    return host


def upload_experts(tensor: ExpertTensor, experts: list[int], target: Any, device_index: int) -> None:
    """Read the bytes of `experts` (ascending) from the file into the same place of `target`, u8 [tensor.n_bytes].

    Raises `OpenError` when the file shrank, `LaunchError` when a copy failed.
    """
    cupy = import_cupy()
    runtime = cupy.cuda.runtime
    with on_device(device_index), launch_errors("upload of expert weights"):
        runtime.deviceSynchronize()  # the pool may hand out memory that queued work still reads
        pinned = cupy.cuda.alloc_pinned_memory(2 * _HALF_BYTES)
        halves = np.frombuffer(pinned, np.uint8, 2 * _HALF_BYTES).reshape(2, _HALF_BYTES)
        copied = [cupy.cuda.Event(disable_timing=True) for _ in halves]
        stream = cupy.cuda.Stream(non_blocking=True)
        try:
            for turn, (offset, n_bytes) in enumerate(_pieces(experts, tensor.expert_bytes)):
                half = halves[turn % 2, :n_bytes]
                copied[turn % 2].synchronize()  # until the copy two turns ago has left this half
                tensor.read_into(offset, half.data)
                runtime.memcpyAsync(
                    target.data.ptr + offset, half.ctypes.data, n_bytes, runtime.memcpyHostToDevice, stream.ptr
                )
                copied[turn % 2].record(stream)
        finally:
            stream.synchronize()  # the pinned memory must outlive the copies, also when a read fails


def _pieces(experts: list[int], expert_bytes: int) -> list[tuple[int, int]]:
    """(offset, n_bytes) of at most half a buffer each, runs of neighbouring experts joined."""
    runs: list[list[int]] = []  # [first byte, byte after the last]
    for expert in experts:
        if runs and runs[-1][1] == expert * expert_bytes:
            runs[-1][1] += expert_bytes
        else:
            runs.append([expert * expert_bytes, (expert + 1) * expert_bytes])
    return [
        (offset, min(_HALF_BYTES, end - offset)) for start, end in runs for offset in range(start, end, _HALF_BYTES)
    ]
