"""What NVML says of a GPU while it is measured: clocks, throttling, power, heat, other processes. Nothing is set.

Source: NVML API reference. Without the package nvidia-ml-py, or where a driver does not answer, values are None.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

# Reasons that slow a card down against its will: slowdown, thermal (software, hardware), power brake.
THROTTLED = 0x08 | 0x20 | 0x40 | 0x80
_REASONS = {0x08: "slowdown", 0x20: "heat", 0x40: "heat", 0x80: "power brake"}
_HOT_C = 85  # where the card does not tell at which temperature it slows down
_HOT_MARGIN_C = 3
_LOOK_EVERY_S = 0.02
_COUNTS_FROM = 0.05  # share of the looks from which a throttle reason counts

Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceState:
    """A GPU at one moment; clocks in MHz, None for what the driver does not tell.

    `slowdown_temp_c` is where the card begins to slow down, `throttle_bits` are NVML's reasons, `foreign_pids_n` counts
    compute processes other than this one, `persistence` is the driver's mode of that name.
    """

    sm_mhz: int | None = None
    sm_max_mhz: int | None = None
    mem_mhz: int | None = None
    power_w: float | None = None
    temp_c: float | None = None
    slowdown_temp_c: float | None = None
    throttle_bits: int | None = None
    foreign_pids_n: int | None = None
    ecc: bool | None = None
    mig: bool | None = None
    persistence: bool | None = None

    @property
    def problems(self) -> tuple[str, ...]:
        """What disturbs a measurement, each in words."""
        found = []
        if self.foreign_pids_n:
            found.append(f"{self.foreign_pids_n} other compute processes use the GPU")
        if throttled := (self.throttle_bits or 0) & THROTTLED:
            reasons = dict.fromkeys(name for bit, name in _REASONS.items() if throttled & bit)
            found.append(f"the GPU is slowed down by {' and '.join(reasons)}")
        limit_c = self.slowdown_temp_c - _HOT_MARGIN_C if self.slowdown_temp_c else _HOT_C
        if self.temp_c is not None and self.temp_c >= limit_c:
            found.append(f"the GPU has {self.temp_c:g} °C, it is hot from {limit_c:g} °C")
        if self.mig:
            found.append("the GPU is partitioned (MIG): its other parts share the memory")
        return tuple(found)


class Nvml:
    """One GPU through NVML; `library` is the module pynvml, initialized."""

    def __init__(self, library: Any, handle: Any) -> None:
        self._library, self._handle = library, handle

    def state(self) -> DeviceState:
        """Ask for everything."""
        n = self._library
        power_mw = self._ask(n.nvmlDeviceGetPowerUsage)
        return DeviceState(
            sm_mhz=self.sm_mhz(),
            sm_max_mhz=self._ask(n.nvmlDeviceGetMaxClockInfo, n.NVML_CLOCK_SM),
            mem_mhz=self._ask(n.nvmlDeviceGetClockInfo, n.NVML_CLOCK_MEM),
            power_w=None if power_mw is None else power_mw / 1e3,
            temp_c=self._ask(n.nvmlDeviceGetTemperature, n.NVML_TEMPERATURE_GPU),
            slowdown_temp_c=self._ask(n.nvmlDeviceGetTemperatureThreshold, n.NVML_TEMPERATURE_THRESHOLD_SLOWDOWN),
            throttle_bits=self.throttle_bits(),
            foreign_pids_n=self._foreign_pids_n(),
            ecc=self._is_on(self._ask(n.nvmlDeviceGetEccMode)),
            mig=self._is_on(self._ask(n.nvmlDeviceGetMigMode)),
            persistence=self._is_on(self._ask(n.nvmlDeviceGetPersistenceMode)),
        )

    def sm_mhz(self) -> int | None:
        """The multiprocessors' clock now."""
        return self._ask(self._library.nvmlDeviceGetClockInfo, self._library.NVML_CLOCK_SM)

    def throttle_bits(self) -> int | None:
        """NVML's reasons for the clock now."""
        return self._ask(self._library.nvmlDeviceGetCurrentClocksThrottleReasons)

    def _ask(self, question: Callable[..., Answer], *arguments: Any) -> Answer | None:
        try:
            return question(self._handle, *arguments)
        except self._library.NVMLError:  # not supported on this card, or not permitted
            return None

    @staticmethod
    def _is_on(mode: Any) -> bool | None:
        """Modes come as a number, or as the pair of now and after the next reboot."""
        now = mode[0] if isinstance(mode, list | tuple) else mode
        return None if now is None else bool(now)

    def _foreign_pids_n(self) -> int | None:
        """Compute processes but this one; call it once this process computes on the GPU.

        In a container NVML may name processes by the host's numbers: one of them is this process then.
        """
        processes = self._ask(self._library.nvmlDeviceGetComputeRunningProcesses)
        if processes is None:
            return None
        pids = {process.pid for process in processes}
        return len(pids - {os.getpid()}) if os.getpid() in pids else max(0, len(pids) - 1)


def open_nvml(uuid: str | None, library: Any = None) -> Nvml | None:
    """Find a GPU by its UUID; None without NVML, or when it does not know the GPU."""
    nvml = library or _import_nvml()
    if nvml is None or uuid is None:
        return None
    try:
        nvml.nvmlInit()
        return Nvml(nvml, nvml.nvmlDeviceGetHandleByUUID(uuid))
    except nvml.NVMLError:
        return None


def _import_nvml() -> Any:
    try:
        import pynvml
    except ImportError:
        return None
    return pynvml


@dataclass(frozen=True, slots=True, kw_only=True)
class Conditions:
    """A GPU over one case: the multiprocessor clock at its first sample, the lowest, and at the last, in MHz.

    `throttle_bits` holds the reasons seen in more than 5 % of the looks, `after` the state at the end.
    """

    sm_start_mhz: int | None
    sm_min_mhz: int | None
    sm_end_mhz: int | None
    throttle_bits: int | None
    after: DeviceState


class Watch:
    """Looks at a GPU between the samples of one case, every 20 ms at most."""

    def __init__(self, nvml: Nvml, clock_s: Callable[[], float] = time.monotonic) -> None:
        self._nvml, self._clock_s = nvml, clock_s
        self._next_s = -1.0
        self._sm_mhz: list[int] = []
        self._looks: list[int] = []

    def between(self, sample: Callable[[], float]) -> Callable[[], float]:
        """The same sampling with a look after a sample, when it is time for one."""

        def watched() -> float:
            time_ns = sample()
            if self._clock_s() >= self._next_s:
                self._look()
                self._next_s = self._clock_s() + _LOOK_EVERY_S
            return time_ns

        return watched

    def conditions(self) -> Conditions:
        """Look a last time, and sum up."""
        self._look()
        clocks = self._sm_mhz
        return Conditions(
            sm_start_mhz=clocks[0] if clocks else None,
            sm_min_mhz=min(clocks, default=None),
            sm_end_mhz=clocks[-1] if clocks else None,
            throttle_bits=self._throttle_bits(),
            after=self._nvml.state(),
        )

    def _look(self) -> None:
        clock, bits = self._nvml.sm_mhz(), self._nvml.throttle_bits()
        self._sm_mhz += [] if clock is None else [clock]
        self._looks += [] if bits is None else [bits]

    def _throttle_bits(self) -> int | None:
        if not self._looks:
            return None
        counts = Counter(1 << i for bits in self._looks for i in range(bits.bit_length()) if bits >> i & 1)
        return sum(bit for bit, count in counts.items() if count > _COUNTS_FROM * len(self._looks))
