"""Long rows in parts: what each launch takes of them, and which plans do it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmvq_cli.op import FORMATS, Dtype, Plan, Rows, find_device
from mmvq_cli.op.parts import part_shapes
from mmvq_cli.op.stream import stream_shape
from tests.op.problems import problem

DEVICES = [find_device(name) for name in ("H200", "A100", "RTX-4090")]
H200 = DEVICES[0]


def crowd(name="Q4_K", dtype=Dtype.F16, n_cols=7168, each=8, **changes):
    """Experts with `each` dispatches."""
    sizes = {"n_experts": 32, "n_rows_per_expert": 2048, "m_tokens": 4 * each, "m_total": 32 * each, "top_k": 8}
    return problem(format=FORMATS[name], dtype=dtype, n_cols=n_cols, **(sizes | changes))


@given(
    st.sampled_from([name for name, format in FORMATS.items() if not format.is_float]),
    st.sampled_from(list(Dtype)),
    st.integers(1, 64).map(lambda n: 256 * n),
    st.sampled_from([1, 4, 16, 64]),
    st.sampled_from(DEVICES),
)
def test_parts_are_the_row_and_their_tiles_are_wider(name, dtype, n_cols, each, device):
    d = crowd(name, dtype, n_cols, each)
    whole, shapes = stream_shape(d, device), part_shapes(d, device)
    if not shapes:
        return
    ends = [shape.end_weight for shape in shapes]
    assert [shape.first_weight for shape in shapes] == [0, *ends[:-1]]
    assert ends[-1] == n_cols
    assert [shape.continues for shape in shapes] == [0] + [1] * (len(shapes) - 1)
    assert [shape.ends for shape in shapes] == [0] * (len(shapes) - 1) + [1]
    assert len({shape.columns for shape in shapes}) == 1
    assert whole is None or shapes[0].columns >= 2 * whole.columns
    for shape in shapes:
        assert shape.first_weight % 256 == 0
        assert (
            shape.slice * shape.n_slices >= shape.end_weight - shape.first_weight > shape.slice * (shape.n_slices - 1)
        )
        if shape.boxes:
            assert d.format.row_bytes(shape.first_weight) % 16 == 0
            assert shape.boxes.width * 8 == d.format.row_bytes(n_cols)


@pytest.mark.parametrize(
    ("changes", "n_parts"),
    [
        ({}, 2),
        ({"each": 64}, 2),
        ({"each": 2}, 0),  # whole rows leave room for as many
        ({"n_cols": 2048}, 0),
        ({"n_cols": 14336, "each": 16}, 3),
        ({"name": "Q6_K", "n_cols": 14336, "each": 16}, 4),  # of 4,096 weights: others would not begin at lines
        ({"name": "F16"}, 0),
        ({"m_total": 0}, 0),
    ],
)
def test_how_many_parts(changes, n_parts):
    assert len(part_shapes(crowd(**changes), H200)) == n_parts


def test_a_gpu_with_little_shared_memory_has_more():
    assert [len(part_shapes(crowd(), device)) for device in DEVICES] == [2, 2, 4]


@pytest.mark.parametrize(("preference", "rule"), [("fastest", "stream_parts"), ("auto", "stream")])
def test_parts_are_for_the_fastest_plan(preference, rule):
    plan = Plan.select(crowd(), H200, preference)
    assert plan.rule == rule
    assert plan.precision_guarantee.deterministic
    if rule == "stream_parts":
        assert not plan.precision_guarantee.batch_invariant  # a token alone is multiplied whole
        assert not Plan.select(crowd(each=1), H200, preference).precision_guarantee.batch_invariant
        assert "2 parts" in plan.reason


@pytest.mark.parametrize("output_rows", Rows)
def test_sums_of_parts_wait_in_the_workspace(output_rows):
    d = crowd(output_rows=output_rows)
    fastest, whole = Plan.select(d, H200, "fastest"), Plan.select(d, H200)
    streams = [launch for launch in fastest.launches if launch.source == "stream.cu"]
    assert len(streams) == 2
    assert len(fastest.launches) == len(whole.launches) + 1
    assert all(("MMVQ_PARTS", 1) in launch.defines for launch in streams)
    assert all(launch.overlaps for launch in fastest.launches)
    names = [region.name for region in fastest.workspace]
    if output_rows == "dispatch":
        assert (names, whole.workspace) == (["partials"], ())
        assert fastest.workspace_size() == 4 * d.m_total * d.n_rows_per_expert
    else:
        assert fastest.workspace == whole.workspace
        assert names[0] == "partials"
