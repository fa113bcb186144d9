"""When a machine's own speed says that no time of a run counts: the one place of the canary's limits."""

from __future__ import annotations

from collections.abc import Sequence

from mmvq_cli.op import Device

MAX_DRIFT = 0.03  # between the readings of one run, and between two runs that are compared

# The least streaming read at which a device is itself, in GB/s, by experience with it: H200s gave 4,552 to 4,560.
_LEAST_GB_S = {"H200": 4500.0}
_LEAST_SHARE = 0.8  # of the data sheet's bandwidth, for devices that nobody has measured


def least_stream_gb_s(device: Device) -> float | None:
    """The streaming read below which a device is disturbed; None where no data sheet is known."""
    measured = next((least for name, least in _LEAST_GB_S.items() if name in device.name.split()), None)
    return measured or _LEAST_SHARE * device.bandwidth_gb_s or None


def drift(readings: Sequence[float | None]) -> float:
    """Relative change between the least and the largest reading; 0 below two."""
    seen = [reading for reading in readings if reading]
    return max(seen) / min(seen) - 1 if seen else 0.0


def stream_problems(readings: Sequence[float | None], least_gb_s: float | None) -> tuple[str, ...]:
    """Say why the streaming reads of a run, in GB/s, make its times worthless."""
    found = []
    slowest = min(filter(None, readings), default=None)
    if slowest and least_gb_s and slowest < least_gb_s:
        found.append(f"the streaming read reaches {slowest:.0f} GB/s, this device gives {least_gb_s:.0f} undisturbed")
    if (changed := drift(readings)) > MAX_DRIFT:
        found.append(f"the streaming read changed by {100 * changed:.1f} % during the run")
    return tuple(found)
