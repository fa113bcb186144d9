"""The gate: a run against a baseline's history, and the exit code of any comparison."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from mmvq_cli.compare.comparison import (
    Comparison,
    RowResult,
    decided,
    renamed_note,
    row_result,
    settle_without_times,
)
from mmvq_cli.compare.config import FailOn, GateConfig
from mmvq_cli.compare.matching import Pair, canary_log_ratio, invalidity, match
from mmvq_cli.compare.rule import Decision, Reason, Thresholds, Verdict, decide, decide_suite
from mmvq_cli.compare.sources import Source
from mmvq_cli.compare.statistics import next_of
from mmvq_cli.errors import ExitCode, worst
from mmvq_cli.record import Record

_ALPHA_ALL_ROWS = 0.01  # of one false alarm in a whole session, shared by its rows


@dataclass(frozen=True, slots=True)
class GateResult:
    """A comparison with what it means for a build; `advisory` says why it may not fail one ("" when it may)."""

    comparison: Comparison
    exit_code: ExitCode
    advisory: str = ""


def gate_baseline(base: Source, head: Source, config: GateConfig) -> GateResult:
    """Judge a run by the sessions of a baseline: time over canary, as a prediction of one more session.

    The run itself is no part of its own history. With fewer than `min_sessions` sessions regressions are reported and
    do not fail; wrong results always do.
    """
    head_runs = set(head.sessions)
    history = {run_id: rows for run_id, rows in base.sessions.items() if run_id not in head_runs}
    latest = {row_id: record for rows in history.values() for row_id, record in rows.items()}
    pairs = match(latest, head.latest)
    alpha = _ALPHA_ALL_ROWS / max(1, len(pairs))
    rows = tuple(_judge(pair, history, replace(config.limits_of(pair.any.ids.case_id), alpha=alpha)) for pair in pairs)
    enough = len(history) >= config.min_sessions
    advisory = "" if enough else f"advisory: {len(history)} of {config.min_sessions} sessions of history"
    comparison = Comparison(
        base=base.name,
        head=head.name,
        method="baseline",
        rows=rows,
        suite=_judge_suite(rows, pairs, history, config.thresholds),
        notes=(f"{len(history)} sessions; times are relative to the canary of their session", *renamed_note(pairs)),
    )
    return GateResult(comparison, exit_code(comparison, config.fail_on, advisory=bool(advisory)), advisory)


def exit_code(comparison: Comparison, fail_on: frozenset[FailOn], *, advisory: bool = False) -> ExitCode:
    """The worst outcome that is asked to fail; nothing to compare is 6, and all rows invalid is 4, in any case."""
    counts = comparison.counts
    if not comparison.rows:
        return ExitCode.NOTHING_MATCHED
    codes = [ExitCode.WRONG] if counts[Verdict.WRONG] else []
    if counts[Verdict.INVALID] and (FailOn.INVALID in fail_on or counts[Verdict.INVALID] == len(comparison.rows)):
        codes.append(ExitCode.ENVIRONMENT)
    matched = len(comparison.rows) - counts[Verdict.MISSING] - counts[Verdict.NEW]
    if (
        not matched
        or (counts[Verdict.MISSING] and FailOn.MISSING in fail_on)
        or (counts[Verdict.NEW] and FailOn.NEW in fail_on)
    ):
        codes.append(ExitCode.NOTHING_MATCHED)
    slower = counts[Verdict.REGRESSED] or (comparison.suite and comparison.suite.verdict is Verdict.REGRESSED)
    if slower and FailOn.REGRESSION in fail_on and not advisory:
        codes.append(ExitCode.REGRESSION)
    if counts[Verdict.INCONCLUSIVE] and FailOn.INCONCLUSIVE in fail_on and not advisory:
        codes.append(ExitCode.INCONCLUSIVE)
    return worst(codes)


def _judge(pair: Pair, history: Mapping[str, Mapping[str, Record]], limits: Thresholds) -> RowResult:
    settled = settle_without_times(pair, limits, normalised=True)
    if settled:
        return settled
    assert pair.base
    assert pair.head
    past = _comparable(pair, history, limits)
    earlier = [ratio for record in past if (ratio := canary_log_ratio(record)) is not None]
    now = canary_log_ratio(pair.head)
    if now is None or len(earlier) < 2:
        detail = f"{len(earlier)} sessions with a time and a canary"
        return row_result(pair, Verdict.INCONCLUSIVE, Reason.FEW_SESSIONS, detail)
    base_ns = float(np.median([record.timing.gpu_ns.median for record in past if record.timing]))
    decision = decide(next_of(earlier, now), base_ns, limits)
    detail = f"{len(earlier)} sessions, spread {100 * float(np.std(earlier, ddof=1)):.2f} %"
    return replace(decided(pair, decision, limits, detail), base_ns=base_ns)


def _comparable(pair: Pair, history: Mapping[str, Mapping[str, Record]], limits: Thresholds) -> list[Record]:
    """The earlier records of the pair's row that were measured under the head's conditions."""
    assert pair.base
    assert pair.head
    row_id = pair.base.ids.row_id
    found = [rows[row_id] for rows in history.values() if row_id in rows]
    return [record for record in found if invalidity(record, pair.head, limits.canary_drift) is None]


def _judge_suite(
    rows: Sequence[RowResult], pairs: Sequence[Pair], history: Mapping[str, Mapping[str, Record]], limits: Thresholds
) -> Decision | None:
    """Decide the geometric mean from the spread of earlier sessions' means, over the rows that all sessions have."""
    timed = [pair for row, pair in zip(rows, pairs, strict=True) if row.ratio is not None]
    sessions = [[_ratio(rows, pair.base) for pair in timed] for rows in history.values()]
    now = [_ratio({pair.head.ids.row_id: pair.head}, pair.head) for pair in timed if pair.head]
    values = np.asarray([*sessions, now], dtype=np.float64)
    if len(values) < 3 or values.ndim < 2:
        return None
    values = values[:, np.isfinite(values).all(axis=0)]
    if values.shape[1] < 2:
        return None
    *earlier, last = values.mean(axis=1).tolist()
    return decide_suite(next_of(earlier, last), limits)


def _ratio(rows: Mapping[str, Record], record: Record | None) -> float:
    found = rows.get(record.ids.row_id) if record else None
    ratio = canary_log_ratio(found) if found else None
    return math.nan if ratio is None else ratio
