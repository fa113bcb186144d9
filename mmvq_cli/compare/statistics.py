"""Small pure functions behind every verdict: Student's t, intervals of log ratios, the paired block statistic."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from mmvq_cli.errors import UsageError
from mmvq_cli.measure import median_interval

_POWER_T = 0.8  # the detectable change is the one found with this probability
_NORMAL_95 = 1.959964  # half-width of a 95 % interval in standard errors


@dataclass(frozen=True, slots=True)
class Estimate:
    """A difference of logarithms with its standard error and degrees of freedom: exp(difference) is the time ratio."""

    difference: float
    standard_error: float
    degrees: float

    def half_width(self, alpha: float) -> float:
        """Half of the interval whose two ends each fail with probability `alpha`."""
        return self.standard_error * t_quantile(1 - alpha, self.degrees)


def t_cdf(t: float, degrees: float) -> float:
    """Probability that Student's t with `degrees` > 0 degrees of freedom is at most `t` (Abramowitz & Stegun 26.7)."""
    tail = 0.5 * _incomplete_beta(degrees / 2, 0.5, degrees / (degrees + t * t))
    return 1 - tail if t > 0 else tail


@lru_cache(maxsize=4096)
def t_quantile(probability: float, degrees: float) -> float:
    """Invert `t_cdf` by bisection, to 1e-10.

    Raises `UsageError` unless 0 < probability < 1 and degrees > 0.
    """
    if not 0 < probability < 1 or not degrees > 0:
        raise UsageError(
            f"no t quantile for probability {probability} and {degrees} degrees of freedom",
            "give at least two samples, and a level between 0 and 1",
        )
    if probability < 0.5:
        return -t_quantile(1 - probability, degrees)
    low, high = 0.0, 1.0
    while t_cdf(high, degrees) < probability and high < 1e12:
        high *= 2
    while high - low > 1e-10 * max(1.0, high):
        middle = (low + high) / 2
        low, high = (middle, high) if t_cdf(middle, degrees) < probability else (low, middle)
    return (low + high) / 2


def power_quantile(degrees: float) -> float:
    """The t quantile that a power of 80 % costs on top of the level's."""
    return t_quantile(_POWER_T, degrees)


def log_ratio(base_ns: Sequence[float], head_ns: Sequence[float]) -> Estimate:
    """Estimate ln(median head / median base) of two independent sets of samples, each of two or more.

    The error of each median comes from the block bootstrap, so it sees the noise within the two processes only. The
    degrees of freedom are those of the smaller set.
    """
    center = [math.log(float(np.median(samples))) for samples in (base_ns, head_ns)]
    error = math.hypot(_log_median_error(base_ns), _log_median_error(head_ns))
    return Estimate(center[1] - center[0], error, min(len(base_ns), len(head_ns)) - 1)


def mean_of(values: Sequence[float]) -> Estimate:
    """Estimate the mean of two or more independent values: of blocks, or of rows for the geometric mean."""
    spread = float(np.std(values, ddof=1))
    return Estimate(float(np.mean(values)), spread / math.sqrt(len(values)), len(values) - 1)


def next_of(history: Sequence[float], value: float) -> Estimate:
    """Estimate how far `value` lies from the mean of two or more earlier ones, as a prediction of one more value."""
    spread = float(np.std(history, ddof=1))
    error = spread * math.sqrt(1 + 1 / len(history))
    return Estimate(value - float(np.mean(history)), error, len(history) - 1)


def block_difference(base_ns: NDArray[np.float64], head_ns: NDArray[np.float64]) -> NDArray[np.float64]:
    """ln(median head / median base) over the last axis, the samples of one process of each arm.

    Both arms replay the same draws, so what a draw costs falls out.
    """
    return np.asarray(np.log(np.median(head_ns, axis=-1)) - np.log(np.median(base_ns, axis=-1)))


def binomial_upper(events: int, trials: int, level: float = 0.95) -> float:
    """Upper confidence bound of a probability of which `events` of `trials` were seen (Clopper and Pearson 1934)."""
    if events >= trials:
        return 1.0
    low, high = events / trials, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        at_most = 1 - _incomplete_beta(events + 1, trials - events, middle)
        low, high = (middle, high) if at_most > 1 - level else (low, middle)
    return high


def _log_median_error(samples_ns: Sequence[float]) -> float:
    interval = median_interval(samples_ns)
    return math.log(interval.high_ns / interval.low_ns) / 2 / _NORMAL_95


def _incomplete_beta(a: float, b: float, x: float) -> float:
    """Regularized incomplete beta function, by Lentz's continued fraction (DLMF 8.17.22)."""
    if x <= 0 or x >= 1:
        return float(x >= 1)
    if x > (a + 1) / (a + b + 2):
        return 1 - _incomplete_beta(b, a, 1 - x)
    front = math.exp(
        math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    ) / a  # fmt: skip
    c, d = 1.0, 1 / (1 - (a + b) * x / (a + 1))
    fraction = d
    for m in range(1, 300):
        for term in (
            m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m)),
            -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1)),
        ):
            d = 1 / (1 + term * d)
            c = 1 + term / c
            fraction *= c * d
        if abs(c * d - 1) < 1e-14:
            break
    return front * fraction
