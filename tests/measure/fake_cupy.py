"""A GPU without a GPU: CuPy's streams, events and graphs on a virtual clock, with exact times in ns."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np

EVENT_CPU_NS, GRAPH_CPU_NS = 1_000, 8_000


Work = tuple[int, Callable[[], None]]


class Memory:
    """A pointer to zeroed memory, or into it."""

    def __init__(self, n_bytes: int, of: Memory | None = None, offset: int = 0) -> None:
        self.data = np.zeros(n_bytes, np.uint8) if of is None else of.data[offset:]
        self.ptr = self.data.ctypes.data

    def __add__(self, offset: int) -> Memory:
        return Memory(0, self, offset)

    def memset(self, value: int, n_bytes: int) -> None:
        self.data[:n_bytes] = value

    def memset_async(self, value: int, n_bytes: int, stream: Any) -> None:
        self.memset(value, n_bytes)

    def copy_from_host(self, source: ctypes.c_void_p, n_bytes: int) -> None:
        assert n_bytes <= self.data.size
        ctypes.memmove(self.ptr, source, n_bytes)

    def copy_from_device(self, source: Memory, n_bytes: int) -> None:
        self.data[:n_bytes] = source.data[:n_bytes]

    def copy_to_host(self, target: ctypes.c_void_p, n_bytes: int) -> None:
        ctypes.memmove(target, self.ptr, n_bytes)


class FakeGpu:
    """`launch` is the device's one kind of work; `cupy` stands for the module; memory is the host's."""

    def __init__(self) -> None:
        self.cpu_ns = 0
        self.idle_from_ns = 0
        self.device_syncs = 0
        self.memory_bytes = 2**28
        self.captured: list[Work] | None = None
        self.failure: Exception | None = None
        gpu = self

        class Graph:
            def __init__(self, works: list[Work]) -> None:
                self.works = works

            def upload(self, stream: Any) -> None:
                gpu.cpu_ns += GRAPH_CPU_NS

            def launch(self, stream: Any) -> None:
                gpu.cpu_ns += GRAPH_CPU_NS
                for work in self.works:
                    gpu.run(*work)

        class Stream:
            def __init__(self, non_blocking: bool = False) -> None:
                assert non_blocking

            def begin_capture(self) -> None:
                gpu.captured = []

            def end_capture(self) -> Graph:
                works, gpu.captured = gpu.captured, None
                assert works is not None
                return Graph(works)

            def synchronize(self) -> None:
                assert gpu.captured is None
                gpu.wait(gpu.idle_from_ns)

        class Event:
            at_ns = 0

            def record(self, stream: Any) -> None:
                gpu.cpu_ns += EVENT_CPU_NS
                self.at_ns = max(gpu.idle_from_ns, gpu.cpu_ns)

            @property
            def done(self) -> bool:
                return gpu.cpu_ns >= self.at_ns

            def synchronize(self) -> None:
                gpu.wait(self.at_ns)

        def synchronize_device() -> None:
            gpu.device_syncs += 1

        self.error = type("CUDARuntimeError", (RuntimeError,), {})
        runtime = SimpleNamespace(
            deviceSynchronize=synchronize_device,
            getDeviceCount=lambda: 1,
            memGetInfo=lambda: (self.memory_bytes, self.memory_bytes),
            CUDARuntimeError=self.error,
        )
        self.cupy = SimpleNamespace(
            cuda=SimpleNamespace(
                runtime=runtime,
                driver=SimpleNamespace(CUDADriverError=type("CUDADriverError", (RuntimeError,), {})),
                Stream=Stream,
                Event=Event,
                alloc=Memory,
                get_elapsed_time=lambda start, stop: (stop.at_ns - start.at_ns) / 1e6,
            ),
            get_default_memory_pool=lambda: SimpleNamespace(free_bytes=lambda: 0),
        )

    def launch(self, gpu_ns: int, cpu_ns: int = 0, effect: Callable[[], None] = lambda: None) -> None:
        """Enqueue one kernel with an `effect` on memory, that the CPU needs `cpu_ns` to launch."""
        self.cpu_ns += cpu_ns
        if self.captured is not None:
            self.captured.append((gpu_ns, effect))
        else:
            self.run(gpu_ns, effect)

    def run(self, gpu_ns: int, effect: Callable[[], None]) -> None:
        effect()
        self.idle_from_ns = max(self.idle_from_ns, self.cpu_ns) + gpu_ns

    def wait(self, until_ns: int) -> None:
        if self.failure is not None:
            raise self.failure
        self.cpu_ns = max(self.cpu_ns, until_ns)
