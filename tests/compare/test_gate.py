"""A run against a history, what fails, the static gate, and the gate's own test."""

import json
from dataclasses import fields, replace

import pytest

from mmvq_cli.compare import (
    FailOn,
    GateConfig,
    Growth,
    Reason,
    Verdict,
    compare_static,
    exit_code,
    gate_baseline,
    load_config,
    read_compiled,
    self_test,
)
from mmvq_cli.errors import ExitCode, NothingMatched, OpenError
from tests.compare.records import Status, history, make_record, source, timed

CONFIG = GateConfig()


def head(times=(50_000, 50_000, 50_000), canary_ns=10_000.0, **changes):
    rows = zip("abc", times, strict=True)
    return source(*(timed(c, t, "head", seed=99, canary_ns=canary_ns, **changes) for c, t in rows))


def test_a_run_like_those_before_passes():
    result = gate_baseline(history(), head(), CONFIG)
    assert (result.exit_code, result.advisory) == (ExitCode.OK, "")


def test_a_slow_row_fails_and_is_named():
    result = gate_baseline(history(), head((50_000, 56_000, 50_000)), CONFIG)
    assert result.exit_code is ExitCode.REGRESSION
    assert [row.verdict for row in result.comparison.rows][1] is Verdict.REGRESSED
    assert "12 sessions" in result.comparison.rows[1].detail


def test_a_slow_session_with_a_slow_canary_is_no_regression():
    slow = head((53_000,) * 3, canary_ns=10_600.0)
    assert gate_baseline(history(), slow, CONFIG).exit_code is ExitCode.OK
    assert gate_baseline(history(), head((53_000,) * 3), CONFIG).exit_code is ExitCode.REGRESSION


def test_a_short_history_advises_and_fails_only_for_wrong_results():
    short = history(sessions=9)
    result = gate_baseline(short, head((60_000,) * 3), CONFIG)
    assert result.exit_code is ExitCode.OK
    assert result.advisory == "advisory: 9 of 10 sessions of history"
    assert result.comparison.counts[Verdict.REGRESSED] == 3
    wrong = source(make_record(Status.WRONG_RESULT, ids__row_id="row-a"))
    assert gate_baseline(short, wrong, CONFIG).exit_code is ExitCode.WRONG


def test_one_session_cannot_judge():
    result = gate_baseline(history(sessions=1), head(), CONFIG)
    assert {row.reason for row in result.comparison.rows} == {Reason.FEW_SESSIONS}


def test_a_run_is_no_part_of_its_own_history():
    sessions = history()
    own = source(*sessions.records, *head((60_000,) * 3).records)
    assert gate_baseline(own, head((60_000,) * 3), CONFIG).exit_code is ExitCode.REGRESSION


def test_sessions_of_other_conditions_do_not_count():
    result = gate_baseline(history(), head(env__driver="other"), CONFIG)
    assert {row.reason for row in result.comparison.rows} == {Reason.DRIVER_DIFFERS}
    assert result.exit_code is ExitCode.ENVIRONMENT


@pytest.mark.parametrize(
    ("fail_on", "code"),
    [
        ({FailOn.REGRESSION, FailOn.MISSING}, ExitCode.NOTHING_MATCHED),
        ({FailOn.REGRESSION}, ExitCode.REGRESSION),
        ({FailOn.NEW}, ExitCode.NOTHING_MATCHED),
        (set(), ExitCode.OK),
    ],
)
def test_what_fails_is_chosen(fail_on, code):
    rows = source(timed("a", 60_000, "head", seed=9), timed("b", 50_000, "head", seed=9), timed("new", run_id="head"))
    assert gate_baseline(history(), rows, replace(CONFIG, fail_on=frozenset(fail_on))).exit_code is code


def test_nothing_in_common_is_never_a_pass():
    only_new = source(timed("new", run_id="head"))
    assert (
        gate_baseline(history(), only_new, replace(CONFIG, fail_on=frozenset())).exit_code is ExitCode.NOTHING_MATCHED
    )
    empty = gate_baseline(source(), source(), CONFIG).comparison
    assert exit_code(empty, frozenset()) is ExitCode.NOTHING_MATCHED


def test_inconclusive_fails_when_asked():
    noisy = gate_baseline(history(noise=0.05), head(), replace(CONFIG, fail_on=frozenset({FailOn.INCONCLUSIVE})))
    assert noisy.exit_code is ExitCode.INCONCLUSIVE


def test_a_row_has_the_threshold_of_its_pattern():
    config = replace(CONFIG, rows=(("case-b", 0.2),))
    result = gate_baseline(history(), head((50_000, 56_000, 50_000)), config)
    assert result.comparison.rows[1].verdict is not Verdict.REGRESSED
    assert result.comparison.rows[1].tau == 0.2


def test_the_gate_trips_on_what_is_injected():
    trials = self_test(source(timed("a"), timed("b", 80_000), name="run"), CONFIG, 0.10)
    assert [trial.passed for trial in trials] == [True] * 6


def test_a_gate_that_never_trips_fails_its_own_test():
    blind = load_config(thresholds=["90%"])
    trials = self_test(source(timed("a"), timed("b", 80_000)), blind, 0.10)
    assert [t.change for t in trials if not t.passed] == ["10 % in one row"]  # the geometric mean still sees all rows


def test_a_self_test_needs_times():
    with pytest.raises(NothingMatched, match="no timed rows"):
        self_test(source(timed(timing=None)), CONFIG, 0.1)


def compiled(tmp_path, name="a.json", nvrtc="13.0", **figures):
    kernel = {"entry": "main", "registers": 64, "shared_bytes": 0, "local_bytes": 0, "spill_bytes": 0}
    row = {"name": "grouped.cu Q4_K", "architecture": "sm_90", "cubin_bytes": 10_000}
    row.update({k: v for k, v in figures.items() if k in row})
    kernel.update({k: v for k, v in figures.items() if k in kernel})
    path = tmp_path / name
    path.write_text(json.dumps({"nvrtc": nvrtc, "compiled": [{**row, "kernels": [kernel]}]}))
    return read_compiled(path)


@pytest.mark.parametrize(
    ("figures", "verdict"),
    [
        ({}, Verdict.SAME),
        ({"registers": 72}, Verdict.SAME),
        ({"registers": 73}, Verdict.REGRESSED),
        ({"spill_bytes": 4}, Verdict.REGRESSED),
        ({"local_bytes": 16, "registers": 32}, Verdict.REGRESSED),
        ({"cubin_bytes": 12_500}, Verdict.SAME),
        ({"cubin_bytes": 12_501}, Verdict.REGRESSED),
        ({"registers": 32}, Verdict.IMPROVED),
    ],
)
def test_what_kernels_occupy_is_gated(tmp_path, figures, verdict):
    base, new = compiled(tmp_path), compiled(tmp_path, "b.json", **figures)
    comparison = compare_static(base, new, CONFIG)
    assert [row.verdict for row in comparison.rows] == [verdict]
    code = ExitCode.REGRESSION if verdict is Verdict.REGRESSED else ExitCode.OK
    assert exit_code(comparison, CONFIG.fail_on) is code


def test_other_kernels_and_compilers_are_named(tmp_path):
    base, new = compiled(tmp_path), compiled(tmp_path, "b.json", nvrtc="12.9", architecture="sm_80")
    comparison = compare_static(base, new, CONFIG)
    assert [row.verdict for row in comparison.rows] == [Verdict.MISSING, Verdict.NEW]
    assert "NVRTC 13.0 / 12.9" in comparison.notes[0]


def test_a_file_of_something_else_is_refused(tmp_path):
    (tmp_path / "x.json").write_text("[]")
    with pytest.raises(OpenError, match="no list of compiled kernels"):
        read_compiled(tmp_path / "x.json")


def test_the_metrics_are_those_that_compiling_gives():
    from mmvq_cli.compare.config import STATIC_METRICS
    from mmvq_cli.engine.cuda.build import Resources
    from mmvq_cli.engine.cuda.variants import Compiled

    names = {field.name for kind in (Resources, Compiled) for field in fields(kind)}
    assert set(STATIC_METRICS) | {"name", "architecture", "kernels", "entry"} <= names


def test_growth_allows_the_larger_of_both():
    assert Growth(amount=8, share=0.5).allows(10, 18)
    assert not Growth(amount=8).allows(10, 19)
