"""Whether a routing is legal: the rules on the host, and the words for a rule that either engine found broken."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mmvq_cli.errors import InvalidProblem
from mmvq_cli.op import Descriptor

_HINT = "build the arrays with Routing.dispatch(), or sort the dispatches by expert"


def routing_error(rule: int, position: int, value: int, d: Descriptor) -> InvalidProblem:
    """The error for a broken rule, by its number in kernels/validate.cu."""
    messages = {
        1: f"sorted_token_ids[{position}] is {value}, token ids are 0 to {d.m_tokens - 1}",
        2: f"expert_offsets[{position}] is {value}, less than the offset before it",
        3: f"expert_offsets[0] is {value}, it must be 0",
        4: f"expert_offsets[{position}] is {value}, the last one must be m_total = {d.m_total}",
        5: f"token {position} has {value} dispatches or more, top_k is {d.top_k}",
    }
    return InvalidProblem(messages[rule], _HINT)


def check_routing(d: Descriptor, token_ids: NDArray[np.int32], offsets: NDArray[np.int32]) -> None:
    """Check ids in range, offsets monotone from 0 to m_total, at most top_k dispatches per token.

    Raises `InvalidProblem` for the first broken rule.
    """
    outside = np.flatnonzero((token_ids < 0) | (token_ids >= d.m_tokens))
    if len(outside):
        raise routing_error(1, int(outside[0]), int(token_ids[outside[0]]), d)
    falling = np.flatnonzero(np.diff(offsets) < 0)
    if len(falling):
        raise routing_error(2, int(falling[0]) + 1, int(offsets[falling[0] + 1]), d)
    if offsets[0] != 0:
        raise routing_error(3, 0, int(offsets[0]), d)
    if offsets[-1] != d.m_total:
        raise routing_error(4, d.n_experts, int(offsets[-1]), d)
    counts = np.bincount(token_ids, minlength=d.m_tokens)
    if counts.size and counts.max() > d.top_k:
        raise routing_error(5, int(counts.argmax()), int(counts.max()), d)
