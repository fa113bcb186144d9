"""Blocks of two builds: judged, confirmed, refused."""

import numpy as np
import pytest

from mmvq_cli.compare import Block, GateConfig, Reason, Verdict, compare_paired, confirm_comparison, regressed
from tests.compare.records import Status, make_record, source, timed

CONFIG = GateConfig()


def blocks(slowdown=0.0, n=6, cases="ab", process=0.003, seed=1, **changes):
    """Blocks on a machine whose speed wanders by 5 % from block to block."""
    rng = np.random.default_rng(seed)
    made = []
    for index in range(n):
        speed = np.exp(rng.normal(0, 0.05))
        arms = []
        for factor, more in ((1.0, {}), (1.0 + slowdown, changes)):
            times = [50_000 * speed * factor * np.exp(rng.normal(0, process)) for _ in cases]
            rows = [timed(c, t, seed=index, **more) for c, t in zip(cases, times, strict=True)]
            arms.append(source(*rows, name="head" if more or factor > 1 else "base"))
        made.append(Block(*arms))
    return made


def test_a_wandering_machine_falls_out():
    result = compare_paired(blocks(), CONFIG)
    assert [row.verdict for row in result.rows] == [Verdict.SAME] * 2
    assert not regressed(result)
    slow = compare_paired(blocks(0.06), CONFIG)
    assert [row.verdict for row in slow.rows] == [Verdict.REGRESSED] * 2
    assert slow.rows[0].ratio == pytest.approx(1.06, abs=0.01)
    assert slow.suite.verdict is Verdict.REGRESSED
    assert regressed(slow)


def test_faster_is_an_improvement():
    assert {row.verdict for row in compare_paired(blocks(-0.06), CONFIG).rows} == {Verdict.IMPROVED}


def test_a_second_pass_upholds_or_drops_a_regression():
    slow, same = compare_paired(blocks(0.06), CONFIG), compare_paired(blocks(seed=2), CONFIG)
    assert regressed(confirm_comparison(slow, slow))
    dropped = confirm_comparison(slow, same)
    assert not regressed(dropped)
    assert {row.reason for row in dropped.rows} == {Reason.NOT_CONFIRMED}


def test_one_wrong_block_is_wrong():
    made = blocks()
    wrong = source(make_record(Status.WRONG_RESULT, ids__row_id="row-a", ids__case_id="case-a"), timed("b"))
    made[3] = Block(made[3].base, wrong)
    assert [row.verdict for row in compare_paired(made, CONFIG).rows] == [Verdict.WRONG, Verdict.SAME]


def test_a_few_invalid_blocks_are_left_out_and_many_are_not():
    good = blocks(0.06, n=8)
    drifted = blocks(0.06, n=8, env__canary_gbps={"start": 3000.0})
    few = compare_paired([*good[:7], drifted[7]], CONFIG)
    assert few.rows[0].verdict is Verdict.REGRESSED
    assert "7 of 8 blocks" in few.rows[0].detail
    many = compare_paired([*good[:5], *drifted[5:]], CONFIG)
    assert (many.rows[0].verdict, many.rows[0].reason) == (Verdict.INVALID, Reason.CANARY_DRIFT)
    assert many.suite is None


def test_two_blocks_are_the_least():
    assert compare_paired(blocks(n=1), CONFIG).rows[0].reason is Reason.TOO_FEW_SAMPLES
