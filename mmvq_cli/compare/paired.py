"""Two builds measured in turn, in fresh processes: what a slow day or a slow process adds falls out of each block."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from mmvq_cli.compare.comparison import Comparison, RowResult, decided, row_result, settle_without_times
from mmvq_cli.compare.config import GateConfig
from mmvq_cli.compare.matching import Pair, match
from mmvq_cli.compare.rule import Decision, Reason, Thresholds, Verdict, confirm, decide, decide_suite
from mmvq_cli.compare.sources import Source
from mmvq_cli.compare.statistics import block_difference, mean_of

_VALID_SHARE = 0.75  # of the blocks that a row needs


@dataclass(frozen=True, slots=True)
class Block:
    """One process of each build, one after the other."""

    base: Source
    head: Source


def compare_paired(blocks: Sequence[Block], config: GateConfig) -> Comparison:
    """Judge rows by the mean over at least two blocks of ln(head / base); the interval is that of the blocks.

    A row that is wrong in one block is wrong; blocks in which it is invalid are left out, and when more than a quarter
    of them is, the row is invalid.
    """
    by_case: dict[str, dict[int, Pair]] = {}
    for index, block in enumerate(blocks):
        for pair in match(block.base.latest, block.head.latest):
            by_case.setdefault(pair.any.ids.case_id, {})[index] = pair
    rows, differences = [], []
    for case_id, pairs in by_case.items():
        row, found = _judge(pairs, len(blocks), config.limits_of(case_id))
        rows.append(row)
        differences.append(found)
    return Comparison(
        base=blocks[0].base.name,
        head=blocks[0].head.name,
        method="paired",
        rows=tuple(rows),
        suite=_judge_suite(differences, config.thresholds),
        notes=(f"{len(blocks)} blocks of two fresh processes, in the order ABBA",),
    )


def confirm_comparison(screen: Comparison, second: Comparison) -> Comparison:
    """Uphold the regressions of a screen that a second pass found again; its other verdicts stay as they are."""
    again = {row.case_id: row for row in second.rows}
    rows = tuple(_confirm_row(row, again.get(row.case_id)) for row in screen.rows)
    suite = confirm(screen.suite, second.suite) if screen.suite and second.suite else screen.suite
    return replace(screen, rows=rows, suite=suite, notes=(*screen.notes, "regressions were measured a second time"))


def regressed(comparison: Comparison) -> bool:
    """Whether a row or the geometric mean is slower: what a second pass has to confirm."""
    suite = comparison.suite
    return bool(comparison.counts[Verdict.REGRESSED] or (suite and suite.verdict is Verdict.REGRESSED))


def too_wide(comparison: Comparison) -> bool:
    """Whether a row's interval is too wide for a verdict: what more blocks can mend."""
    return any(row.reason is Reason.INTERVAL_TOO_WIDE for row in comparison.rows)


def _judge(pairs: Mapping[int, Pair], n_blocks: int, limits: Thresholds) -> tuple[RowResult, dict[int, float]]:
    """The verdict of a row from its pairs by block, and its differences by block."""
    settled = {index: settle_without_times(pair, limits) for index, pair in pairs.items()}
    faults = sorted(filter(None, settled.values()), key=lambda row: row.verdict is not Verdict.WRONG)
    valid = [pair for index, pair in pairs.items() if settled[index] is None]
    if faults and (faults[0].verdict is Verdict.WRONG or len(valid) < max(2, _VALID_SHARE * n_blocks)):
        return faults[0], {}
    if len(valid) < 2:
        return row_result(valid[0], Verdict.INCONCLUSIVE, Reason.TOO_FEW_SAMPLES, f"{len(valid)} blocks"), {}
    samples = [[np.asarray(r.timing.samples_ns) for r in (p.base, p.head) if r and r.timing] for p in valid]
    differences = [float(block_difference(base, head)) for base, head in samples]
    base_ns, head_ns = (float(np.median([np.median(arms[i]) for arms in samples])) for i in (0, 1))
    decision = decide(mean_of(differences), base_ns, limits)
    detail = f"{len(valid)} of {n_blocks} blocks, spread {100 * float(np.std(differences, ddof=1)):.2f} %"
    row = replace(decided(valid[0], decision, limits, detail), base_ns=base_ns, head_ns=head_ns)
    indices = [index for index in pairs if settled[index] is None]
    return row, dict(zip(indices, differences, strict=True))


def _judge_suite(differences: Sequence[Mapping[int, float]], limits: Thresholds) -> Decision | None:
    """Decide the geometric mean from the spread over those blocks that all timed rows have."""
    timed = [found for found in differences if found]
    shared = set.intersection(*map(set, timed)) if timed else set()
    if len(timed) < 2 or len(shared) < 2:
        return None
    means = [float(np.mean([found[index] for found in timed])) for index in sorted(shared)]
    return decide_suite(mean_of(means), limits)


def _confirm_row(screen: RowResult, second: RowResult | None) -> RowResult:
    if screen.verdict is not Verdict.REGRESSED or second is None:
        return screen
    if second.verdict is Verdict.REGRESSED:
        return second
    return replace(second, verdict=Verdict.INCONCLUSIVE, reason=Reason.NOT_CONFIRMED)
