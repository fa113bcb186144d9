"""From a plan to kernels on a stream: load each cubin once per process, pass the arguments by value, launch.

After `prepare`, `execute` allocates nothing, waits for nothing and may run inside a stream capture.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

from mmvq_cli.engine.cuda.build import Cubin, Resources, cached_compile, final_source
from mmvq_cli.engine.cuda.dependent import launch_dependent
from mmvq_cli.engine.cuda.device import current_device, device_facts, import_cupy
from mmvq_cli.engine.cuda.source import Source
from mmvq_cli.engine.cuda.tensor_map import tensor_map
from mmvq_cli.errors import InvalidProblem, LaunchError
from mmvq_cli.op import Launch, Plan
from mmvq_cli.op.args import BoundArgs
from mmvq_cli.op.arrays import ArrayView
from mmvq_cli.op.problem import bind_problem

Dim3 = tuple[int, int, int]

_SHARED_WITHOUT_OPT_IN = 48 * 1024  # bytes; beyond, a kernel must raise its own limit (CUDA programming guide)


@dataclass(frozen=True, slots=True)
class Kernel:
    """One loaded entry point on one device; `module` keeps its code loaded, `function` is the driver's handle."""

    entry: str
    device_index: int
    cubin: Cubin
    module: Any
    function: int

    @property
    def resources(self) -> Resources:
        """Registers, shared, local and spill bytes, by ptxas."""
        return self.cubin.resources_of(self.entry)

    def __call__(
        self,
        grid: Dim3,
        block: Dim3,
        args: Sequence[Any],
        stream: Any = None,
        shared_bytes: int = 0,
        overlaps: bool = False,
    ) -> None:
        """Enqueue one launch; `args` are ctypes values, passed by value, or device arrays, passed as pointers.

        `overlaps`: as `Launch.overlaps`.

        Raises `LaunchError` when the driver refuses it.
        """
        driver = _driver()
        with on_device(self.device_index), launch_errors(self.entry):
            values = [_by_value(arg) for arg in args]
            pointers = (ctypes.c_void_p * len(values))(*(ctypes.addressof(value) for value in values))
            address = stream_address(stream)
            # The driver copies the arguments before it returns, so `values` may die then.
            if overlaps:
                launch_dependent(self.entry, self.function, grid, block, shared_bytes, address, pointers)
            else:
                driver.launchKernel(self.function, *grid, *block, shared_bytes, address, ctypes.addressof(pointers), 0)


@dataclass(frozen=True, slots=True)
class LaunchFacts:
    """What one launch of a plan occupies: per thread registers, local and spill bytes, per block shared bytes.

    `waves` is the grid over the blocks that fit on the whole device at once.
    """

    entry: str
    registers: int
    shared_bytes: int
    local_bytes: int
    spill_bytes: int
    blocks_per_sm: int
    waves: float
    source_sha256: str
    cubin_sha256: str


def execute(plan: Plan, views: BoundArgs, workspace_pointer: int, stream: Any) -> None:
    """Enqueue the plan's launches in order; `Plan.run` calls this with checked arguments.

    Raises `LaunchError`; `BuildError` when a kernel is built for the first time and does not compile.
    """
    problem = bind_problem(plan.descriptor, views, workspace_pointer, plan.workspace)
    for launch in plan.launches:
        kernel = _kernel_of(launch, plan.device.index)
        arguments: tuple[Any, ...] = (problem,)
        if launch.values:
            arguments = (problem, launch_values(launch), tensor_map(launch.boxes, views.weights.pointer, launch.entry))
        kernel(launch.grid, launch.block, arguments, stream, launch.shared_bytes, launch.overlaps)


def launch_values(launch: Launch) -> Any:
    """The struct that follows the problem, as a ctypes array of its int32 fields."""
    values = [value for _, value in launch.values]
    return (ctypes.c_int32 * len(values))(*values)


def prepare(plan: Plan) -> tuple[LaunchFacts, ...]:
    """Compile and load everything that the plan launches, and say what each launch occupies.

    Call it before timing and before a capture. Raises `BuildError`, `LaunchError`, `EnvironmentInvalid`.
    """
    return tuple(_facts(launch, plan.device.index) for launch in plan.launches)


def load_kernel(
    entry: str, source: str, defines: Sequence[tuple[str, int | str]] = (), device_index: int = 0, shared_bytes: int = 0
) -> Kernel:
    """Load an entry point of `kernels/<source>` with these compile-time values, built once per process.

    `shared_bytes` is the dynamic shared memory that launches will ask for. Raises `BuildError`, `LaunchError`.
    """
    return _load(entry, source, tuple(defines), device_index, shared_bytes > _SHARED_WITHOUT_OPT_IN)


def stream_address(stream: Any) -> int:
    """Find the driver's handle: of `None` CuPy's current stream, of an int itself, else by the CUDA stream protocol.

    Raises `InvalidProblem` for anything else.
    """
    if stream is None:
        return int(import_cupy().cuda.get_current_stream().ptr)
    if isinstance(stream, int):
        return stream
    if hasattr(stream, "__cuda_stream__"):
        return int(stream.__cuda_stream__()[1])
    raise InvalidProblem(
        f"stream is a {type(stream).__name__}, not a CUDA stream",
        "pass an object with __cuda_stream__, the address as an int (torch: stream.cuda_stream), or None",
    )


@contextmanager
def on_device(index: int) -> Iterator[None]:
    """Make GPU `index` current, and the previous one again afterwards."""
    with import_cupy().cuda.Device(index):
        yield


@contextmanager
def launch_errors(kernel: str) -> Iterator[None]:
    """Turn what CuPy raises for driver and runtime errors into `LaunchError`."""
    cuda = import_cupy().cuda
    try:
        yield
    except (cuda.driver.CUDADriverError, cuda.runtime.CUDARuntimeError) as error:
        raise LaunchError(str(error), kernel) from error


def _kernel_of(launch: Launch, device_index: int) -> Kernel:
    return load_kernel(launch.entry, launch.source, launch.defines, device_index, launch.shared_bytes)


@cache
def _load(
    entry: str, source: str, defines: tuple[tuple[str, int | str], ...], device_index: int, opts_in: bool
) -> Kernel:
    cubin, module = _load_module(final_source(source, dict(defines)), source, device_index)
    with on_device(device_index), launch_errors(entry):
        function = int(_driver().moduleGetFunction(module.ptr, entry))
        if opts_in:
            # The device's limit, not one launch's need: launches of one function may ask for different amounts.
            limit = device_facts(device_index).max_shared_bytes - cubin.resources_of(entry).shared_bytes
            _driver().funcSetAttribute(function, _driver().CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, limit)
    return Kernel(entry, device_index, cubin, module, function)


@cache
def _load_module(source: Source, name: str, device_index: int) -> tuple[Cubin, Any]:
    cubin = cached_compile(source, name, current_device(device_index).architecture)
    with on_device(device_index), launch_errors(name):
        module = import_cupy().cuda.function.Module()
        module.load(cubin.image)
    return cubin, module


def _facts(launch: Launch, device_index: int) -> LaunchFacts:
    kernel = _kernel_of(launch, device_index)
    resources = kernel.resources
    with on_device(device_index), launch_errors(launch.entry):
        blocks_per_sm = int(
            _driver().occupancyMaxActiveBlocksPerMultiprocessor(
                kernel.function, math.prod(launch.block), launch.shared_bytes
            )
        )
    at_once = blocks_per_sm * current_device(device_index).sm_count
    return LaunchFacts(
        entry=launch.entry,
        registers=resources.registers,
        shared_bytes=resources.shared_bytes + launch.shared_bytes,
        local_bytes=resources.local_bytes,
        spill_bytes=resources.spill_bytes,
        blocks_per_sm=blocks_per_sm,
        waves=math.prod(launch.grid) / at_once if at_once else math.inf,
        source_sha256=kernel.cubin.source_sha256,
        cubin_sha256=kernel.cubin.cubin_sha256,
    )


def _by_value(arg: Any) -> Any:
    """Hold the argument's bytes; numbers must be ctypes already, for their width to be explicit."""
    if isinstance(arg, ctypes.Structure | ctypes.Array | ctypes._SimpleCData):
        return arg
    return ctypes.c_void_p(ArrayView.of(arg, "kernel argument").pointer)


def _driver() -> Any:
    return import_cupy().cuda.driver
