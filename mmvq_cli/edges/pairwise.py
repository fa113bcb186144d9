"""A small set of combinations in which every two values of two axes occur together."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from typing import Any

Choice = dict[str, Any]
_Pair = tuple[tuple[str, Any], tuple[str, Any]]


def cover_pairs(axes: Mapping[str, Sequence[Any]], compatible: Callable[[Choice], bool]) -> tuple[Choice, ...]:
    """Choose combinations, one value per axis, until every compatible pair of values of two axes occurs.

    `compatible` judges partial combinations too. Greedy and deterministic: each combination starts from the first pair
    that is missing and takes, axis by axis, the compatible value that adds the most missing pairs. Raises `ValueError`
    when a compatible pair cannot be completed.
    """
    missing = dict.fromkeys(pair for pair in _all_pairs(axes) if compatible(dict(pair)))
    chosen = []
    while missing:
        combination = _complete(dict(next(iter(missing))), axes, compatible, missing)
        for pair in pairs_of(combination, axes):
            missing.pop(pair, None)
        chosen.append(combination)
    return tuple(chosen)


def pairs_of(combination: Choice, axes: Mapping[str, Sequence[Any]]) -> tuple[_Pair, ...]:
    """The pairs of values in a combination, in the axes' order."""
    named = [(axis, combination[axis]) for axis in axes if axis in combination]
    return tuple(combinations(named, 2))


def _all_pairs(axes: Mapping[str, Sequence[Any]]) -> list[_Pair]:
    return [((left, a), (right, b)) for left, right in combinations(axes, 2) for a in axes[left] for b in axes[right]]


def _complete(
    start: Choice, axes: Mapping[str, Sequence[Any]], compatible: Callable[[Choice], bool], missing: dict[_Pair, None]
) -> Choice:
    combination = dict(start)
    for axis in axes:
        if axis in combination:
            continue
        fitting = [value for value in axes[axis] if compatible(combination | {axis: value})]
        if not fitting:
            raise ValueError(f"no {axis} fits {combination}")
        gains = [sum(p in missing for p in pairs_of(combination | {axis: value}, axes)) for value in fitting]
        combination[axis] = fitting[gains.index(max(gains))]
    return {axis: combination[axis] for axis in axes}
