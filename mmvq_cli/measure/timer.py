"""What the sampling loop asks of a timer; the CUDA graph timer and the wall-clock timer both answer it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class Overheads:
    """Times beside the samples, in ns; None where the timer has no such thing.

    isolated_latency_ns: one launch between two events on a busy stream; event_overhead_ns: the same without the launch
    (not subtracted from anything); launch_overhead_ns: wall time per launch when not replayed from a graph, less the
    graph's.
    """

    isolated_latency_ns: float | None = None
    event_overhead_ns: float | None = None
    launch_overhead_ns: float | None = None


class Timer(Protocol):
    """Times one case: a fixed sequence of launches with constant inputs."""

    launches_per_sample: int

    def sample(self) -> float:
        """Time the next sample; ns per launch."""

    def overheads(self, time_ns: float) -> Overheads:
        """Measure what surrounds a launch, given its time in ns from the samples."""
