"""Rows matched, judged, refused and missed."""

import pytest

from mmvq_cli.compare import GateConfig, Reason, Verdict, compare
from tests.compare.records import Status, make_record, source, timed

LIMITS = GateConfig().limits_of


def verdicts(base, head):
    return [(row.verdict, row.reason) for row in compare(source(*base), source(*head), LIMITS).rows]


def test_slower_faster_and_the_same():
    base = [timed(c) for c in "abc"]
    head = [timed("a", 55_000, seed=1), timed("b", 45_000, seed=1), timed("c", seed=1)]
    result = compare(source(*base), source(*head), LIMITS)
    assert [row.verdict for row in result.rows] == [Verdict.REGRESSED, Verdict.IMPROVED, Verdict.SAME]
    assert result.rows[0].ratio == pytest.approx(1.1, rel=0.01)
    assert result.rows[0].low < result.rows[0].ratio < result.rows[0].high
    assert result.detectable == pytest.approx(0.03, abs=0.01)
    assert any("unpaired" in note for note in result.notes)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"env__device": {"name": "NVIDIA A100"}}, Reason.DEVICE_DIFFERS),
        ({"env__driver": "570.1"}, Reason.DRIVER_DIFFERS),
        ({"protocol__cache": "hot"}, Reason.PROTOCOL_DIFFERS),
        ({"axes__unique_experts": [7]}, Reason.ROUTING_DIFFERS),
        ({"env__foreign_pids_n": 1}, Reason.FOREIGN_PROCESS),
        ({"env__throttle_bits": 0x40}, Reason.THROTTLED),
        ({"env__canary_gbps": {"start": 4000.0}}, Reason.CANARY_DRIFT),
        ({"env__canary_gbps": {"start": 4210.0, "end": 4000.0}}, Reason.CANARY_DRIFT),
        ({"env__canary_gbps": {"start": 4250.0, "mid": 4210.0}, "env__canary_least_gbps": 4220.0}, Reason.CANARY_SLOW),
    ],
)
def test_other_conditions_are_no_regression(changes, reason):
    assert verdicts([timed()], [timed(time_ns=99_000, **changes)]) == [(Verdict.INVALID, reason)]


def test_power_capping_alone_is_no_fault():
    assert verdicts([timed()], [timed(seed=1, env__throttle_bits=0x4)])[0][0] is Verdict.SAME


def test_a_wrong_result_is_wrong_whatever_else_differs():
    wrong = make_record(Status.WRONG_RESULT, ids__row_id="row-a", env__driver="1")
    assert verdicts([timed()], [wrong]) == [(Verdict.WRONG, Reason.WRONG_RESULT)]
    assert verdicts([wrong], [timed()]) == [(Verdict.INVALID, Reason.NO_TIME)]


def test_rows_of_one_side_are_named():
    assert verdicts([timed("a"), timed("b")], [timed("b", seed=1), timed("c")]) == [
        (Verdict.MISSING, Reason.NOT_IN_HEAD),
        (Verdict.SAME, Reason.WITHIN_THRESHOLD),
        (Verdict.NEW, Reason.NOT_IN_BASE),
    ]


def test_a_renamed_kernel_is_found_by_its_case():
    renamed = timed(seed=1).model_copy(update={"ids": timed().ids.model_copy(update={"row_id": "other"})})
    result = compare(source(timed()), source(renamed), LIMITS)
    assert [row.verdict for row in result.rows] == [Verdict.SAME]
    assert any("another name" in note for note in result.notes)


def test_the_same_machine_code_cannot_regress():
    same = {"ids__kernel": {"name": "k", "version": "1", "cubin_sha256": "abc"}}
    assert verdicts([timed(**same)], [timed(time_ns=60_000, **same)]) == [
        (Verdict.INCONCLUSIVE, Reason.SAME_MACHINE_CODE)
    ]


def test_checks_without_times_are_compared_by_their_verdict():
    assert verdicts([timed(timing=None)], [timed(timing=None)]) == [(Verdict.SAME, Reason.NO_TIME)]
    assert verdicts([timed()], [timed(timing=None)]) == [(Verdict.INVALID, Reason.NO_TIME)]


def test_one_sample_says_nothing():
    alone = {"timing__samples_ns": (50_000.0,)}
    record = make_record(ids__row_id="row-a", **alone)
    assert verdicts([record], [record]) == [(Verdict.INCONCLUSIVE, Reason.TOO_FEW_SAMPLES)]


def test_many_small_losses_show_in_the_geometric_mean():
    cases = "abcdefghij"
    base = [timed(c, seed=i) for i, c in enumerate(cases)]
    head = [timed(c, 51_000, seed=20 + i) for i, c in enumerate(cases)]
    result = compare(source(*base), source(*head), LIMITS)
    assert result.counts[Verdict.REGRESSED] == 0
    assert result.suite.verdict is Verdict.REGRESSED


def test_the_last_record_of_a_row_counts():
    assert verdicts([timed()], [timed(time_ns=90_000), timed(seed=1)])[0][0] is Verdict.SAME
