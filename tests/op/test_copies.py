import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmvq_cli.op import FORMATS, Dtype
from mmvq_cli.op.copies import copies_of
from mmvq_cli.op.operands import digits_of, operands_of
from tests.op.problems import problem


@given(
    st.sampled_from(list(FORMATS.values())),
    st.integers(1, 12),
    st.sampled_from([1, 2, 4, 8]),
    st.booleans(),
    st.booleans(),
)
def test_rows_and_copies_begin_at_lines_and_have_room_for_their_phase(format, n_chunks, row_groups, are_whole, bulk):
    d = problem(format=format, n_cols=256 * n_chunks)
    segment = format.row_bytes(d.n_cols)
    copies = copies_of(d, operands_of(d), 16 * row_groups, segment, are_whole, bulk)
    assert bulk or not (copies.boxes or copies.are_together)
    if copies.are_together:
        assert are_whole
        assert copies.row_slot == segment
        assert copies.n_bytes >= 16 * row_groups * segment + 15
        return
    assert copies.row_slot % 16 == 0
    begins_with_rows = copies.boxes and copies.line_rows == 1
    phase = 0 if begins_with_rows or format.is_float or format.type_size % 16 == 0 else 15
    assert copies.row_slot >= segment + phase
    assert copies.n_bytes >= 16 * row_groups * copies.row_slot
    if copies.boxes:
        assert copies.n_bytes == copies.line_rows * copies.box_bytes


def test_rows_spread_over_the_banks_of_shared_memory():
    assert copies_of(problem(), operands_of(problem()), 16, 1152, True, True).row_slot % 32 == 16
    digits = problem(dtype=Dtype.BF16)
    assert copies_of(digits, digits_of(digits), 16, 1152, True, True).row_slot % 64 == 32  # lanes read 8 bytes
    q8 = problem(format=FORMATS["Q8_0"])
    assert copies_of(q8, digits_of(q8), 16, 544, False, True).row_slot % 32 == 16  # 4 bytes


@pytest.mark.parametrize(
    ("name", "segment", "has_boxes"), [("F16", 1536, True), ("F32", 2048, True), ("F32", 3072, False)]
)
def test_floats_lie_without_gaps(name, segment, has_boxes):
    d = problem(format=FORMATS[name], n_cols=8200)
    copies = copies_of(d, operands_of(d), 16, segment, False, True)
    assert (copies.row_slot, copies.boxes is not None) == (segment, has_boxes)
