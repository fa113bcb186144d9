"""The decision rule: one three-valued answer for stored, historical and paired comparisons, and its thresholds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from mmvq_cli.compare.statistics import Estimate, log_ratio, power_quantile
from mmvq_cli.measure import MAX_DRIFT

TAU = 0.03  # the relative change that matters, unless a row or a preset has its own
TIMER_TICK_NS = 32.0  # CUDA events count in steps of 32 ns or less


class Verdict(StrEnum):
    """What a comparison says of one row."""

    SAME = "SAME"
    IMPROVED = "IMPROVED"
    REGRESSED = "REGRESSED"
    INCONCLUSIVE = "INCONCLUSIVE"
    INVALID = "INVALID"
    WRONG = "WRONG"
    MISSING = "MISSING"
    NEW = "NEW"


CHANGED = (Verdict.REGRESSED, Verdict.IMPROVED)


class Reason(StrEnum):
    """Why; one code for each verdict, explained in docs/gate.md."""

    BEYOND_THRESHOLD = "beyond-threshold"
    WITHIN_THRESHOLD = "within-threshold"
    INTERVAL_TOO_WIDE = "interval-too-wide"
    BELOW_FLOOR = "below-floor"
    BELOW_THRESHOLD = "below-threshold"
    SAME_MACHINE_CODE = "same-machine-code"
    NOT_CONFIRMED = "not-confirmed"
    TOO_FEW_SAMPLES = "too-few-samples"
    WRONG_RESULT = "wrong-result"
    NO_TIME = "no-time"
    DEVICE_DIFFERS = "device-differs"
    DRIVER_DIFFERS = "driver-differs"
    PROTOCOL_DIFFERS = "protocol-differs"
    ROUTING_DIFFERS = "routing-differs"
    CANARY_DRIFT = "canary-drift"
    CANARY_SLOW = "canary-slow"
    FOREIGN_PROCESS = "foreign-process"
    THROTTLED = "throttled"
    FEW_SESSIONS = "few-sessions"
    RESOURCES_GREW = "resources-grew"
    RESOURCES_SHRANK = "resources-shrank"
    RESOURCES_EQUAL = "resources-equal"
    NOT_IN_HEAD = "not-in-head"
    NOT_IN_BASE = "not-in-base"


@dataclass(frozen=True, slots=True, kw_only=True)
class Thresholds:
    """What counts as a change, relative unless named otherwise.

    `tau` is the smallest change that matters, `tau_significant` the one that the interval must exclude, `floor_ns` the
    smallest absolute change, `alpha` the error allowed at each end of an interval, `tau_suite` the limit of the
    geometric mean, `canary_drift` the largest change of the machine's own speed between two sessions, `noise_floor`
    what identical builds differ by.
    """

    tau: float = TAU
    tau_significant: float = 0.01
    tau_suite: float = 0.01
    floor_ns: float = 200.0
    alpha: float = 0.005
    canary_drift: float = MAX_DRIFT
    noise_floor: float = 0.0


@dataclass(frozen=True, slots=True)
class Decision:
    """Verdict of one row: interval [low, high] of the time ratio, and the smallest change that would be found."""

    verdict: Verdict
    reason: Reason
    ratio: float
    low: float
    high: float
    detectable: float


REGRESSED, SAME, IMPROVED, INCONCLUSIVE = 1, 0, -1, 2


def classify(
    difference: NDArray[np.float64] | float,
    half_width: NDArray[np.float64] | float,
    theta: NDArray[np.float64] | float,
    significant: float,
) -> NDArray[np.int8]:
    """Decide many rows at once, all arguments in logarithms: 1 slower, -1 faster, 0 the same, 2 cannot tell.

    Slower: the interval lies above `significant` and the difference is at least `theta`. Faster is the mirror image.
    The same: the whole interval lies within theta on both sides, which is equivalence and not a failed test.
    """
    d, h = np.asarray(difference), np.asarray(half_width)
    slower = (d - h > significant) & (d >= theta)
    faster = (d + h < -significant) & (d <= -np.asarray(theta))
    same = np.abs(d) + h < theta
    return np.select([slower, faster, same], [REGRESSED, IMPROVED, SAME], INCONCLUSIVE).astype(np.int8)


def threshold_of(tau: float, base_ns: float, noise_floor: float = 0.0) -> float:
    """The logarithmic change that matters for a row of this time: tau, the testbed's A/A noise, two timer ticks."""
    return max(math.log1p(tau), noise_floor, math.log1p(2 * TIMER_TICK_NS / base_ns))


def detectable_change(estimate: Estimate, theta: float, limits: Thresholds, base_ns: float) -> float:
    """Smallest relative slowdown that is found with probability 80 %."""
    power = power_quantile(estimate.degrees) * estimate.standard_error
    needed = power + max(theta, math.log1p(limits.tau_significant) + estimate.half_width(limits.alpha))
    return max(math.expm1(needed), limits.floor_ns / base_ns)


def detectable_in(samples_ns: Sequence[float]) -> float | None:
    """The smallest relative slowdown that two runs with these samples' noise would show; None below two samples."""
    if len(samples_ns) < 2:
        return None
    limits, base_ns = Thresholds(), float(np.median(samples_ns))
    return detectable_change(log_ratio(samples_ns, samples_ns), threshold_of(limits.tau, base_ns), limits, base_ns)


def decide(estimate: Estimate, base_ns: float, limits: Thresholds) -> Decision:
    """Decide one row from the estimate of its log ratio; `base_ns` turns ratios into absolute changes."""
    theta = threshold_of(limits.tau, base_ns, limits.noise_floor)
    half = estimate.half_width(limits.alpha)
    d = estimate.difference
    code = int(classify(d, half, theta, math.log1p(limits.tau_significant)))
    verdict = {REGRESSED: Verdict.REGRESSED, IMPROVED: Verdict.IMPROVED, SAME: Verdict.SAME}.get(
        code, Verdict.INCONCLUSIVE
    )
    reason = Reason.WITHIN_THRESHOLD if verdict is Verdict.SAME else Reason.BEYOND_THRESHOLD
    if verdict is Verdict.INCONCLUSIVE:
        # An interval clear of both zero and the threshold's far side is narrow enough: the change is real but small.
        reason = Reason.BELOW_THRESHOLD if half < theta else Reason.INTERVAL_TOO_WIDE
    if verdict in CHANGED and abs(base_ns * math.expm1(d)) < limits.floor_ns:
        verdict, reason = Verdict.SAME, Reason.BELOW_FLOOR
    return Decision(
        verdict,
        reason,
        math.exp(d),
        math.exp(d - half),
        math.exp(d + half),
        detectable_change(estimate, theta, limits, base_ns),
    )


def confirm(screen: Decision, second: Decision) -> Decision:
    """Uphold a regression only when a fresh process found it again; the second look's numbers are reported."""
    if screen.verdict is not Verdict.REGRESSED or second.verdict is Verdict.REGRESSED:
        return second if screen.verdict is Verdict.REGRESSED else screen
    return Decision(
        Verdict.INCONCLUSIVE, Reason.NOT_CONFIRMED, second.ratio, second.low, second.high, second.detectable
    )


def decide_suite(estimate: Estimate, limits: Thresholds) -> Decision:
    """Decide the geometric mean of the rows, which finds many small losses that no row shows by itself."""
    half, limit = estimate.half_width(limits.alpha), math.log1p(limits.tau_suite)
    d = estimate.difference
    if d - half > limit:
        verdict, reason = Verdict.REGRESSED, Reason.BEYOND_THRESHOLD
    elif d + half < -limit:
        verdict, reason = Verdict.IMPROVED, Reason.BEYOND_THRESHOLD
    elif abs(d) + half < max(math.log1p(limits.tau), limit):
        verdict, reason = Verdict.SAME, Reason.WITHIN_THRESHOLD
    else:
        verdict, reason = Verdict.INCONCLUSIVE, Reason.INTERVAL_TOO_WIDE
    power = power_quantile(estimate.degrees) * estimate.standard_error
    return Decision(
        verdict, reason, math.exp(d), math.exp(d - half), math.exp(d + half), math.expm1(limit + half + power)
    )
