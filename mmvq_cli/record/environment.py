"""The group of a record that says on what it was measured: device, software and conditions.

Units and documentation as in `groups.py`.
"""

from __future__ import annotations

from mmvq_cli.record.groups import Group


class DeviceFacts(Group):
    """The device."""

    name: str
    """Name as its driver or system gives it."""
    uuid: str | None = None
    """Identity of this very device."""
    cc: str | None = None
    """Compute capability."""
    sm_n: int | None = None
    """Multiprocessors."""
    l2_bytes: int | None = None
    """Last-level cache."""
    mem_bytes: int | None = None
    """Memory."""
    bus_bits: int | None = None
    """Width of the memory bus."""


class SmClock(Group):
    """Multiprocessor clock over the samples, in MHz."""

    start: int | None = None
    """After the first sample."""
    min: int | None = None
    """Lowest seen between samples."""
    end: int | None = None
    """After the last sample."""


class CanaryBandwidth(Group):
    """Streaming read of 4 GiB in the same run, in GB/s (on a CPU of a buffer beyond the caches, before a case only)."""

    start: float | None = None
    """Before the first case."""
    mid: float | None = None
    """Half way; readers take it from the run's looks."""
    end: float | None = None
    """After the last case; readers take it from the run's looks."""


class Env(Group):
    """Hardware, software and conditions."""

    device: DeviceFacts
    python: str
    """Version of Python."""
    mmvq: str
    """Version of mmvq."""
    gguf: str | None = None
    """Version of gguf."""
    driver: str | None = None
    """Version of the driver."""
    cuda_rt: str | None = None
    """Version of the CUDA runtime."""
    nvrtc: str | None = None
    """Version of the compiler."""
    cupy: str | None = None
    """Version of CuPy."""
    threads_n: int | None = None
    """Threads of the CPU engine."""
    clock_sm_mhz: SmClock | None = None
    clock_mem_mhz: int | None = None
    """Memory clock."""
    power_w: float | None = None
    """Power draw after the case."""
    temp_c: float | None = None
    """Temperature after the case."""
    throttle_bits: int | None = None
    """NVML throttle reasons seen in more than 5 % of the looks between samples, combined by or."""
    foreign_pids_n: int | None = None
    """Other processes that compute on the device."""
    ecc: bool | None = None
    """Whether error correction is on."""
    mig: bool | None = None
    """Whether the device is a partition."""
    container: str | None = None
    """Kind of container, where one is seen."""
    canary_gbps: CanaryBandwidth | None = None
    canary_least_gbps: float | None = None
    """Streaming read below which this device counts as disturbed and no time of the run is valid."""
