"""The canary on a GPU: the kernel `canary_read` in replayed graphs, in the launch shape that suits the size best."""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable, Iterator
from statistics import median
from typing import Any, Protocol

import numpy as np

from mmvq_cli.measure.canary import Canary, CanaryBench, Pattern
from mmvq_cli.measure.cuda_timer import GraphTimer
from mmvq_cli.op.device import Device

# (blocks per multiprocessor, threads per block): from just enough loads in flight to a full multiprocessor.
_SHAPES = ((1, 256), (1, 512), (2, 256), (1, 1024), (2, 512), (4, 512), (2, 1024), (8, 256))
_LARGE_BYTES = 256 * 2**20
_MIN_LAUNCHES, _MIN_LARGE_LAUNCHES, _MAX_SLICES = 16, 4, 2048
_BUFFER_X_L2 = 4
_SETTLE_S = 0.05
_SHAPE_SAMPLES, _SAMPLES = 3, 15
_MEMORY_SHARE = 0.8


class Kernel(Protocol):
    """A loaded kernel: enqueues one launch; args are ctypes values."""

    def __call__(
        self, grid: tuple[int, int, int], block: tuple[int, int, int], args: tuple[Any, ...], stream: Any
    ) -> None:
        """Enqueue on a CuPy stream."""


LoadKernel = Callable[[str, str, tuple[tuple[str, int], ...]], Kernel]  # (entry, source, defines) -> kernel


class CudaCanary(CanaryBench):
    """Canaries of the current GPU, whose facts are `device`.

    `load(entry, source, defines)` builds a kernel of kernels/ (`mmvq_cli.engine.cuda.launch.load_kernel`). Memory is
    held only while a size is measured. Raises `LaunchError` when the device fails.
    """

    stream_bytes = 4 * 2**30

    def __init__(self, load: LoadKernel, device: Device) -> None:
        super().__init__()
        self._kernel = load("canary_read", "canary.cu", ())
        self._device = device
        self._pattern = Pattern()

    def read(self, n_bytes: int) -> Canary:
        """Measure one size: slices of a buffer of 4x L2 in turn, so that each is out of the cache when it returns.

        Below 4x L2 / 2048 (a hundred KB) slices do come back warm; the launch costs more than the read there.
        """
        room_bytes = _free_bytes() * _MEMORY_SHARE
        n_bytes = int(min(n_bytes, room_bytes)) // 16 * 16
        n_slices = int(min(-(-_BUFFER_X_L2 * self._device.l2_bytes // n_bytes), room_bytes // n_bytes, _MAX_SLICES))
        n_slices = max(1, n_slices)
        turns = -(-(_MIN_LARGE_LAUNCHES if n_bytes >= _LARGE_BYTES else _MIN_LAUNCHES) // n_slices)
        expected = self._pattern.sum_words(n_slices * n_bytes, np.uint32) * turns % 2**64
        data, total = self._filled(n_slices * n_bytes), _zeroed_word()

        def timer_of(shape: tuple[int, int]) -> GraphTimer:
            blocks, threads = shape

            def enqueue(i: int, stream: Any) -> None:
                address = data.ptr + i % n_slices * n_bytes
                args = (ctypes.c_uint64(address), ctypes.c_int64(n_bytes // 16), ctypes.c_uint64(total.ptr))
                self._kernel((blocks, 1, 1), (threads, 1, 1), args, stream)

            return GraphTimer(enqueue, n_slices * turns)

        timers = {shape: timer_of(shape) for shape in dict.fromkeys(self._shapes(n_bytes // 16))}
        shape = _fastest(timers)
        time_ns = median(timers[shape].sample() for _ in range(_SAMPLES))
        _zero(total)
        timers[shape].replay()
        return Canary(n_bytes, time_ns, shape, checksum_ok=_word(total) == expected)

    def _shapes(self, n_vectors: int) -> Iterator[tuple[int, int]]:
        """Blocks and threads to try; no more threads than vectors."""
        for blocks_per_sm, threads in _SHAPES:
            yield min(blocks_per_sm * self._device.sm_count, -(-n_vectors // threads)), threads

    def _filled(self, n_bytes: int) -> Any:
        """Device memory with the pattern's first `n_bytes`."""
        import cupy

        data = cupy.cuda.alloc(n_bytes)
        chunk_bytes = min(self._pattern.chunk.nbytes, n_bytes)
        data.copy_from_host(ctypes.c_void_p(self._pattern.chunk.ctypes.data), chunk_bytes)
        for offset in range(chunk_bytes, n_bytes, chunk_bytes):
            (data + offset).copy_from_device(data, min(chunk_bytes, n_bytes - offset))
        return data


def _fastest(timers: dict[tuple[int, int], GraphTimer]) -> tuple[int, int]:
    """Find the launch shape with the least median, after the clocks had time to rise."""
    first = next(iter(timers.values()))
    end_s = time.perf_counter() + _SETTLE_S
    while time.perf_counter() < end_s:
        first.sample()
    times_ns = {shape: median(timer.sample() for _ in range(_SHAPE_SAMPLES)) for shape, timer in timers.items()}
    return min(times_ns, key=lambda shape: times_ns[shape])


def _free_bytes() -> int:
    """Device memory that an allocation could get: free by the driver, or held back by CuPy's pool."""
    import cupy

    return int(cupy.cuda.runtime.memGetInfo()[0] + cupy.get_default_memory_pool().free_bytes())


def _zeroed_word() -> Any:
    import cupy

    memory = cupy.cuda.alloc(8)
    _zero(memory)
    return memory


def _zero(memory: Any) -> None:
    import cupy

    memory.memset(0, 8)
    cupy.cuda.runtime.deviceSynchronize()


def _word(memory: Any) -> int:
    value = ctypes.c_uint64()
    memory.copy_to_host(ctypes.cast(ctypes.pointer(value), ctypes.c_void_p), 8)
    return value.value
