"""The cover: complete, possible, small, and the same every time."""

from __future__ import annotations

from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmvq_cli.edges import cover_pairs

AXES = st.lists(st.integers(1, 5), min_size=2, max_size=5).map(
    lambda sizes: {f"axis {i}": tuple(range(size)) for i, size in enumerate(sizes)}
)


def missing_pairs(axes, chosen, compatible=lambda choice: True):
    """Pairs of values that go together and that no combination holds, found the plainest way."""
    return [
        (a, x, b, y)
        for a, b in combinations(axes, 2)
        for x in axes[a]
        for y in axes[b]
        if compatible({a: x, b: y}) and not any(c[a] == x and c[b] == y for c in chosen)
    ]


@given(AXES)
def test_every_pair_occurs(axes):
    chosen = cover_pairs(axes, lambda choice: True)
    assert missing_pairs(axes, chosen) == []
    assert all(choice.keys() == axes.keys() for choice in chosen)
    assert chosen == cover_pairs(axes, lambda choice: True)


@given(AXES)
def test_impossible_pairs_never_occur_and_all_others_do(axes):
    def compatible(choice):
        return not (choice.get("axis 0") == 1 and choice.get("axis 1") == 0) or axes["axis 1"] == (0,)

    chosen = cover_pairs(axes, compatible)
    assert all(compatible(choice) for choice in chosen)
    assert missing_pairs(axes, chosen, compatible) == []


def test_a_cover_is_far_smaller_than_the_product():
    axes = {f"axis {i}": (0, 1, 2) for i in range(8)}
    assert len(cover_pairs(axes, lambda choice: True)) <= 24  # 6561 in the product, 9 at the very least


def test_a_lost_combination_is_seen():
    axes = {"a": (0, 1), "b": (0, 1)}
    assert missing_pairs(axes, cover_pairs(axes, lambda choice: True)[1:]) != []


def test_a_pair_that_cannot_be_completed_is_an_error():
    axes = {"a": (0,), "b": (0,), "c": (0,)}
    with pytest.raises(ValueError, match="no c fits"):
        cover_pairs(axes, lambda choice: "c" not in choice or len(choice) < 3)
