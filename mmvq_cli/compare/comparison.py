"""Two sets of records against each other: one verdict per row, the geometric mean, what is missing."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from mmvq_cli.compare.matching import Pair, invalidity, match, stream_drift, wrong
from mmvq_cli.compare.rule import CHANGED, Decision, Reason, Thresholds, Verdict, decide, decide_suite
from mmvq_cli.compare.sources import Source
from mmvq_cli.compare.statistics import log_ratio, mean_of
from mmvq_cli.record import Record

LimitsOf = Callable[[str], Thresholds]  # the thresholds of a case id

TIMED = (Verdict.SAME, Verdict.IMPROVED, Verdict.REGRESSED, Verdict.INCONCLUSIVE)


@dataclass(frozen=True, slots=True, kw_only=True)
class RowResult:
    """The verdict of one row.

    Times are medians in ns per launch. `ratio`, its interval and `detectable` (a relative change) are None where
    nothing could be compared; `detail` has the values behind the reason.
    """

    row_id: str
    case_id: str
    verdict: Verdict
    reason: Reason
    detail: str = ""
    base_ns: float | None = None
    head_ns: float | None = None
    ratio: float | None = None
    low: float | None = None
    high: float | None = None
    detectable: float | None = None
    tau: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """All rows of one head against one base; `method` says what the intervals cover."""

    base: str
    head: str
    method: str
    rows: tuple[RowResult, ...]
    suite: Decision | None
    notes: tuple[str, ...] = ()

    @property
    def counts(self) -> Counter[Verdict]:
        """How many rows have each verdict."""
        return Counter(row.verdict for row in self.rows)

    @property
    def detectable(self) -> float | None:
        """The change that half of the rows would show: the median of theirs."""
        found = sorted(row.detectable for row in self.rows if row.detectable is not None)
        return found[len(found) // 2] if found else None


def compare(base: Source, head: Source, limits_of: LimitsOf) -> Comparison:
    """Compare the newest record of each row, unpaired: intervals hold the noise within the two processes only."""
    pairs = match(base.latest, head.latest)
    rows = tuple(_compare_row(pair, limits_of(pair.any.ids.case_id)) for pair in pairs)
    return Comparison(
        base=base.name,
        head=head.name,
        method="unpaired",
        rows=rows,
        suite=suite_of_rows(rows, limits_of("")),
        notes=(
            "unpaired: the intervals hold the noise within the two processes, not that between processes and sessions",
            *renamed_note(pairs),
        ),
    )


def log_ratios(rows: Sequence[RowResult]) -> list[float]:
    """The logarithms of the ratios of the rows that could be compared."""
    return [math.log(row.ratio) for row in rows if row.ratio is not None and row.verdict in TIMED]


def suite_of_rows(rows: Sequence[RowResult], limits: Thresholds) -> Decision | None:
    """Decide the geometric mean from the spread over rows; None below two of them."""
    ratios = log_ratios(rows)
    return decide_suite(mean_of(ratios), limits) if len(ratios) > 1 else None


def renamed_note(pairs: Sequence[Pair]) -> tuple[str, ...]:
    """Say how many rows have a kernel of another name on the two sides."""
    renamed = sum(bool(p.base and p.head and p.base.ids.row_id != p.head.ids.row_id) for p in pairs)
    return (f"{renamed} rows run a kernel of another name in the head",) if renamed else ()


def settle_without_times(pair: Pair, limits: Thresholds, *, normalised: bool = False) -> RowResult | None:
    """The verdict of a row whose times must not or cannot be compared, or None when they may.

    Times that are `normalised` by the canary may come from sessions of another speed.
    """
    base, head = pair.base, pair.head
    if head and wrong(head):
        return row_result(pair, Verdict.WRONG, Reason.WRONG_RESULT, head.correctness.reason or "")
    if head is None:
        return row_result(pair, Verdict.MISSING, Reason.NOT_IN_HEAD)
    if base is None:
        return row_result(pair, Verdict.NEW, Reason.NOT_IN_BASE)
    fault = invalidity(base, head, limits.canary_drift)
    drift = stream_drift(base, head)
    if not fault and not normalised and abs(drift) > limits.canary_drift:
        fault = Reason.CANARY_DRIFT, f"streaming read {100 * drift:+.1f} % between the sessions"
    if fault:
        return row_result(pair, Verdict.INVALID, *fault)
    if head.timing is None:
        return row_result(pair, Verdict.SAME, Reason.NO_TIME, "both are right; neither was timed")
    return None


def row_result(
    pair: Pair, verdict: Verdict, reason: Reason, detail: str = "", decision: Decision | None = None
) -> RowResult:
    """Name the row, and take over the numbers of a decision."""
    numbers = {} if decision is None else {n: getattr(decision, n) for n in ("ratio", "low", "high", "detectable")}
    return RowResult(
        row_id=pair.any.ids.row_id,
        case_id=pair.any.ids.case_id,
        verdict=verdict,
        reason=reason,
        detail=detail,
        base_ns=_median(pair.base),
        head_ns=_median(pair.head),
        **numbers,
    )


def decided(pair: Pair, decision: Decision, limits: Thresholds, detail: str = "") -> RowResult:
    """The row of a decision; a change between two runs of the same machine code is taken for noise."""
    verdict, reason = decision.verdict, decision.reason
    if verdict in CHANGED and pair.runs_same_code:
        verdict, reason = Verdict.INCONCLUSIVE, Reason.SAME_MACHINE_CODE
    return replace(row_result(pair, verdict, reason, detail, decision), tau=limits.tau)


def _compare_row(pair: Pair, limits: Thresholds) -> RowResult:
    settled = settle_without_times(pair, limits)
    if settled:
        return settled
    assert pair.base
    assert pair.head
    assert pair.base.timing
    assert pair.head.timing
    samples = [side.timing.samples_ns for side in (pair.base, pair.head) if side.timing]
    fewest = min(map(len, samples))
    if fewest < 2:
        return row_result(pair, Verdict.INCONCLUSIVE, Reason.TOO_FEW_SAMPLES, f"{fewest} sample")
    decision = decide(log_ratio(*samples), pair.base.timing.gpu_ns.median, limits)
    return decided(pair, decision, limits, " / ".join(f"{len(s)} samples" for s in samples))


def _median(record: Record | None) -> float | None:
    return record.timing.gpu_ns.median if record and record.timing else None
