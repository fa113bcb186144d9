"""The NVIDIA driver of this machine, asked through ctypes: its CUDA version, its GPUs, and which extra fits it.

Standard library only: the set-up of a bare checkout imports this module before anything is installed. The GPUs come
from NVML, not from the CUDA driver: `cuInit` would make CUDA unusable in processes forked later.
Sources: CUDA Driver API (`cuDriverGetVersion`), NVML API reference.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

# Each extra and the first CUDA driver version that can run it, newest first (13000 is CUDA 13.0).
CUDA_EXTRAS = (("cuda13", 13000), ("cuda12", 12000))

_NVML_NAME_LENGTH = 96  # NVML_DEVICE_NAME_V2_BUFFER_SIZE
_NVML_VERSION_LENGTH = 80  # NVML_SYSTEM_DRIVER_VERSION_BUFFER_SIZE


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU as NVML sees it; `compute_capability` such as (9, 0)."""

    name: str
    compute_capability: tuple[int, int]
    memory_bytes: int


@dataclass(frozen=True, slots=True)
class Driver:
    """What the driver says of itself.

    `cuda_version` is the newest CUDA it runs (13000 for 13.0), 0 without a driver; `release` its own version, "" when
    unknown; `gpus` is None when NVML is not there to list them; `problem` says in words why it cannot be used, or "".
    """

    cuda_version: int
    release: str
    gpus: tuple[Gpu, ...] | None
    problem: str

    @property
    def extra(self) -> str:
        """The extra whose wheels this driver runs: `cuda13`, `cuda12`, or "" for none."""
        if self.problem:
            return ""
        return next((extra for extra, first in CUDA_EXTRAS if self.cuda_version >= first), "")

    def __str__(self) -> str:
        """One line such as `NVIDIA driver 580.95.05 (CUDA 13.0)`."""
        if not self.cuda_version:
            return self.problem
        return " ".join(
            filter(None, ("NVIDIA driver", self.release, f"(CUDA {format_cuda_version(self.cuda_version)})"))
        )


def format_cuda_version(version: int) -> str:
    """Write CUDA's number for a version as people do: 12040 is `12.4`."""
    return f"{version // 1000}.{version % 1000 // 10}"


def query_driver(load: Callable[[str], Any] = ctypes.CDLL) -> Driver:
    """Ask libcuda and NVML; never raises. `load` opens a shared library by name or raises OSError."""
    if sys.platform == "darwin":
        return Driver(0, "", (), "no NVIDIA driver (macOS has none)")
    try:
        cuda = load("libcuda.so.1")
    except OSError:
        return Driver(0, "", (), "no NVIDIA driver (libcuda.so.1 not found)")
    number = ctypes.c_int(0)
    status = cuda.cuDriverGetVersion(ctypes.byref(number))
    if status != 0 or number.value <= 0:
        return Driver(0, "", (), f"the NVIDIA driver does not answer (cuDriverGetVersion returned {status})")
    release, gpus = _query_nvml(load)
    return Driver(number.value, release, gpus, _problem(number.value, gpus))


def _problem(cuda_version: int, gpus: tuple[Gpu, ...] | None) -> str:
    oldest = CUDA_EXTRAS[-1][1]
    if cuda_version < oldest:
        return (
            f"the NVIDIA driver is too old (it runs CUDA up to {format_cuda_version(cuda_version)}, "
            f"{format_cuda_version(oldest)} is needed)"
        )
    return "" if gpus is None or gpus else "the NVIDIA driver sees no GPU"


def _query_nvml(load: Callable[[str], Any]) -> tuple[str, tuple[Gpu, ...] | None]:
    """Give the driver's release and its GPUs; None for the GPUs when NVML cannot be used."""
    try:
        nvml = load("libnvidia-ml.so.1")
    except OSError:
        return "", None
    if nvml.nvmlInit_v2() != 0:
        return "", None
    try:
        release = ctypes.create_string_buffer(_NVML_VERSION_LENGTH)
        nvml.nvmlSystemGetDriverVersion(release, ctypes.c_uint(len(release)))
        count = ctypes.c_uint(0)
        nvml.nvmlDeviceGetCount_v2(ctypes.byref(count))
        gpus = (_query_gpu(nvml, index) for index in range(count.value))
        return release.value.decode(errors="replace"), tuple(gpu for gpu in gpus if gpu is not None)
    finally:
        nvml.nvmlShutdown()


class _Memory(ctypes.Structure):
    """The struct nvmlMemory_t."""

    _fields_ = (("total", ctypes.c_ulonglong), ("free", ctypes.c_ulonglong), ("used", ctypes.c_ulonglong))


def _query_gpu(nvml: Any, index: int) -> Gpu | None:
    """Describe one GPU; None when it is lost or not ours to see."""
    device = ctypes.c_void_p()
    if nvml.nvmlDeviceGetHandleByIndex_v2(ctypes.c_uint(index), ctypes.byref(device)) != 0:
        return None
    name = ctypes.create_string_buffer(_NVML_NAME_LENGTH)
    nvml.nvmlDeviceGetName(device, name, ctypes.c_uint(len(name)))
    major, minor = ctypes.c_int(0), ctypes.c_int(0)
    nvml.nvmlDeviceGetCudaComputeCapability(device, ctypes.byref(major), ctypes.byref(minor))
    memory = _Memory()
    nvml.nvmlDeviceGetMemoryInfo(device, ctypes.byref(memory))
    return Gpu(name.value.decode(errors="replace"), (major.value, minor.value), memory.total)
