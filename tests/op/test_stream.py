"""The streaming kernel's shape: what fits, and what must not depend on the batch."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmvq_cli.op import FORMATS, Descriptor, Device, Dtype, Plan, Preference, find_device
from mmvq_cli.op.stream import digit_shape, halves_shape, stream_shape
from tests.op.problems import H200, problem

QUANTIZED = [row for row in FORMATS.values() if not row.is_float]


@given(
    st.sampled_from(QUANTIZED),
    st.sampled_from(list(Dtype)),
    st.sampled_from([256, 768, 2048, 4096, 7168, 14336]),
    st.integers(1, 4096),
    st.sampled_from([(H200, 233_472), (find_device("A100"), 167_936), (find_device("L40S"), 102_400)]),
)
def test_a_shape_fits_its_device_and_its_order_of_sums_knows_no_batch(format, dtype, n_cols, m_tokens, of_device):
    device, shared_bytes = of_device
    d = problem(format=format, dtype=dtype, n_cols=n_cols, m_tokens=m_tokens, m_total=8 * m_tokens)
    shape = stream_shape(d, device)
    alone = stream_shape(replace(d, m_tokens=1, m_total=8), device)
    if shape is None:
        assert alone is None  # another family sums in another order
        return
    assert (shape.shared_bytes + 1024) * shape.block.per_multiprocessor <= shared_bytes
    assert shape.block.threads * shape.block.per_multiprocessor <= shape.block.max_threads
    assert shape.n_stages >= 3
    # What the kernel divides by multiplication: any stage of a share of 2^29, any slice.
    for number in (0, 1, shape.n_stages - 1, shape.n_stages, 12_345_678, 2**29 - 2, 2**29 - 1):
        assert number * shape.stage_inverse >> 32 == number // shape.n_stages
    slices = range(shape.n_slices)
    assert [i * shape.segment_inverse >> 8 for i in slices] == [i // shape.slices for i in slices]
    assert shape.n_segments == -(-shape.n_slices // shape.slices)
    assert shape.n_buffers == 1 << shape.buffer_shift
    assert shape.sums_at + 4 * shape.n_buffers * shape.item_sums <= shape.columns_at
    assert shape.segment % (256 * shape.run) == 0
    assert shape.columns * (2 if dtype is Dtype.F32 else 1) <= 8 * shape.column_tiles
    assert alone is not None
    assert (shape.run, shape.n_slices) == (alone.run, alone.n_slices)


@pytest.mark.parametrize(
    ("n_cols", "slicing"),
    [
        (256, (1, 1)),
        (768, (3, 1)),
        (1024, (2, 2)),
        (2048, (2, 4)),
        (2304, (3, 3)),
        (2880, (3, 4)),
        (4096, (2, 8)),
        (7168, (2, 14)),
    ],
)
def test_short_rows_are_cut_into_few_slices(n_cols, slicing):
    shape = stream_shape(problem(format=FORMATS["Q8_0"], n_cols=n_cols), H200)
    assert (shape.run, shape.n_slices) == slicing


def test_short_rows_have_two_blocks_to_a_multiprocessor_and_the_same_kernel():
    short, longer = (stream_shape(problem(n_cols=n_cols), H200) for n_cols in (768, 1024))
    assert [shape.block.per_multiprocessor for shape in (short, longer)] == [2, 1]
    assert short.defines == longer.defines
    (launch,) = Plan.select(problem(n_cols=768, m_tokens=64, m_total=512, output_rows="dispatch"), H200).launches
    assert launch.grid == (264, 1, 1)
    assert launch.block == (9 * 32, 1, 1)


def test_blocks_fit_a_small_shared_memory_too():
    device = Device(name="RTX", backend="cuda", compute_capability=(12, 0), sm_count=170)
    shape = stream_shape(problem(n_cols=768, m_tokens=64, m_total=512), device)
    assert (shape.shared_bytes + 1024) * shape.block.per_multiprocessor <= 102_400


def test_items_in_flight_have_sums_of_their_own():
    few, many = stream_shape(problem(n_cols=2048), H200), stream_shape(problem(n_cols=7168), H200)
    assert (few.item_units, few.n_buffers) == (8, 4)
    assert (many.item_units, many.n_buffers) == (14, 2)  # 7 KB each


def test_tiles_widen_with_the_dispatches_of_an_expert():
    widths = [stream_shape(problem(m_tokens=m, m_total=8 * m), H200).columns for m in (1, 8, 32, 256)]
    assert widths == [1, 2, 8, 16]


def test_wide_tiles_leave_room_for_stages():
    shape = stream_shape(problem(n_cols=4096, m_tokens=256, m_total=2048), H200)
    assert (shape.columns, shape.row_groups) == (16, 1)
    assert shape.n_stages * shape.stage_bytes >= 32 * 1024


@pytest.mark.parametrize(
    ("name", "n_cols", "together"),
    [
        ("Q6_K", 768, True),
        ("Q5_0", 1376, True),
        ("IQ1_M", 2048, False),  # 448 bytes: boxes
        ("IQ2_XXS", 1792, True),  # 462 bytes
        ("Q6_K", 2304, False),  # 1890 bytes
    ],
)
def test_short_rows_without_boxes_are_copied_together(name, n_cols, together):
    shape = stream_shape(problem(format=FORMATS[name], n_cols=n_cols), H200)
    if together:
        assert (shape.copy_rows, shape.n_segments) == (shape.rows, 1)
        assert shape.row_slot == FORMATS[name].row_bytes(n_cols)
        # The first line of a copy may begin 15 bytes early, the last may end 15 bytes late.
        assert shape.stage_bytes >= shape.rows * shape.row_slot + 30
    else:
        assert shape.copy_rows == 1


@pytest.mark.parametrize(
    ("name", "n_cols", "segment", "line_rows"),
    [
        ("Q4_K", 2048, 1152, 1),  # whole rows
        ("Q4_K", 7168, 2016, 1),  # halves
        ("Q6_K", 4096, 1680, 1),  # not 1470, which is no multiple of 16
        ("Q8_0", 2048, 1088, 1),  # halves: whole rows are longer than a box may be
        ("Q6_K", 7168, 1680, 2),  # rows of 5,880 bytes
        ("Q8_0", 2880, 1632, 4),
        ("MXFP4", 2880, 816, 8),
    ],
)
def test_boxes_serve_rows_that_start_at_multiples_of_16_bytes_alone_or_together(name, n_cols, segment, line_rows):
    d = problem(format=FORMATS[name], n_cols=n_cols)
    shape = stream_shape(d, H200)
    assert shape.packed_segment == segment
    assert shape.has_boxes
    assert (1 << shape.line_shift) == shape.line_rows == line_rows
    assert line_rows << shape.box_shift == shape.rows
    boxes = shape.boxes
    assert (boxes.width * 8, boxes.height) == (line_rows * FORMATS[name].row_bytes(n_cols), 128 * 768 / line_rows)
    assert (boxes.box_width * 8, boxes.box_height) == (shape.row_slot, shape.rows / line_rows)
    assert boxes.box_width <= 256  # as cuTensorMapEncodeTiled asks, and the next four
    assert boxes.width % 2 == 0
    assert shape.row_slot % 16 == 0
    assert shape.box_bytes % 128 == 0
    assert shape.stages_at % 128 == shape.stage_bytes % 128 == 0
    assert shape.row_slot * boxes.box_height <= shape.box_bytes
    assert shape.box_bytes * line_rows <= shape.stage_bytes
    assert shape.row_slot >= segment + (15 if line_rows > 1 else 0)
    assert shape.packed_segment % 16 == 0 or shape.n_segments == 1 or line_rows > 1


@pytest.mark.parametrize(
    ("name", "slices"), [("Q2_K", 7), ("Q3_K", 7), ("IQ2_XXS", 7), ("IQ3_S", 14), ("IQ2_XS", 14), ("Q4_0", 14)]
)
def test_rows_of_few_bytes_are_cut_into_fewer_slices(name, slices):
    """Codebooks leave less room for what warps work on: IQ2_XS has fewer bytes than Q2_K."""
    assert stream_shape(problem(format=FORMATS[name], n_cols=7168), H200).n_slices == slices


def test_rows_that_share_a_line_with_the_next_expert_are_copied_one_by_one():
    shape = stream_shape(problem(format=FORMATS["Q6_K"], n_cols=7168, n_rows_per_expert=2047), H200)
    assert (shape.has_boxes, shape.boxes, shape.copy_rows, shape.line_rows) == (0, None, 1, 1)


@pytest.mark.parametrize(
    "cannot",
    [
        {"format": FORMATS["F16"], "n_cols": 2044},
        {"m_total": 0},
        {"n_cols": 2**20, "dtype": Dtype.F32, "format": FORMATS["Q6_K"]},
        {"n_rows_per_expert": 2**20, "m_total": 2**24, "m_tokens": 2**21},
    ],
    ids=["floats that are no whole vectors", "empty", "too wide for shared memory", "more stages than are counted"],
)
def test_what_cannot_stream_runs_the_plain_kernel(cannot):
    assert stream_shape(problem(**cannot), H200) is None
    assert Plan.select(problem(**cannot), H200).rule == "grouped"


@pytest.mark.parametrize(("name", "rule"), [("Q4_K", "stream_digits"), ("NVFP4", "stream"), ("F16", "stream")])
def test_gpus_without_bulk_copies_stream_by_lines_where_the_fastest_plan_is_asked_for(name, rule):
    """Rows lie as for copies of their own, also where others would copy boxes or all rows together."""
    d = problem(format=FORMATS[name], n_cols=768)
    for device in map(find_device, ("A100", "RTX-4090")):
        assert Plan.select(d, device).rule == Plan.select(d, device, "reproducible").rule == "grouped"
        plan = Plan.select(d, device, "fastest")
        stream = next(launch for launch in plan.launches if launch.source == "stream.cu")
        assert plan.rule == rule
        assert ("MMVQ_BULK_COPIES", 0) in stream.defines
        assert stream.boxes is None
        assert dict(stream.values).items() >= {"has_boxes": 0, "copy_rows": 1}.items()
        assert not any(launch.overlaps for launch in plan.launches)
    assert any(launch.overlaps for launch in Plan.select(d, H200, "fastest").launches)


def test_gpus_without_barriers_for_copies_do_not_stream():
    assert stream_shape(problem(), Device(name="T4", backend="cuda", compute_capability=(7, 5), sm_count=40)) is None


def narrow(name: str, dtype: Dtype = Dtype.F16, **changes) -> Descriptor:
    return problem(format=FORMATS[name], dtype=dtype, **{"m_total": 8, "m_tokens": 1, **changes})


def test_narrow_tiles_are_digits_where_a_plan_may_depend_on_the_batch():
    rules = {str(preference): Plan.select(narrow("Q6_K"), H200, preference).rule for preference in Preference}
    digits = "stream_digits"
    free = dict.fromkeys(("auto", "fastest", "tuned"), digits)
    assert rules == free | {"reproducible": "stream", "reference": "grouped"}


@pytest.mark.parametrize(
    ("name", "dtype", "m_tokens", "digits"),
    [
        ("Q6_K", Dtype.F16, 16, True),
        ("Q6_K", Dtype.BF16, 1, True),
        ("Q6_K", Dtype.F32, 1, False),  # 24 bits below the largest of 256 activations are too few for its bound
        ("Q6_K", Dtype.F16, 32, False),  # too many tiles of two dispatches
        ("IQ4_XS", Dtype.F16, 32, True),
        ("IQ4_XS", Dtype.F16, 64, False),
        ("Q4_K", Dtype.F16, 8, True),
        ("Q4_K", Dtype.F16, 16, False),
        ("Q3_K", Dtype.F16, 1, False),
        ("IQ2_XS", Dtype.F16, 1, True),
        ("IQ1_S", Dtype.BF16, 8, True),
        ("IQ1_M", Dtype.F16, 1, False),
        ("IQ3_S", Dtype.F16, 32, False),
        ("F16", Dtype.F16, 1, False),
    ],
)
def test_which_problems_are_digits(name, dtype, m_tokens, digits):
    d = narrow(name, dtype, m_tokens=m_tokens, m_total=8 * m_tokens)
    shape = digit_shape(d, H200)
    assert (shape is not None) == digits
    if shape:
        assert dict(shape.defines)["MMVQ_DIGITS"] == 3
        assert shape.columns * 4 <= 8 * shape.column_tiles
        format, operands = FORMATS[name], shape.operands
        assert (operands.min_groups, operands.grid_words) == (format.min_groups, format.digit_grid_words)


@pytest.mark.parametrize(("preference", "rule"), [("reproducible", "stream"), ("auto", "stream_digits")])
def test_codebooks_are_digits_where_bits_may_depend_on_the_batch(preference, rule):
    plan = Plan.select(narrow("IQ2_XXS"), H200, preference)
    assert plan.rule == rule
    assert plan.precision_guarantee.batch_invariant == (preference == "reproducible")


@pytest.mark.parametrize(
    ("name", "dtype", "preference", "invariant"),
    [
        ("Q6_K", Dtype.F16, "auto", False),  # alone it is digits
        ("Q6_K", Dtype.F16, "reproducible", True),
        ("Q6_K", Dtype.F32, "auto", False),  # in a crowd a warpgroup's
        ("Q6_K", Dtype.F32, "reproducible", True),
        ("Q4_K", Dtype.BF16, "auto", False),
        ("Q3_K", Dtype.F16, "auto", False),
        ("Q3_K", Dtype.F16, "reproducible", True),
        ("BF16", Dtype.BF16, "auto", False),  # in a crowd it is f16
        ("BF16", Dtype.BF16, "reproducible", True),
        ("BF16", Dtype.F32, "auto", False),
        ("BF16", Dtype.F32, "reproducible", True),
    ],
)
@pytest.mark.parametrize("m_tokens", [1, 256])
def test_a_plan_is_batch_invariant_where_no_batch_has_other_arithmetic(name, dtype, preference, invariant, m_tokens):
    plan = Plan.select(narrow(name, dtype, m_tokens=m_tokens, m_total=8 * m_tokens), H200, preference)
    assert plan.precision_guarantee.batch_invariant == invariant
    assert plan.precision_guarantee.deterministic


@pytest.mark.parametrize(("m_tokens", "columns"), [(1, 1), (8, 2), (16, 2), (32, 4), (256, 4)])
def test_plain_floats_are_multiplied_in_f32(m_tokens, columns):
    d = narrow("F16", m_tokens=m_tokens, m_total=8 * m_tokens)
    plan = Plan.select(d, H200, Preference.REPRODUCIBLE)
    assert (plan.rule, plan.precision_guarantee.math, plan.precision_guarantee.error_constant) == ("stream", "f32", 32)
    assert stream_shape(d, H200).columns == columns


@pytest.mark.parametrize(
    ("name", "dtype", "constant", "m_tokens", "columns"),
    [
        ("F16", Dtype.F16, 128, 32, None),
        ("F16", Dtype.F16, 128, 64, 8),
        ("F32", Dtype.BF16, 1024, 64, 8),
        ("F32", Dtype.BF16, 1024, 256, 16),
        ("F32", Dtype.F32, 32, 64, None),  # two parts take longer than a second read
        ("F32", Dtype.F32, 32, 256, 8),
    ],
)
def test_wide_tiles_of_floats_are_multiplied_as_f16(name, dtype, constant, m_tokens, columns):
    """Where no warpgroup does."""
    d = narrow(name, dtype, m_tokens=m_tokens, m_total=8 * m_tokens)
    plan = Plan.select(d, replace(H200, compute_capability=(10, 0)))
    assert not plan.precision_guarantee.batch_invariant
    if columns is None:
        assert plan.rule == "stream"
        return
    guarantee = plan.precision_guarantee
    assert (plan.rule, guarantee.math, guarantee.error_constant) == ("stream_halves", "f16", constant)
    shape = halves_shape(d, H200)
    assert (shape.columns, shape.operands.is_scaled) == (columns, True)


def test_only_the_reference_is_plain():
    d = problem(format=FORMATS["Q3_K"])
    rules = {str(preference): Plan.select(d, H200, preference).rule for preference in Preference}
    streams = dict.fromkeys(("auto", "fastest", "reproducible", "tuned"), "stream")
    assert rules == streams | {"reference": "grouped"}


@pytest.mark.parametrize(
    ("name", "m_tokens", "copies"),
    [("IQ2_XXS", 8, 32), ("IQ2_XXS", 1, 16), ("IQ2_S", 8, 8), ("IQ2_S", 1, 1), ("IQ3_XXS", 1, 32), ("Q4_K", 8, 1)],
)
def test_codebooks_are_copied_as_often_as_there_is_room_or_not_at_all(name, m_tokens, copies):
    assert stream_shape(narrow(name, m_tokens=m_tokens, m_total=8 * m_tokens), H200).grid_copies == copies


@pytest.mark.parametrize(("name", "copies"), [("IQ2_XXS", 32), ("IQ2_XS", 32), ("IQ2_S", 16), ("IQ3_S", 16)])
def test_codebooks_for_digits_have_copies_too(name, copies):
    assert digit_shape(narrow(name, m_tokens=8, m_total=64), H200).grid_copies == copies
