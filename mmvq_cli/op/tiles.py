"""How many dispatches a tile of the streaming kernel takes: so many that few experts are read more than once."""

from __future__ import annotations

import math
from functools import lru_cache

from mmvq_cli.op.descriptor import Descriptor

_WIDTHS = (1, 2, 4, 8, 16)
_MOST_TILES = 1.05  # for each touched expert: each reads the expert's rows
_MOST_EACH = 2 * _WIDTHS[-1]  # dispatches per expert, on average, from which on tiles are full


def wanted_widths(d: Descriptor) -> list[int]:
    """Dispatches per tile, powers of two in ascending order: 1, and up to the first that leaves few experts cut."""
    most = _MOST_TILES * touched_experts(d)
    narrow = [width for width in _WIDTHS if expected_tiles(d, width) > most]
    return list(_WIDTHS[: len(narrow) + 1])


def touched_experts(d: Descriptor) -> float:
    """What uniform routing would touch."""
    n_draws, chance = _draws(d)
    return d.n_experts * (1 - (1 - chance) ** n_draws)


def expected_tiles(d: Descriptor, width: int) -> float:
    """Tiles of up to `width` dispatches that uniform routing would make: an expert's dispatches are binomial."""
    return d.n_experts * _tiles_of_one(*_draws(d), width)


def share_of_work(d: Descriptor, tiles: float, rows: int, n_blocks: int) -> float:
    """Of what all blocks could do while the busiest works, what is work, where items are a tile by so many rows."""
    row_tiles = -(-d.n_rows_per_expert // rows)
    items = tiles * row_tiles
    padding = d.n_rows_per_expert / (rows * row_tiles)
    return padding * items / (n_blocks * math.ceil(items / n_blocks))


@lru_cache(maxsize=256)
def _tiles_of_one(n_draws: int, chance: float, width: int) -> float:
    if chance == 1 or n_draws * chance > _MOST_EACH:
        return math.ceil(n_draws * chance / width)
    probability, tiles = (1 - chance) ** n_draws, 0.0  # of none
    for count in range(1, min(n_draws, 4 * _MOST_EACH) + 1):
        probability *= (n_draws - count + 1) / count * chance / (1 - chance)
        tiles += probability * math.ceil(count / width)
    return tiles


def _draws(d: Descriptor) -> tuple[int, float]:
    """How often an expert may be chosen, and the chance each time: by each token once, or else by each dispatch."""
    by_token = d.m_total / (max(d.m_tokens, 1) * d.n_experts)
    return (d.m_tokens, by_token) if by_token <= 1 else (d.m_total, 1 / d.n_experts)
