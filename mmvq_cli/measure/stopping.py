"""How long to sample: warm up until the times stand still, then until the median is known, or a limit is reached."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from statistics import median

from mmvq_cli.measure.statistics import median_interval


class StopReason(StrEnum):
    """Which rule ended the sampling."""

    PRECISION = "precision"
    MAX_SAMPLES = "max_samples"
    BUDGET = "budget"


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingSettings:
    """The rules of one measurement.

    Warm-up ends when the medians of three consecutive windows of `warmup_window` samples lie within `warmup_tolerance`,
    but never before `warmup_min_s` and at `warmup_max_s` at the latest. Sampling ends when the 95 % interval of the
    median is within ± `precision` (not before `min_samples`), at `max_samples`, or when `budget_s` is spent; the budget
    does not count the warm-up, and one sample is always taken.
    """

    warmup_window: int = 5
    warmup_tolerance: float = 0.01
    warmup_min_s: float = 0.1
    warmup_max_s: float = 2.0
    precision: float = 0.005
    min_samples: int = 10
    max_samples: int = 100
    budget_s: float = 5.0


@dataclass(frozen=True, slots=True)
class Samples:
    """All samples of one measurement in the order taken, ns per launch; warm-up samples are counted, not kept."""

    samples_ns: tuple[float, ...]
    warmup_n: int
    stop_reason: StopReason


def sample_until(
    sample: Callable[[], float], settings: SamplingSettings, clock_s: Callable[[], float] = time.perf_counter
) -> Samples:
    """Call `sample` (ns per launch) for the warm-up and then until one of the `settings` says stop."""
    warmup_n = _warm_up(sample, settings, clock_s)
    samples_ns: list[float] = []
    next_look_n = settings.min_samples
    end_s = clock_s() + settings.budget_s
    while True:
        samples_ns.append(sample())
        n = len(samples_ns)
        if n >= next_look_n:
            if median_interval(samples_ns).relative_half_width < settings.precision:
                return Samples(tuple(samples_ns), warmup_n, StopReason.PRECISION)
            # Looks are spaced by a quarter: a bootstrap costs milliseconds, and every look is a chance to stop by luck.
            next_look_n = math.ceil(1.25 * n)
        if n >= settings.max_samples:
            return Samples(tuple(samples_ns), warmup_n, StopReason.MAX_SAMPLES)
        if clock_s() >= end_s:
            return Samples(tuple(samples_ns), warmup_n, StopReason.BUDGET)


def _warm_up(sample: Callable[[], float], settings: SamplingSettings, clock_s: Callable[[], float]) -> int:
    """Discard samples until they are stable; the number taken."""
    start_s = clock_s()
    window: list[float] = []
    medians: list[float] = []
    n = 0
    while True:
        window.append(sample())
        n += 1
        elapsed_s = clock_s() - start_s
        if len(window) == settings.warmup_window:
            medians = [*medians[-2:], median(window)]
            window = []
        stable = len(medians) == 3 and max(medians) - min(medians) < settings.warmup_tolerance * min(medians)
        if elapsed_s >= settings.warmup_max_s or (stable and elapsed_s >= settings.warmup_min_s):
            return n
