"""Plans that follow what was measured."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmvq_cli.op import FORMATS, Plan
from mmvq_cli.op.tuning import Family, Tuned, Tuning
from tests.op.problems import H200, problem


def tuned(m_tokens, preference="reference", **changes):
    return Tuned(family=Family.of(problem(**changes)), m_tokens=m_tokens, preference=preference, run_id="a-run")


def of_tokens(m_tokens, **changes):
    return problem(m_tokens=m_tokens, m_total=8 * m_tokens, **changes)


@given(st.sets(st.integers(1, 5000), min_size=1, max_size=6), st.integers(1, 5000))
def test_the_nearest_number_of_tokens_within_a_factor_of_two_counts(measured, wanted):
    found = Tuning(tuple(map(tuned, measured))).nearest(of_tokens(wanted))
    near = [m for m in measured if m <= 2 * wanted and wanted <= 2 * m]
    if not near:
        assert found is None
        return
    assert found.m_tokens in near
    ratio = max(found.m_tokens / wanted, wanted / found.m_tokens)
    assert all(max(m / wanted, wanted / m) >= ratio for m in near)


def test_only_problems_of_the_same_sizes_and_modes_count():
    tuning = Tuning((tuned(8),))
    assert tuning.nearest(of_tokens(8)).m_tokens == 8
    assert tuning.nearest(of_tokens(0)) is None
    for other in ({"n_cols": 512}, {"format": FORMATS["Q8_0"]}, {"dtype": "bf16"}, {"output_mode": "add"}):
        assert tuning.nearest(of_tokens(8, **other)) is None
        assert tuning.of_family(of_tokens(8, **other)) == ()


@pytest.mark.parametrize("preference", ["fastest", "reproducible", "reference"])
def test_a_tuned_plan_is_that_of_the_fastest_preference(preference):
    d = of_tokens(8)
    device = replace(H200, tuning=Tuning((tuned(6, preference),)))
    plan, wanted = Plan.select(d, device, "tuned"), Plan.select(d, H200, preference)
    assert (plan.rule, plan.launches, plan.workspace) == (wanted.rule, wanted.launches, wanted.workspace)
    assert plan.reason == f"{wanted.reason}; `{preference}` was fastest at 6 tokens in a-run"
    guarantee = replace(wanted.precision_guarantee, batch_invariant=False)  # 64 tokens may have another kernel
    assert plan.precision_guarantee == guarantee


def test_where_nothing_was_measured_the_rules_choose():
    d = of_tokens(64)
    auto = Plan.select(d, H200)
    assert replace(Plan.select(d, H200, "tuned"), preference=auto.preference) == auto
    elsewhere = replace(H200, tuning=Tuning((tuned(64, n_cols=512),)))
    assert replace(Plan.select(d, elsewhere, "tuned"), preference=auto.preference) == auto
    far = Plan.select(d, replace(H200, tuning=Tuning((tuned(8),))), "tuned")
    assert far.launches == auto.launches
    assert far.reason.endswith("nothing was measured near this number of tokens")
    assert not far.precision_guarantee.batch_invariant


def test_only_who_prefers_it_gets_what_was_tuned():
    d = of_tokens(8)
    device = replace(H200, tuning=Tuning((tuned(8),)))
    for preference in ("auto", "fastest", "reproducible", "reference"):
        assert Plan.select(d, device, preference) == Plan.select(d, H200, preference)
