"""The decision rule: its five answers, its mirror image, and its error rates on made noise."""

import importlib.util
import math
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmvq_cli.compare.rule import TAU, Reason, Thresholds, Verdict, confirm, decide, decide_suite
from mmvq_cli.compare.statistics import Estimate

LIMITS = Thresholds()
SLOW_NS = 100_000.0


def decide_at(percent, error=0.001, base_ns=SLOW_NS, limits=LIMITS):
    return decide(Estimate(math.log1p(percent / 100), error, 9), base_ns, limits)


@pytest.mark.parametrize(
    ("percent", "error", "verdict", "reason"),
    [
        (0, 0.001, Verdict.SAME, Reason.WITHIN_THRESHOLD),
        (6, 0.001, Verdict.REGRESSED, Reason.BEYOND_THRESHOLD),
        (-6, 0.001, Verdict.IMPROVED, Reason.BEYOND_THRESHOLD),
        (2.9, 0.002, Verdict.INCONCLUSIVE, Reason.BELOW_THRESHOLD),
        (6, 0.03, Verdict.INCONCLUSIVE, Reason.INTERVAL_TOO_WIDE),
        (0, 0.03, Verdict.INCONCLUSIVE, Reason.INTERVAL_TOO_WIDE),
    ],
)
def test_the_answers(percent, error, verdict, reason):
    decision = decide_at(percent, error)
    assert (decision.verdict, decision.reason) == (verdict, reason)


def test_no_change_that_is_smaller_than_the_floor():
    decision = decide_at(6, base_ns=3000.0)  # 180 ns
    assert (decision.verdict, decision.reason) == (Verdict.SAME, Reason.BELOW_FLOOR)
    assert decide_at(8, base_ns=3000.0).verdict is Verdict.REGRESSED


@given(st.floats(-20, 20), st.floats(0.0001, 0.05))
def test_faster_is_the_mirror_of_slower(percent, error):
    mirror = {Verdict.REGRESSED: Verdict.IMPROVED, Verdict.IMPROVED: Verdict.REGRESSED}
    estimate = Estimate(math.log1p(percent / 100), error, 9)
    forward = decide(estimate, 1e9, LIMITS)
    backward = decide(replace(estimate, difference=-estimate.difference), 1e9, LIMITS)
    assert backward.verdict is mirror.get(forward.verdict, forward.verdict)
    assert forward.low <= forward.ratio <= forward.high


@given(st.floats(0.0001, 0.05))
def test_a_change_twice_as_large_as_what_is_detectable_is_found(error):
    detectable = decide_at(0, error).detectable
    assert detectable >= TAU
    assert decide_at(200 * detectable, error).verdict is Verdict.REGRESSED


def test_a_row_may_have_its_own_threshold():
    assert decide_at(6, limits=replace(LIMITS, tau=0.10)).verdict is not Verdict.REGRESSED


def test_a_regression_counts_when_a_fresh_process_finds_it_again():
    slow, same = decide_at(6), decide_at(0)
    assert confirm(slow, slow).verdict is Verdict.REGRESSED
    assert confirm(slow, same).reason is Reason.NOT_CONFIRMED
    assert confirm(same, slow) is same


def test_many_small_losses_are_one_loss():
    assert decide_suite(Estimate(math.log(1.02), 0.001, 39), LIMITS).verdict is Verdict.REGRESSED
    assert decide_suite(Estimate(math.log(0.98), 0.001, 39), LIMITS).verdict is Verdict.IMPROVED
    assert decide_suite(Estimate(0.0, 0.001, 39), LIMITS).verdict is Verdict.SAME
    assert decide_suite(Estimate(math.log(1.02), 0.05, 39), LIMITS).verdict is Verdict.INCONCLUSIVE


def simulation():
    path = Path(__file__).parents[2] / "scripts" / "simulate_gate.py"
    spec = importlib.util.spec_from_file_location("simulate_gate", path)
    module = importlib.util.module_from_spec(spec)
    import sys

    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


# The committed simulation in small; scripts/simulate_gate.py does 4,000 suites for each line.
def test_error_rates_of_the_paired_rule_on_shared_noise():
    simulate = simulation()
    shared = simulate.NOISES[1]
    outcome = simulate.simulate("paired, confirmed", shared, 200, 0.05, seeds=range(2))
    assert outcome.alarms == 0
    assert outcome.upper <= 0.02
    assert outcome.power >= 0.90


def test_a_baseline_sees_five_percent_on_a_quiet_machine_and_never_cries_wolf_on_a_shared_one():
    simulate = simulation()
    quiet, shared = simulate.NOISES[:2]
    assert simulate.simulate("stored", quiet, 60, 0.05, seeds=range(1)).power >= 0.95
    noisy = simulate.simulate("stored", shared, 100, 0.05, seeds=range(1))
    assert noisy.alarms <= 1
    assert noisy.power < 0.5


def test_the_simulation_sees_a_rule_that_cries_wolf(monkeypatch):
    simulate = simulation()
    monkeypatch.setattr(simulate, "t_quantile", lambda probability, degrees: 0.0)
    monkeypatch.setattr(simulate, "threshold_of", lambda tau, base_ns: 0.011)
    assert simulate.simulate("paired", simulate.NOISES[2], 20, 0.05, seeds=range(1)).alarms > 10
