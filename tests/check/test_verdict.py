"""The verdict: each element against its own bound, and where the worst ones are."""

from dataclasses import replace

import numpy as np
import pytest

from mmvq_cli.check import judge
from mmvq_cli.engine.base import Reference
from mmvq_cli.op import CPU, Dtype, Plan, Rows
from tests.op.problems import make_descriptor

ROUNDOFF = {Dtype.F32: 2.0**-24, Dtype.F16: 2.0**-11, Dtype.BF16: 2.0**-8}


def problem(rows=8, cols=150, dtype=Dtype.F32, seed=0, **changes):
    """One dispatch per token, expert = token % 4; the reference is Gaussian, its magnitude 10 times the value."""
    d = make_descriptor(
        n_experts=4, n_rows_per_expert=cols, m_tokens=rows, m_total=rows, top_k=1, dtype=dtype, **changes
    )
    values = np.random.default_rng(seed).standard_normal((rows, cols))
    experts = np.arange(rows) % 4
    tokens = np.argsort(experts, kind="stable").astype(np.int32)
    offsets = np.concatenate([[0], np.cumsum(np.bincount(experts, minlength=4))]).astype(np.int32)
    return d, Reference(values, 10 * np.abs(values)), tokens, offsets


def judged(output, d, reference, tokens, offsets, c=32.0):
    guarantee = replace(Plan.select(d, CPU).precision_guarantee, error_constant=c)
    return judge(np.asarray(output), reference, d, guarantee, tokens, offsets)


@pytest.mark.parametrize("dtype", list(Dtype))
@pytest.mark.parametrize("c", [0.0, 32.0])
def test_just_inside_and_just_outside_the_bound(dtype, c):
    d, reference, *routing = problem(dtype=dtype)
    bound = ROUNDOFF[dtype] * np.abs(reference.values) + c * 2.0**-24 * reference.magnitude
    for factor, passed in ((0.999, True), (-0.999, True), (1.001, False), (-1.001, False)):
        verdict = judged(reference.values + factor * bound, d, reference, *routing, c=c)
        assert verdict.passed is passed
        assert verdict.bound_used == pytest.approx(abs(factor), rel=1e-4)


def test_one_wrong_element_is_counted_and_located():
    d, reference, *routing = problem()
    output = reference.values.copy()
    output[5, 100] += 1e-3
    verdict = judged(output, d, reference, *routing)
    assert (verdict.n_wrong, verdict.worst_index, verdict.worst_row) == (1, (5, 100), 5)
    assert (verdict.worst_tile.expert, verdict.worst_tile.first_row) == (1, 64)
    assert verdict.max_abs == pytest.approx(1e-3)
    assert verdict.max_rel == pytest.approx(1e-3 / abs(reference.values[5, 100]))
    energy = (reference.values**2).sum()
    assert verdict.nmse == pytest.approx(1e-6 / energy)
    assert verdict.worst_row_nmse == pytest.approx(1e-6 / (reference.values[5] ** 2).sum())
    tile = reference.values[[1, 5], 64:128]
    assert verdict.worst_tile.nmse == pytest.approx(1e-6 / (tile**2).sum())


def test_a_dead_row_among_2000_fails_although_the_global_nmse_is_small():
    d, reference, *routing = problem(rows=4, cols=2000)
    output = reference.values.copy()
    output[:, 1234] = 0
    verdict = judged(output, d, reference, *routing)
    assert verdict.nmse < 1e-3
    assert not verdict.passed
    assert verdict.n_wrong == 4
    assert verdict.worst_index[1] == 1234
    assert verdict.worst_tile.first_row == 1234 // 64 * 64


def test_worst_tile_of_dispatch_rows_belongs_to_the_dispatchs_expert():
    d, reference, tokens, offsets = problem(output_rows=Rows.DISPATCH)
    output = reference.values.copy()
    output[7, 149] += 1  # the last dispatch: expert 3, third tile
    verdict = judged(output, d, reference, tokens, offsets)
    assert (verdict.worst_tile.expert, verdict.worst_tile.first_row) == (3, 128)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_non_finite_value_for_a_finite_answer_is_wrong(bad):
    d, reference, *routing = problem()
    output = reference.values.copy()
    output[2, 3] = bad
    verdict = judged(output, d, reference, *routing)
    assert (verdict.n_wrong, verdict.worst_index, verdict.bound_used) == (1, (2, 3), np.inf)
    assert verdict.max_abs == np.inf
    assert verdict.nmse == np.inf


@pytest.mark.parametrize("answer", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(("value", "passed"), [(np.nan, True), (np.inf, True), (-np.inf, True), (1.0, False)])
def test_a_non_finite_answer_wants_a_non_finite_value(answer, value, passed):
    d, reference, *routing = problem()
    reference.values[2], reference.magnitude[2] = answer, np.inf
    output = reference.values.copy()
    output[2] = value
    verdict = judged(output, d, reference, *routing)
    assert verdict.passed is passed
    assert np.isfinite(verdict.nmse) is np.bool_(passed)


@pytest.mark.parametrize(("dtype", "largest"), [(Dtype.F16, 65504.0), (Dtype.BF16, 2.0**127 * (2 - 2.0**-7))])
@pytest.mark.parametrize("sign", [1, -1])
def test_overflow_is_right_with_the_right_sign_only(dtype, largest, sign):
    d, reference, *routing = problem(dtype=dtype)
    reference.values[1, 1] = 1.5 * sign * largest
    for value, passed in ((sign * np.inf, True), (-sign * np.inf, False), (np.nan, False), (sign * largest, False)):
        output = reference.values.copy()
        output[1, 1] = value
        assert judged(output, d, reference, *routing).passed is passed


def test_just_below_overflow_both_roundings_are_right_and_far_below_only_the_finite_one():
    d, reference, *routing = problem(dtype=Dtype.F16)
    reference.values[1, 1] = 65519.0
    for value in (65504.0, np.inf):
        output = reference.values.copy()
        output[1, 1] = value
        assert judged(output, d, reference, *routing).passed
    reference.values[1, 1] = 60000.0
    assert not judged(np.where(reference.values == 60000, np.inf, reference.values), d, reference, *routing).passed


@pytest.mark.parametrize(("dtype", "step"), [(Dtype.F32, 2.0**-149), (Dtype.F16, 2.0**-24), (Dtype.BF16, 2.0**-133)])
def test_half_a_subnormal_step_is_right_and_a_flush_to_zero_is_not(dtype, step):
    d, reference, *routing = problem(dtype=dtype)
    reference.values[0, 0] = 100.5 * step
    reference.magnitude[0, 0] = 100.5 * step
    for value, passed in ((100 * step, True), (101 * step, True), (99 * step, False), (0.0, False)):
        output = reference.values.copy()
        output[0, 0] = value
        assert judged(output, d, reference, *routing, c=0.0).passed is passed


def test_an_error_where_the_answer_is_zero_is_found():
    d, reference, *routing = problem()
    reference.values[3], reference.magnitude[3] = 0, 0
    right = judged(reference.values, d, reference, *routing)
    assert right.passed
    assert (right.nmse, right.worst_row_nmse, right.max_rel) == (0, 0, 0)
    output = reference.values.copy()
    output[3, 7] = 1e-20
    wrong = judged(output, d, reference, *routing)
    assert wrong.worst_index == (3, 7)
    assert wrong.worst_row_nmse == np.inf


def test_max_rel_leaves_out_what_is_tiny_beside_its_row():
    d, reference, *routing = problem()
    reference.values[4, 4] = 1e-5
    output = reference.values.copy()
    output[4, 4] += 1e-6
    assert judged(output, d, reference, *routing).max_rel < 1e-12


def test_nothing_to_judge_is_right():
    d = make_descriptor(m_total=0, m_tokens=0)
    empty = np.empty((0, 5))
    verdict = judged(empty, d, Reference(empty, empty), np.empty(0, np.int32), np.zeros(4, np.int32))
    assert verdict.passed
    assert (verdict.worst_index, verdict.worst_tile) == (None, None)


def test_rows_without_any_dispatch_are_judged_too():
    d = make_descriptor(m_total=0)
    zeros = np.zeros((4, 5))
    nothing = (np.empty(0, np.int32), np.zeros(4, np.int32))
    assert judged(zeros, d, Reference(zeros, zeros), *nothing).passed
    assert judged(zeros + 1, d, Reference(zeros, zeros), *nothing).n_wrong == 20


@pytest.mark.parametrize("block_elements", [1, 400, 10**9])
def test_the_verdict_does_not_depend_on_the_blocks_that_are_judged_at_once(block_elements, monkeypatch):
    d, reference, *routing = problem(rows=9)
    output = reference.values + 1e-9
    output[[2, 7, 7], [149, 3, 70]] += [1e-3, -2e-3, 1e-4]
    whole = judged(output, d, reference, *routing)
    monkeypatch.setattr("mmvq_cli.check.verdict._BLOCK_ELEMENTS", block_elements)
    verdict = judged(output, d, reference, *routing)
    assert replace(verdict, nmse=0) == replace(whole, nmse=0)  # whose sum may be rounded otherwise
    assert verdict.nmse == pytest.approx(whole.nmse, rel=1e-12)
    assert (verdict.n_wrong, verdict.worst_row) == (3, 7)
    assert verdict.worst_index in [(2, 149), (7, 3)]
