"""A CUDA that is not there: host memory for device memory, Python functions for kernels, every launch on record."""

from __future__ import annotations

import ctypes
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import ModuleType, SimpleNamespace

import numpy as np

from mmvq_cli.engine.cuda import build

GIB = 2**30


class FakeDriverError(RuntimeError):
    pass


class FakeRuntimeError(RuntimeError):
    pass


class FakeArray(np.ndarray):
    """Host memory that says it is on device 0."""

    @property
    def __cuda_array_interface__(self):
        return self.__array_interface__

    @property
    def device(self):
        return SimpleNamespace(id=0)

    @property
    def data(self):
        address = self.__array_interface__["data"][0]
        return SimpleNamespace(ptr=address, memset=lambda value, n_bytes: ctypes.memset(address, value, n_bytes))

    def get(self):
        return np.array(self)


def on_device(array) -> FakeArray:
    return np.array(array).view(FakeArray)


@dataclass
class FakeCuda:
    """Handles are names; `kernels[entry](pointers)` runs at a launch with the addresses of the arguments."""

    free: int = 100 * GIB
    properties: dict = field(
        default_factory=lambda: {
            "name": b"NVIDIA H200",
            "major": 9,
            "minor": 0,
            "multiProcessorCount": 132,
            "l2CacheSize": 60 * 2**20,
            "totalGlobalMem": 140 * GIB,
            "memoryBusWidth": 6144,
            "sharedMemPerBlockOptin": 227 * 1024,
            "maxThreadsPerMultiProcessor": 2048,
        }
    )
    n_devices: int = 1
    kernels: dict = field(default_factory=dict)
    launches: list = field(default_factory=list)
    events: list = field(default_factory=list)
    launch_error: str = ""
    functions: list = field(default_factory=list)
    overlapping: list = field(default_factory=list)
    tensor_maps: list = field(default_factory=list)
    tensor_map_bytes: bytes = bytes(range(128))
    refuses_tensor_maps: bool = False

    def launch(self, function, gx, gy, gz, bx, by, bz, shared_bytes, stream, parameters, extra):
        if self.launch_error:
            raise FakeDriverError(self.launch_error)
        entry = self.functions[function]
        self.launches.append((entry, (gx, gy, gz), (bx, by, bz), shared_bytes, stream))
        if entry in self.kernels:
            self.kernels[entry](ctypes.cast(parameters, ctypes.POINTER(ctypes.c_void_p)))

    def cuTensorMapEncodeTiled(self, target, kind, rank, address, dimensions, strides, box, elements, *modes):  # noqa: N802
        """The driver's call; what it writes must be aligned to 64 bytes."""
        if self.refuses_tensor_maps:
            return 1
        start = ctypes.cast(target, ctypes.c_void_p).value
        assert start % 64 == 0
        ctypes.memmove(start, self.tensor_map_bytes, 128)
        names = ("interleave", "swizzle", "l2_promotion", "fill")
        self.tensor_maps.append(
            {
                "type": kind,
                "rank": rank,
                "address": address.value,
                "dimensions": list(dimensions),
                "strides": list(strides),
                "box": list(box),
                "element_strides": list(elements),
                **dict(zip(names, modes, strict=True)),
            }
        )
        return 0

    def cuGetErrorName(self, status, name):  # noqa: N802
        """The driver's call, for the only status that it returns here."""
        name._obj.value = b"CUDA_ERROR_INVALID_VALUE"

    def cuLaunchKernelEx(self, config, function, pointers, extra):  # noqa: N802  the driver's name
        """The driver's call, with one attribute: programmatic serialization (6), allowed."""
        c = config._obj
        assert (c.n_attributes, c.attributes[0].id, c.attributes[0].value, ctypes.sizeof(c.attributes[0])) == (
            1,
            6,
            1,
            72,
        )
        self.overlapping.append(self.functions[function.value or 0])
        self.launch(function.value or 0, *c.grid, *c.block, c.shared_bytes, c.stream or 0, pointers, 0)
        return 0

    def get_function(self, module, entry):
        self.functions.append(entry)
        return len(self.functions) - 1

    def device_count(self):
        if self.n_devices < 0:
            raise FakeRuntimeError("cudaErrorNoDevice: no CUDA-capable device is detected")
        return self.n_devices

    def synchronize(self):
        self.events.append("synchronize")
        if self.launch_error:
            raise FakeRuntimeError(self.launch_error)


class _Module:
    ptr = 1

    def load(self, image):
        self.image = image


class _CopyStream:
    """Copies happen as late as they may: when somebody waits for them."""

    ptr = 77

    def __init__(self):
        self.pending = []

    def run(self, n_copies):
        while len(self.pending) and n_copies > 0:
            ctypes.memmove(*self.pending.pop(0))
            n_copies -= 1

    def copy(self, target, source, n_bytes, kind, stream):
        self.pending.append((target, source, n_bytes))

    def synchronize(self):
        self.run(len(self.pending))


class _Event:
    def __init__(self, **_):
        self.stream, self.last = None, None

    def record(self, stream):
        self.stream, self.last = stream, stream.pending[-1]

    def synchronize(self):
        if self.stream and self.last in self.stream.pending:
            self.stream.run(self.stream.pending.index(self.last) + 1)


def fake_module(fake: FakeCuda) -> ModuleType:
    @contextmanager
    def use(index):
        fake.events.append(f"device {index}")
        yield

    stream = _CopyStream()
    pool = SimpleNamespace(free_bytes=lambda: 0, free_all_blocks=lambda: fake.events.append("free_all_blocks"))
    driver = SimpleNamespace(
        CUDADriverError=FakeDriverError,
        CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES=8,
        launchKernel=fake.launch,
        moduleGetFunction=fake.get_function,
        funcSetAttribute=lambda function, attribute, value: fake.events.append((attribute, value)),
        occupancyMaxActiveBlocksPerMultiprocessor=lambda function, threads, shared_bytes: 2048 // threads,
    )
    runtime = SimpleNamespace(
        CUDARuntimeError=FakeRuntimeError,
        memcpyHostToDevice=1,
        getDeviceCount=fake.device_count,
        getDeviceProperties=lambda index: fake.properties,
        runtimeGetVersion=lambda: 13000,
        memGetInfo=lambda: (fake.free, fake.properties["totalGlobalMem"]),
        deviceSynchronize=fake.synchronize,
        memcpyAsync=stream.copy,
    )
    module = ModuleType("cupy")
    module.__version__ = "14.2.0"
    module.cuda = SimpleNamespace(
        driver=driver,
        runtime=runtime,
        function=SimpleNamespace(Module=_Module),
        memory=SimpleNamespace(OutOfMemoryError=MemoryError),
        Device=use,
        Event=_Event,
        Stream=lambda **_: stream,
        get_current_stream=lambda: stream,
        alloc_pinned_memory=bytearray,
    )
    module.uint8, module.int32 = np.uint8, np.int32
    module.empty = lambda shape, dtype=np.float64: np.empty(shape, dtype).view(FakeArray)
    module.zeros = lambda shape, dtype: np.zeros(shape, dtype).view(FakeArray)
    module.asarray = lambda array: array if isinstance(array, FakeArray) else on_device(array)
    module.get_default_memory_pool = module.get_default_pinned_memory_pool = lambda: pool
    return module


def compile_nothing(source, name, architecture):
    entries = (
        "clear_output",
        "index_dispatches",
        "clear_token_counts",
        "append_dispatches",
        "combine",
        "grouped",
        "stream",
        "fill_blocks",
        "dequantize",
        "oracle_dispatches",
        "validate_routing",
    )
    rows = tuple(build.Resources(entry, 40, 1024, 0, 0) for entry in entries)
    return build.Cubin(b"cubin", architecture, "", source.sha256, "f" * 64, rows)
