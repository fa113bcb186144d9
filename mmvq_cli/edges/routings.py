"""Routings that no popularity gives: repeated experts, empty ends, missing slots, one lone token."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mmvq_cli.routing import Routing

# Kind -> what is special about it.
ROUTING_EDGES = {
    "uniform": "distinct experts where there are enough",
    "last": "every slot goes to the last expert",
    "hollow": "the first and the last expert are empty",
    "repeated": "every second slot repeats the expert before it",
    "gaps": "a third of the slots have no dispatch, the first token has none at all",
    "lone": "only the middle token is routed",
    "none": "no token is routed",
}
_GAP_SHARE = 1 / 3


def edge_routing(kind: str, n_experts: int, top_k: int, n_tokens: int, seed: int) -> Routing:
    """Draw a routing of one of `ROUTING_EDGES`, a pure function of the arguments.

    `hollow` needs three experts.
    """
    rng = np.random.default_rng([seed, n_experts, top_k, n_tokens, *kind.encode()])
    first, last = (1, n_experts - 2) if kind == "hollow" else (0, n_experts - 1)
    ids = _experts(first, last, (n_tokens, top_k), rng)
    if kind == "last":
        ids[:] = n_experts - 1
    elif kind == "repeated":
        ids[:, 1::2] = ids[:, 0:-1:2]
    elif kind == "gaps":
        ids[rng.random(ids.shape) < _GAP_SHARE] = -1
        ids[:1] = -1
    elif kind == "lone":
        ids[np.arange(n_tokens) != n_tokens // 2] = -1
    elif kind == "none":
        ids[:] = -1
    weights = rng.uniform(0.1, 1.0, ids.shape).astype(np.float32)
    return Routing(ids, weights, n_experts, source=kind, seed=seed)


def _experts(first: int, last: int, shape: tuple[int, int], rng: np.random.Generator) -> NDArray[np.int32]:
    """Experts from `first` to `last`, int32 [n_tokens, top_k]; distinct within a token where there are enough."""
    n_tokens, top_k = shape
    count = last - first + 1
    if top_k == 1 or top_k > count:
        return rng.integers(first, last + 1, shape, dtype=np.int32)
    order = np.argsort(rng.random((n_tokens, count)), axis=1)[:, :top_k]
    return (order + first).astype(np.int32)
