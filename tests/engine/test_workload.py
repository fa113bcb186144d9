"""Draws on a device, one token of them alone, and the memory that a case needs."""

import numpy as np
import pytest

from mmvq_cli.engine.cpu import CpuEngine
from mmvq_cli.engine.elements import widen
from mmvq_cli.engine.workload import Workload, problem_bytes, random_activations, token_alone, upload_draw
from mmvq_cli.op import CPU, Dtype, Plan, Rows, find_device
from tests.op.problems import make_args, make_descriptor, make_routing

ENGINE = CpuEngine()


def workload_of(weighted=True, **changes):
    d = make_descriptor(m_total=7, **changes)
    activations = random_activations(d.activation_row_count, d.n_cols, d.dtype, (0, 1))
    draw = upload_draw(ENGINE, make_routing(d).dispatch(), activations, weighted)
    return Workload(d, [make_args(d).weights], (draw,)), draw


def test_activations_have_the_outliers_of_real_layers():
    values = widen(random_activations(400, 1000, Dtype.BF16, (1, 2)), Dtype.BF16)
    share = (np.abs(values) > 6).mean()
    assert 5e-4 < share < 1.2e-3
    assert 0.9 < values[np.abs(values) < 6].std() < 1.1
    assert (random_activations(4, 8, Dtype.F16, (1, 2)) == random_activations(4, 8, Dtype.F16, (1, 2))).all()
    assert (random_activations(4, 8, Dtype.F16, (1, 2)) != random_activations(4, 8, Dtype.F16, (1, 3))).any()


@pytest.mark.parametrize("rows", list(Rows))
@pytest.mark.parametrize("weighted", [True, False])
def test_a_draw_fits_its_descriptor(rows, weighted):
    workload, draw = workload_of(weighted, activation_rows=rows)
    d = workload.descriptor_of(draw)
    output = np.zeros((d.output_row_count, d.n_rows_per_expert), np.float32)
    Plan.select(d, CPU).run(workload.args(draw, output))
    assert output.any()
    assert workload.unique_bytes(draw) == len(set(draw.touched_experts)) * d.expert_bytes


@pytest.mark.parametrize("activation_rows", list(Rows))
@pytest.mark.parametrize("output_rows", list(Rows))
def test_a_token_alone_has_the_same_answer_as_in_the_batch(activation_rows, output_rows):
    workload, draw = workload_of(activation_rows=activation_rows, output_rows=output_rows)
    d = workload.descriptor
    shape = (d.output_row_count, d.n_rows_per_expert)
    batch = ENGINE.reference(d, workload.args(draw, np.zeros(shape, np.float32)))
    for token in range(d.m_tokens):
        single, alone = token_alone(ENGINE, workload, draw, token)
        output = np.zeros((single.output_row_count, single.n_rows_per_expert), np.float32)
        ENGINE.validate_routing(single, workload.args(alone, output))
        reference = ENGINE.reference(single, workload.args(alone, output))
        positions = np.flatnonzero(draw.dispatch.sorted_token_ids == token)
        rows = [token] if output_rows is Rows.TOKEN else positions
        np.testing.assert_allclose(reference.values, batch.values[rows], rtol=1e-12, atol=1e-15)


def test_needed_memory_counts_every_array():
    d = make_descriptor(n_experts=100, n_rows_per_expert=1000)
    plan = Plan.select(d, find_device("H200"))
    least = d.weight_bytes + plan.workspace_size() + 2 * 8 * d.m_total * d.n_rows_per_expert
    assert problem_bytes(plan, 4) > problem_bytes(plan, 1) > least
    assert problem_bytes(plan, 1) < 1.2 * least
