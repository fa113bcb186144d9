"""What holds a case: the memory, the fixed cost of its launches, or the kernel's own work."""

from __future__ import annotations

from typing import Literal

Bound = Literal["mem", "launch", "compute"]
_EXPLAINED = 0.5  # of the time, by bytes and launches together


def bound_of(time_ns: float, n_bytes: int, stream_gb_s: float, n_launches: int, launch_ns: float) -> Bound:
    """Compare a time with what its bytes take at the stream's speed and its launches take when they do nothing.

    When the two together explain less than half of the time, the kernel's instructions hold the case (`compute`); else
    the larger of the two does.
    """
    memory_ns, launches_ns = n_bytes / stream_gb_s, n_launches * launch_ns
    if memory_ns + launches_ns < _EXPLAINED * time_ns:
        return "compute"
    return "mem" if memory_ns >= launches_ns else "launch"
