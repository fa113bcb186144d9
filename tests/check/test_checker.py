"""The whole check against engines that are broken on purpose: each fault fails with a sentence of its own."""

from dataclasses import replace

import numpy as np
import pytest

from mmvq_cli.check import Checker
from mmvq_cli.engine import cpu
from mmvq_cli.engine.cpu import CpuEngine
from mmvq_cli.engine.workload import Workload, random_activations, upload_draw
from mmvq_cli.errors import InvalidProblem
from mmvq_cli.op import CPU, Accumulate, Dtype, OutputMode, Plan, Rows
from tests.op.problems import make_args, make_descriptor, make_routing

ENGINE = CpuEngine()
REAL = cpu.execute


def checker(plan=None, weighted=True, **changes):
    d = (
        make_descriptor(n_rows_per_expert=40, m_total=7, **changes)
        if "m_total" not in changes
        else make_descriptor(**changes)
    )
    activations = random_activations(d.activation_row_count, d.n_cols, d.dtype, (0, 1))
    draw = upload_draw(ENGINE, make_routing(d).dispatch(), activations, weighted)
    workload = Workload(d, [make_args(d).weights], (draw,))
    chosen = Plan.select(d, CPU)
    return Checker(ENGINE, plan(chosen) if plan else chosen, workload, draw)


def promising_invariance(plan):
    return replace(plan, precision_guarantee=replace(plan.precision_guarantee, batch_invariant=True))


def views_of(views, plan):
    return cpu.engine.host_args(views, plan.descriptor)


def skip_a_row(plan, views, *rest):
    output = views_of(views, plan).output
    kept = output[1].copy()
    REAL(plan, views, *rest)
    output.view(np.uint32)[1] = kept.view(np.uint32)


def write_beside(plan, views, *rest):
    REAL(plan, views, *rest)
    end = views.output.pointer + views.output.n_bytes
    memory = (cpu.engine.ctypes.c_uint8 * 4).from_address(end)
    memory[:] = b"oops"


def change_an_input(plan, views, *rest):
    REAL(plan, views, *rest)
    views_of(views, plan).activations[0, 0] += 1


def change_the_weights(plan, views, *rest):
    REAL(plan, views, *rest)
    args = views_of(views, plan)
    expert = int(np.flatnonzero(np.diff(args.expert_offsets))[0])
    args.weights[expert * plan.descriptor.expert_bytes] += 1


def be_off(plan, views, *rest):
    REAL(plan, views, *rest)
    views_of(views, plan).output[...] += np.float32(1e-3)


class Moody:
    """Right every time, but the last bit differs from run to run."""

    def __init__(self):
        self.runs = 0

    def __call__(self, plan, views, *rest):
        REAL(plan, views, *rest)
        if self.runs:
            views_of(views, plan).output.view(np.uint32)[0, 0] ^= 1
        self.runs += 1


FAULTS = [
    (skip_a_row, "40 output elements were not written"),
    (write_beside, "4 bytes beside the output were overwritten"),
    (change_an_input, "an input array changed"),
    (change_the_weights, "an input array changed"),
    (Moody(), "repeated launches gave different bits"),
    (be_off, "elements beyond their error bound, the worst at"),
]


@pytest.mark.parametrize(("fault", "sentence"), FAULTS)
def test_each_fault_has_its_sentence(monkeypatch, fault, sentence):
    subject = checker()
    assert subject.check().passed
    monkeypatch.setattr(cpu, "execute", fault)
    check = subject.check()
    assert not check.passed
    assert any(sentence in failure for failure in check.failures)


def test_a_fault_that_breaks_only_one_promise_has_one_sentence(monkeypatch):
    subject = checker()
    monkeypatch.setattr(cpu, "execute", write_beside)
    assert subject.check().failures == ("4 bytes beside the output were overwritten",)
    monkeypatch.setattr(cpu, "execute", Moody())
    assert subject.check().failures == ("repeated launches gave different bits",)


def test_check_again_looks_at_a_fresh_run(monkeypatch):
    subject = checker()
    assert subject.check_again().passed
    monkeypatch.setattr(cpu, "execute", be_off)
    assert not subject.check_again().passed


@pytest.mark.parametrize("dtype", list(Dtype))
@pytest.mark.parametrize("mode", list(OutputMode))
@pytest.mark.parametrize("accumulate", list(Accumulate))
@pytest.mark.parametrize("output_rows", list(Rows))
def test_a_right_engine_passes_in_every_mode(dtype, mode, accumulate, output_rows):
    check = checker(dtype=dtype, output_mode=mode, accumulate=accumulate, output_rows=output_rows).check()
    assert check.failures == ()
    assert check.inputs_intact
    assert check.bitwise_repeat is True
    assert check.batch_invariant is None  # not promised


def test_adding_to_nothing_is_found_when_old_values_count(monkeypatch):
    subject = checker(output_mode=OutputMode.ADD)

    def overwrite(plan, views, *rest):
        REAL(replace(plan, descriptor=replace(plan.descriptor, output_mode=OutputMode.OVERWRITE)), views, *rest)

    monkeypatch.setattr(cpu, "execute", overwrite)
    assert not subject.check().passed


@pytest.mark.parametrize("output_rows", list(Rows))
def test_batch_invariance_is_looked_at_where_promised(monkeypatch, output_rows):
    def depends_on_the_batch(plan, views, *rest):
        REAL(plan, views, *rest)
        if plan.descriptor.m_tokens > 1:
            views_of(views, plan).output.view(np.uint32)[...] ^= 1

    # 32 columns of one block: BLAS has one order to sum them, whatever the batch.
    subject = checker(promising_invariance, n_cols=32, output_rows=output_rows)
    assert subject.check().batch_invariant is not None
    monkeypatch.setattr(cpu, "execute", depends_on_the_batch)
    check = subject.check()
    assert check.batch_invariant is False
    assert "a token alone gave other bits than in the batch" in check.failures


@pytest.mark.parametrize("sizes", [{"m_total": 0}, {"m_total": 0, "m_tokens": 0}, {"m_total": 8, "n_cols": 0}])
def test_an_empty_problem_is_checked_like_any_other(sizes):
    check = checker(promising_invariance, weighted=False, **sizes).check()
    assert check.failures == ()


def test_an_illegal_routing_never_runs():
    d = make_descriptor()
    draw = upload_draw(ENGINE, make_routing(d).dispatch(), np.zeros((4, 64), np.float32), True)
    draw.sorted_token_ids[0] = 99
    with pytest.raises(InvalidProblem, match="is 99"):
        Checker(ENGINE, Plan.select(d, CPU), Workload(d, [make_args(d).weights], (draw,)), draw)
