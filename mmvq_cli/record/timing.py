"""The groups of a record about time: how a case was measured, and what came out, in ns."""

from __future__ import annotations

from typing import Literal

import numpy as np

from mmvq_cli.record.groups import Group


class Protocol(Group):
    """How it was measured."""

    timer: Literal["graph", "event", "wall"] | None = None
    """CUDA graph replay, CUDA events, or host clock; null when only correctness was asked for."""
    cache: Literal["cold", "cold-flush", "hot"]
    """Whether weights left the last-level cache between reuses: by other weights, by a flush, or not."""
    reuse_distance_x_l2: float | None = None
    """Bytes touched between two uses of the same weights over the L2 size: the proof of cold."""
    warmup_n: int = 0
    """Launches before the first sample."""
    samples_n: int = 0
    """Samples taken."""
    launches_per_sample: int = 1
    """Launches that one sample is the mean of."""
    draws_n: int = 1
    """Routing draws that the launches cycle through."""
    stop_reason: str | None = None
    """Which rule ended sampling."""
    order_in_block: int | None = None
    """Position of the case in its process, from 0."""
    budget_s: float | None = None
    """Seconds that sampling may take at most, warm-up apart."""


class TimeStatistics(Group):
    """Distribution of the time of one launch, in ns."""

    min: float
    """Smallest sample."""
    p05: float
    """5 % quantile."""
    q1: float
    """25 % quantile."""
    median: float
    """50 % quantile."""
    q3: float
    """75 % quantile."""
    p95: float
    """95 % quantile."""
    max: float
    """Largest sample."""
    mean: float
    """Mean."""
    cv: float
    """Standard deviation over the mean."""
    iqr_rel: float
    """Interquartile range over the median."""

    @classmethod
    def of(cls, samples_ns: tuple[float, ...]) -> TimeStatistics:
        """Summarize at least one positive sample; quantiles are interpolated linearly."""
        samples = np.asarray(samples_ns, dtype=np.float64)
        low, p05, q1, median, q3, p95, high = np.quantile(samples, [0, 0.05, 0.25, 0.5, 0.75, 0.95, 1])
        deviation = samples.std(ddof=1) if len(samples) > 1 else 0.0
        return cls(
            min=low,
            p05=p05,
            q1=q1,
            median=median,
            q3=q3,
            p95=p95,
            max=high,
            mean=samples.mean(),
            cv=deviation / samples.mean(),
            iqr_rel=(q3 - q1) / median,
        )


class Timing(Group):
    """Times of a PASSED case; null otherwise."""

    gpu_ns: TimeStatistics
    """Time of one launch on the device (host clock on the CPU engine)."""
    samples_ns: tuple[float, ...]
    """Every sample, in the order taken."""
    ci95_rel: float | None = None
    """Half-width of the median's 95 % interval over the median."""
    mde_rel: float | None = None
    """Smallest slowdown that two runs with this row's noise show with probability 80 %, relative."""
    isolated_ns: float | None = None
    """Median time of one launch alone, event to event."""
    launch_overhead_ns: float | None = None
    """Host time of one launch that is not replayed from a graph, less the graph's time per launch."""
    event_overhead_ns: float | None = None
    """Time of an empty pair of events; not subtracted."""
    hot_ns: float | None = None
    """Median time with the weights in cache, as far as they fit; measured after the cold samples."""
