"""Crowds of dispatches: tiles, rows, stages, what the plan launches and promises."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmvq_cli.op import FORMATS, Dtype, Plan, Rows, find_device
from mmvq_cli.op.tiles import expected_tiles, touched_experts
from mmvq_cli.op.wide import arranged_bytes, wide_shape
from tests.op.problems import H200, problem

DEVICES = [find_device(name) for name in ("H200", "A100", "RTX-4090")]
MIXTRAL = {"n_experts": 8, "n_rows_per_expert": 14336, "n_cols": 4096, "top_k": 2}


def crowd(name="Q4_K", dtype=Dtype.F16, m_tokens=64, **changes):
    """Mixtral's up projection, or as `changes` say."""
    sizes = MIXTRAL | changes
    return problem(format=FORMATS[name], dtype=dtype, m_tokens=m_tokens, m_total=m_tokens * sizes["top_k"], **sizes)


@given(
    st.sampled_from(list(FORMATS)),
    st.sampled_from(list(Dtype)),
    st.integers(1, 512).map(lambda n: 32 * n),
    st.integers(1, 4000),
    st.sampled_from([1, 7, 64, 1000]),
    st.sampled_from(DEVICES),
)
def test_everything_has_its_room(name, dtype, n_cols, n_rows, m_tokens, device):
    format = FORMATS[name]
    n_cols = -(-n_cols // format.block_size) * format.block_size
    d = crowd(name, dtype, m_tokens, n_cols=n_cols, n_rows_per_expert=n_rows)
    shape = wide_shape(d, device)
    if shape is None:
        return
    block = shape.block
    assert shape.n_stages >= 3
    assert shape.shared_bytes == shape.stages_at + shape.n_stages * shape.stage_bytes <= block.shared_bytes
    assert block.threads <= block.max_threads
    assert (shape.rows, block.warps) == (16 * shape.row_groups, shape.row_groups * shape.slices)
    assert shape.rows * shape.n_row_tiles >= n_rows > shape.rows * (shape.n_row_tiles - 1)
    assert shape.columns * shape.operands.slots == 8 * shape.column_tiles
    assert shape.packed_segment <= 16 * shape.row_lines <= shape.row_slot
    assert shape.rows * shape.row_slot <= shape.columns_at
    chunks = shape.segment // 256
    n_bytes = chunks * shape.columns * shape.operands.parts * shape.column_bytes
    assert shape.columns_at + n_bytes == shape.stage_bytes
    assert (shape.column_bytes % 128, shape.stages_at % 128, shape.stage_bytes % 128) == (64, 0, 0)
    assert shape.grid_at + 4 * shape.operands.grid_words * shape.grid_copies <= shape.sums_at <= shape.stages_at
    if shape.boxes:
        assert (shape.boxes.box_height, shape.boxes.box_width * 8) == (shape.rows, shape.row_slot)
    else:
        assert shape.slices == 1


@pytest.mark.parametrize(("m_tokens", "columns"), [(16, 32), (64, 32), (128, 64), (1024, 64)])
def test_tiles_are_as_wide_as_experts_have_dispatches(m_tokens, columns):
    d = crowd(m_tokens=m_tokens)
    shape = wide_shape(d, H200)
    assert shape.columns == columns
    if columns < 64:
        assert expected_tiles(d, columns) <= 1.1 * touched_experts(d)


@pytest.mark.parametrize(
    ("name", "n_cols", "has_boxes", "slices"),
    [
        ("Q4_K", 4096, 1, 2),
        ("MXFP4", 4096, 1, 2),  # 136 bytes for 256 weights: boxes begin at every second chunk only
        ("Q6_K", 4096, 0, 1),  # 210 bytes
        ("IQ4_XS", 2816, 0, 1),  # rows of eleven times 136 bytes
    ],
)
def test_rows_come_as_boxes_where_those_can_begin(name, n_cols, has_boxes, slices):
    shape = wide_shape(crowd(name, n_cols=n_cols), H200)
    assert (shape.has_boxes, shape.slices) == (has_boxes, slices)


def test_rows_that_leave_no_room_for_stages_have_another_plan():
    assert wide_shape(crowd("F32"), H200) is None
    assert Plan.select(crowd("F32"), H200, "fastest").rule == "stream_halves"


@pytest.mark.parametrize(
    "changes",
    [
        {"m_tokens": 2**18},  # more activations than a workspace should have
        {"n_cols": 2**24, "n_rows_per_expert": 32},  # rows that 32 bits do not count
    ],
)
def test_sizes_that_are_too_large(changes):
    assert wide_shape(crowd(**changes), H200) is None


@pytest.mark.parametrize(
    ("preference", "m_tokens", "rule"),
    [
        ("fastest", 64, "wide"),
        ("fastest", 32, "stream"),  # eight each
        ("fastest", 1, "stream_digits"),
        ("auto", 64, "stream"),
        ("reproducible", 64, "stream"),
    ],
)
def test_crowds_are_for_the_fastest_plan(preference, m_tokens, rule):
    assert Plan.select(crowd(m_tokens=m_tokens), H200, preference).rule == rule


@pytest.mark.parametrize("output_rows", Rows)
def test_activations_are_arranged_in_the_workspace_first(output_rows):
    d = crowd(output_rows=output_rows)
    plan = Plan.select(d, H200, "fastest")
    entries = [launch.entry for launch in plan.launches]
    assert entries[-3:-1] == ["arrange", "wide"] if d.combines else entries == ["arrange", "wide"]
    assert all(launch.overlaps for launch in plan.launches)
    assert plan.workspace[-1].name == "arranged"
    assert plan.workspace[-1].n_bytes == arranged_bytes(d, wide_shape(d, H200)) == 128 * 16 * 576
    guarantee = plan.precision_guarantee
    assert (guarantee.deterministic, guarantee.batch_invariant, guarantee.math) == (True, False, "f16")
    assert "32 dispatches" in plan.reason


@pytest.mark.parametrize("m_tokens", [1, 64])
def test_the_fastest_plans_of_formats_without_digits_promise_no_batch_invariance(m_tokens):
    assert not Plan.select(crowd("Q3_K", m_tokens=m_tokens), H200, "fastest").precision_guarantee.batch_invariant
