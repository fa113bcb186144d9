"""How many dispatches a tile of the streaming kernel takes: what uniform routing would give an expert."""

from __future__ import annotations

import math

from mmvq_cli.op.descriptor import Descriptor

_WIDTHS = (1, 2, 4, 8, 16)


def wanted_widths(d: Descriptor) -> list[int]:
    """Dispatches per tile, powers of two in ascending order: 1, and up to the first that holds what an expert gets."""
    wanted = dispatches_per_touched_expert(d)  # at least 1
    return [width for width in _WIDTHS if width < 2 * wanted]


def touched_experts(d: Descriptor) -> float:
    """What uniform routing would touch, by the chance that an expert gets none of m_total dispatches."""
    return d.n_experts * -math.expm1(-d.m_total / d.n_experts)


def dispatches_per_touched_expert(d: Descriptor) -> float:
    """What uniform routing would give."""
    return d.m_total / touched_experts(d)
