"""Facts about the GPUs of this machine, from the CUDA runtime through CuPy."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from typing import Any
from uuid import UUID

from mmvq_cli.driver import format_cuda_version, query_driver
from mmvq_cli.errors import EnvironmentInvalid
from mmvq_cli.op import Device, known_devices

_CPU_HINT = "--engine cpu needs no GPU; `mmvq doctor` shows what is wrong"


@dataclass(frozen=True, slots=True)
class DeviceFacts:
    """What a record says of one GPU beyond its `Device`; `driver` is its release, `cuda_rt` `major.minor`."""

    uuid: str | None
    bus_bits: int
    max_shared_bytes: int  # per block, after opting in
    max_threads_per_sm: int
    driver: str | None
    cuda_rt: str


@cache
def import_cupy() -> Any:
    """Import CuPy and make sure that it can see a driver.

    Raises `EnvironmentInvalid` when CuPy is missing, broken, or finds no usable driver or no device.
    """
    try:
        import cupy
    except Exception as error:  # a half-installed CuPy raises whatever its shared libraries raise
        raise EnvironmentInvalid(
            f"CuPy, which the CUDA engine needs, cannot be imported: {error}",
            f"pip install '.[cuda13]' (or cuda12, by the driver) in the checkout; {_CPU_HINT}",
        ) from error
    try:
        n_devices = cupy.cuda.runtime.getDeviceCount()
    except RuntimeError as error:  # CUDARuntimeError is one
        raise EnvironmentInvalid(f"the CUDA driver cannot be used: {error}", _CPU_HINT) from error
    if not n_devices:
        raise EnvironmentInvalid("the CUDA driver reports no device", f"check CUDA_VISIBLE_DEVICES; {_CPU_HINT}")
    return cupy


@cache
def current_device(index: int = 0) -> Device:
    """Ask for the facts of GPU `index` that a plan depends on.

    Raises `EnvironmentInvalid` when CuPy, the driver or that device is missing.
    """
    properties = _properties(index)
    name = _text(properties["name"])
    capability = (int(properties["major"]), int(properties["minor"]))
    sm_count, memory_bytes = int(properties["multiProcessorCount"]), int(properties["totalGlobalMem"])
    return Device(
        name=name,
        backend="cuda",
        index=index,
        compute_capability=capability,
        sm_count=sm_count,
        l2_bytes=int(properties["l2CacheSize"]),
        memory_bytes=memory_bytes,
        bandwidth_gb_s=_datasheet_bandwidth(name, capability, sm_count, memory_bytes),
    )


@cache
def device_facts(index: int = 0) -> DeviceFacts:
    """Ask for the identity and limits of GPU `index`.

    Raises `EnvironmentInvalid` like `current_device`.
    """
    properties = _properties(index)
    runtime = import_cupy().cuda.runtime
    return DeviceFacts(
        uuid=_uuid(index),
        bus_bits=int(properties["memoryBusWidth"]),
        max_shared_bytes=int(properties["sharedMemPerBlockOptin"]),
        max_threads_per_sm=int(properties["maxThreadsPerMultiProcessor"]),
        driver=query_driver().release or None,
        cuda_rt=format_cuda_version(runtime.runtimeGetVersion()),
    )


def _uuid(index: int, load: Callable[[str], Any] = ctypes.CDLL) -> str | None:
    """Ask the driver itself, once it is initialized: CuPy's property ends at the first zero byte."""
    uuid = (ctypes.c_ubyte * 16)()
    try:
        status = load("libcuda.so.1").cuDeviceGetUuid_v2(uuid, index)
    except (OSError, AttributeError):
        return None
    return None if status else f"GPU-{UUID(bytes=bytes(uuid))}"


def reset_persisting_l2(load: Callable[[str], Any] = ctypes.CDLL) -> None:
    """Let go of lines that a kernel marked as persisting: no flush evicts them. Without a driver nothing happens."""
    with suppress(OSError, AttributeError):
        load("libcuda.so.1").cuCtxResetPersistingL2Cache()


def _properties(index: int) -> dict[str, Any]:
    runtime = import_cupy().cuda.runtime
    n_devices = runtime.getDeviceCount()
    if not 0 <= index < n_devices:
        raise EnvironmentInvalid(
            f"there is no CUDA device {index}, this machine has {n_devices}",
            f"use --device 0 to {n_devices - 1}" if n_devices > 1 else "use --device 0",
        )
    properties: dict[str, Any] = runtime.getDeviceProperties(index)
    return properties


def _datasheet_bandwidth(name: str, capability: tuple[int, int], sm_count: int, memory_bytes: int) -> float:
    """GB/s of the known device that this is, 0.0 when none fits.

    Names alone would mix up the variants of a chip (H100 PCIe and SXM), so sizes must agree too.
    """
    words = name.lower().replace("-", " ").split()
    for known in known_devices().values():
        same_name = set(known.name.lower().replace("-", " ").split()) <= set(words)
        same_chip = (known.compute_capability, known.sm_count) == (capability, sm_count)
        if same_name and same_chip and abs(memory_bytes / known.memory_bytes - 1) < 0.15:
            return known.bandwidth_gb_s
    return 0.0


def _text(value: bytes | str) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else value
