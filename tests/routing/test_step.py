import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from mmvq_cli.errors import InvalidProblem
from mmvq_cli.routing import Routing


def make_routing(ids, n_experts):
    """A routing whose weights number the slots, so that every dispatch can be told from every other."""
    ids = np.asarray(ids, dtype=np.int32)
    return Routing(ids, np.arange(ids.size, dtype=np.float32).reshape(ids.shape), n_experts, source="test", seed=0)


@st.composite
def routings(draw):
    n_experts = draw(st.integers(1, 9))
    shape = draw(st.tuples(st.integers(0, 12), st.integers(1, 4)))
    return make_routing(draw(arrays(np.int32, shape, elements=st.integers(-1, n_experts - 1))), n_experts)


@given(routings())
def test_offsets_rise_from_zero_to_m_total(routing):
    dispatch = routing.dispatch()
    assert dispatch.expert_offsets.shape == (routing.n_experts + 1,)
    assert dispatch.expert_offsets[0] == 0
    assert dispatch.expert_offsets[-1] == dispatch.m_total == np.count_nonzero(routing.ids >= 0)
    assert (np.diff(dispatch.expert_offsets) >= 0).all()


@given(routings())
def test_every_dispatch_is_there_once_ordered_by_expert_token_and_slot(routing):
    dispatch = routing.dispatch()
    experts = np.repeat(np.arange(routing.n_experts), np.diff(dispatch.expert_offsets))
    slots = dispatch.topk_weights.astype(int) % routing.top_k
    rows = list(zip(experts.tolist(), dispatch.sorted_token_ids.tolist(), slots.tolist(), strict=True))
    tokens, columns = np.nonzero(routing.ids >= 0)
    wanted = sorted((int(routing.ids[t, s]), int(t), int(s)) for t, s in zip(tokens, columns, strict=True))
    assert rows == wanted


def test_arrays_have_the_types_of_the_operation():
    dispatch = make_routing([[1, -1], [0, 1]], 3).dispatch()
    assert dispatch.sorted_token_ids.dtype == np.int32
    assert dispatch.expert_offsets.dtype == np.int32
    assert dispatch.topk_weights.dtype == np.float32
    assert dispatch.sorted_token_ids.tolist() == [1, 0, 1]
    assert dispatch.expert_offsets.tolist() == [0, 1, 3, 3]


def test_more_experts_than_a_16_bit_key_holds():
    dispatch = make_routing([[65_537, 1], [65_537, 70_000]], 70_001).dispatch()
    assert dispatch.sorted_token_ids.tolist() == [0, 0, 1, 1]
    assert dispatch.topk_weights.tolist() == [1, 0, 2, 3]


def test_the_edge_of_the_16_bit_key():
    dispatch = make_routing([[65_535], [0]], 65_536).dispatch()
    assert dispatch.sorted_token_ids.tolist() == [1, 0]


@pytest.mark.parametrize(
    ("ids", "weights", "n_experts", "word"),
    [
        (np.zeros((2, 2), np.int64), np.zeros((2, 2), np.float32), 4, "int64"),
        (np.zeros(4, np.int32), np.zeros(4, np.float32), 4, r"\[4\]"),
        (np.zeros((2, 2), np.int32), np.zeros((2, 1), np.float32), 4, r"\[2, 1\]"),
        (np.zeros((2, 2), np.int32), np.zeros((2, 2), np.float64), 4, "float64"),
        (np.full((2, 2), 4, np.int32), np.zeros((2, 2), np.float32), 4, "expert 4"),
        (np.full((2, 2), -2, np.int32), np.zeros((2, 2), np.float32), 4, "expert -2"),
        (np.zeros((2, 2), np.int32), np.zeros((2, 2), np.float32), 0, "n_experts is 0"),
    ],
)
def test_broken_arrays_are_refused_with_the_value_seen(ids, weights, n_experts, word):
    with pytest.raises(InvalidProblem, match=word):
        Routing(ids, weights, n_experts, source="test", seed=0)
