"""Each kind of routing is what it says, and legal."""

from __future__ import annotations

import numpy as np
import pytest

from mmvq_cli.edges.routings import ROUTING_EDGES, edge_routing

SIZES = [(1, 1, 1), (1, 8, 5), (8, 1, 5), (8, 8, 40), (257, 8, 5)]


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("kind", ROUTING_EDGES)
def test_every_kind_is_reproducible_and_fits(kind, size):
    n_experts, top_k, n_tokens = size
    if kind == "hollow" and n_experts < 3:
        pytest.skip("hollow needs three experts")
    routing = edge_routing(kind, n_experts, top_k, n_tokens, 0)
    assert routing.ids.shape == (n_tokens, top_k)
    assert (routing.ids == edge_routing(kind, n_experts, top_k, n_tokens, 0).ids).all()
    assert routing.dispatch().m_total == (routing.ids >= 0).sum()


def ids(kind, n_experts=8, top_k=4, n_tokens=30):
    return edge_routing(kind, n_experts, top_k, n_tokens, 0).ids


def test_uniform_experts_are_distinct_where_there_are_enough():
    assert all(len(set(row)) == 4 for row in ids("uniform"))
    assert len(np.unique(ids("uniform"))) == 8


def test_last_goes_to_the_last_expert_alone():
    assert set(ids("last").flat) == {7}


def test_hollow_leaves_both_ends_empty():
    assert set(ids("hollow").flat) == set(range(1, 7))


@pytest.mark.parametrize("top_k", [2, 3, 8])
def test_repeated_has_each_expert_twice(top_k):
    assert all(row[0] == row[1] for row in ids("repeated", top_k=top_k))


def test_gaps_leave_a_token_and_some_slots_out():
    found = ids("gaps")
    assert (found[0] == -1).all()
    assert 0 < (found[1:] == -1).sum() < found[1:].size / 2


def test_lone_and_none():
    assert ((ids("lone") >= 0).sum(axis=1) > 0).sum() == 1
    assert (ids("none") == -1).all()
