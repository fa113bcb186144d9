"""Crowds of dispatches: tiles, rows, stages, what the plan launches and promises."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmvq_cli.op import FORMATS, Dtype, Plan, Rows, find_device
from mmvq_cli.op.tiles import expected_tiles, touched_experts
from mmvq_cli.op.wide import arranged_bytes, group_bytes, wide_shape
from tests.op.problems import H200, problem

DEVICES = [H200, find_device("A100")]
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
    assert device is H200
    block = shape.block
    assert shape.n_stages >= 3
    assert shape.shared_bytes == shape.stages_at + shape.n_stages * shape.stage_bytes <= block.shared_bytes
    assert 32 * (shape.warps + 1) == block.threads <= block.max_threads
    assert shape.rows == 16 * block.warps
    assert block.warps % 4 == 0  # warpgroups
    assert shape.rows * shape.n_row_tiles >= n_rows > shape.rows * (shape.n_row_tiles - 1)
    assert shape.columns * shape.operands.slots == 8 * shape.column_tiles
    chunks = shape.segment // 256
    assert shape.columns_at + chunks * shape.column_tiles * group_bytes(shape.operands) <= shape.stage_bytes
    assert (shape.stages_at % 128, shape.columns_at % 128, shape.stage_bytes % 128) == (0, 0, 0)
    assert shape.grid_at + 4 * shape.operands.grid_words * shape.grid_copies <= shape.stages_at

    # Boxes: one row of each line, side by side in shared memory; a row and what of its line is before it have room.
    assert shape.boxes is not None
    assert (shape.boxes.box_height * shape.line_rows, shape.boxes.box_width * 8) == (shape.rows, shape.row_slot)
    assert shape.rows * shape.row_slot <= shape.columns_at
    assert shape.boxes.width * 8 == shape.line_rows * format.row_bytes(n_cols)
    assert shape.boxes.width % 2 == 0  # of 16 bytes
    assert n_rows % shape.line_rows == 0
    phases = {row * format.row_bytes(n_cols) % 16 for row in range(shape.line_rows)}
    assert len(phases) == shape.line_rows
    starts = {format.row_bytes(start) % 16 for start in range(0, n_cols, shape.segment)}
    assert max(phases) + max(starts) + shape.packed_segment <= shape.row_slot
    if shape.line_rows > 1:
        assert shape.boxes.box_height * shape.row_slot % 128 == 0


@pytest.mark.parametrize(("m_tokens", "columns"), [(4, 8), (16, 8), (32, 16), (64, 32), (128, 64), (1024, 64)])
def test_tiles_are_as_wide_as_experts_have_dispatches(m_tokens, columns):
    d = crowd(m_tokens=m_tokens)
    shape = wide_shape(d, H200)
    assert shape.columns == columns
    if columns < 64:
        assert expected_tiles(d, columns) <= 1.1 * touched_experts(d)


@pytest.mark.parametrize(
    ("name", "n_cols", "line_rows"),
    [
        ("Q4_K", 4096, 1),
        ("Q6_K", 4096, 1),
        ("Q6_K", 7168, 2),  # rows of 5880 bytes, which is 8 mod 16
        ("MXFP4", 2880, 8),  # 1530
        ("IQ4_XS", 2816, 2),
    ],
)
def test_rows_begin_at_16_bytes_alone_or_together(name, n_cols, line_rows):
    shape = wide_shape(crowd(name, n_cols=n_cols), H200)
    assert shape.line_rows == line_rows


def test_experts_must_begin_at_lines():
    assert wide_shape(crowd("MXFP4", n_cols=2880, n_rows_per_expert=2876), H200) is None  # no multiple of 8


def test_long_rows_of_few_floats_leave_room_for_few_columns():
    assert wide_shape(crowd("F32"), H200).columns == 8


@pytest.mark.parametrize("name", ["A100", "RTX-4090"])
def test_other_gpus_have_no_warpgroups(name):
    device = find_device(name)
    assert wide_shape(crowd(), device) is None
    assert Plan.select(crowd(), device, "fastest").rule == "stream"


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
        ("auto", 64, "wide"),
        ("auto", 32, "stream"),  # eight each: a tile of 16 reads rows once as well
        ("auto", 1, "stream_digits"),
        ("reproducible", 64, "stream"),
        ("reference", 64, "grouped"),
    ],
)
def test_crowds_are_what_other_tiles_would_cut(preference, m_tokens, rule):
    assert Plan.select(crowd(m_tokens=m_tokens), H200, preference).rule == rule


@pytest.mark.parametrize("name", ["Q4_K", "F32"])
def test_rows_that_leave_others_room_for_few_columns_are_for_crowds_earlier(name):
    """Eight each, of twice as long rows: what keeps activations of whole rows has no room for so many."""
    d = crowd(name, m_tokens=32, n_cols=14336)
    assert Plan.select(d, H200, "auto").rule == "wide"


def test_rows_too_long_for_others():
    d = crowd("Q6_K", Dtype.F32, m_tokens=1, n_cols=65536)
    assert Plan.select(d, H200, "auto").rule == "wide"
    assert Plan.select(d, H200, "reproducible").rule == "grouped"


@pytest.mark.parametrize("output_rows", Rows)
def test_activations_are_arranged_in_the_workspace_first(output_rows):
    d = crowd(output_rows=output_rows)
    plan = Plan.select(d, H200, "fastest")
    entries = [launch.entry for launch in plan.launches]
    assert entries[-3:-1] == ["arrange", "wide"] if d.combines else entries == ["arrange", "wide"]
    assert all(launch.overlaps for launch in plan.launches)
    assert plan.workspace[-1].name == "arranged"
    assert plan.workspace[-1].n_bytes == arranged_bytes(d, wide_shape(d, H200)) == (128 // 8 + 8) * 16 * 8 * 576
    guarantee = plan.precision_guarantee
    assert (guarantee.deterministic, guarantee.batch_invariant, guarantee.math) == (True, False, "f16")
    assert "32 dispatches" in plan.reason


@pytest.mark.parametrize("m_tokens", [1, 64])
@pytest.mark.parametrize(("device", "is_invariant"), [("H200", False), ("B200", True)])
def test_formats_without_digits_are_batch_invariant_where_there_are_no_warpgroups(device, is_invariant, m_tokens):
    plan = Plan.select(crowd("Q3_K", m_tokens=m_tokens), find_device(device), "auto")
    assert plan.precision_guarantee.batch_invariant == is_invariant
