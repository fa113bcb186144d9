"""What samples of a time say: their distribution, and how well their median is known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mmvq_cli.errors import UsageError


@dataclass(frozen=True, slots=True)
class Summary:
    """Distribution of samples; ns, but `cv` (sample deviation / mean) and `iqr_rel` ((q3 - q1) / median)."""

    min: float
    p05: float
    q1: float
    median: float
    q3: float
    p95: float
    max: float
    mean: float
    cv: float
    iqr_rel: float


@dataclass(frozen=True, slots=True)
class MedianInterval:
    """A confidence interval of the median, in ns, that covers it with probability `level`."""

    median_ns: float
    low_ns: float
    high_ns: float
    level: float

    @property
    def relative_half_width(self) -> float:
        """Half of the interval's width in units of the median: 0.005 reads as ± 0.5 %."""
        return (self.high_ns - self.low_ns) / 2 / self.median_ns


def summarize(samples_ns: Sequence[float]) -> Summary:
    """Describe samples of any length from one; quantiles are interpolated linearly.

    Raises `UsageError` when there is no sample, or one that is not a positive finite time.
    """
    samples = _positive(samples_ns)
    low, p05, q1, median, q3, p95, high = np.quantile(samples, (0, 0.05, 0.25, 0.5, 0.75, 0.95, 1)).tolist()
    mean = float(samples.mean())
    deviation = float(samples.std(ddof=1)) if samples.size > 1 else 0.0
    return Summary(low, p05, q1, median, q3, p95, high, mean, cv=deviation / mean, iqr_rel=(q3 - q1) / median)


def median_interval(
    samples_ns: Sequence[float], level: float = 0.95, n_resamples: int = 1000, seed: int = 0
) -> MedianInterval:
    """Percentile interval of the median by the moving-block bootstrap (Künsch 1989), blocks of n^(1/3) samples.

    Blocks keep the correlation of neighbouring samples (clocks drift), which resampling single ones would hide. The
    same samples and seed give the same interval. Raises `UsageError` as `summarize` does.
    """
    samples = _positive(samples_ns)
    medians = np.median(_resample_blocks(samples, n_resamples, np.random.default_rng(seed)), axis=1)
    low, high = np.quantile(medians, ((1 - level) / 2, (1 + level) / 2)).tolist()
    return MedianInterval(float(np.median(samples)), low, high, level)


def _resample_blocks(samples: NDArray[np.float64], n_resamples: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Random runs of neighbours, joined and cut to the original length: [n_resamples, samples]."""
    block_length = round(samples.size ** (1 / 3))
    n_blocks = -(-samples.size // block_length)
    starts = rng.integers(0, samples.size - block_length + 1, size=(n_resamples, n_blocks, 1))
    indices = (starts + np.arange(block_length)).reshape(n_resamples, -1)[:, : samples.size]
    return np.asarray(samples[indices])


def _positive(samples_ns: Sequence[float]) -> NDArray[np.float64]:
    samples = np.asarray(samples_ns, dtype=np.float64)
    if not samples.size:
        raise UsageError("there are no samples to summarize", "allow at least one: raise the time budget")
    wrong = samples[~(np.isfinite(samples) & (samples > 0))]
    if wrong.size:
        raise UsageError(
            f"a sample is {wrong[0]} ns, it must be positive and finite",
            "time more launches per sample: the clock may be too coarse for so few",
        )
    return samples
