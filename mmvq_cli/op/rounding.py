"""Sizes that begin or end at multiples of others."""

from __future__ import annotations


def round_up(size: int, step: int) -> int:
    """The next multiple of `step`."""
    return -(-size // step) * step
