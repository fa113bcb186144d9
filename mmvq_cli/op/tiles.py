"""How many dispatches a tile of the streaming kernel takes: what uniform routing would give an expert."""

from __future__ import annotations

import math

from mmvq_cli.op.descriptor import Descriptor

NARROWEST = 1
_WIDTHS = (NARROWEST, 2, 4, 8, 16)


def wanted_widths(d: Descriptor) -> list[int]:
    """Dispatches per tile, powers of two in ascending order: up to the first that holds what an expert gets."""
    wanted = dispatches_per_touched_expert(d)
    return [width for width in _WIDTHS if width < 2 * wanted] or [NARROWEST]


def touched_experts(d: Descriptor) -> float:
    """What uniform routing would touch, by the chance that an expert gets none of m_total dispatches."""
    return d.n_experts * -math.expm1(-d.m_total / d.n_experts)


def dispatches_per_touched_expert(d: Descriptor) -> float:
    """What uniform routing would give."""
    return d.m_total / touched_experts(d)
