"""Seeded draws of synthetic routings.

Experts of a token are drawn one after the other in proportion to the popularity of those still free (Plackett-Luce,
the distribution of Gumbel top-k). Popularities are integer masses and every random number is a raw PCG64 word, so a
draw depends on nothing but its arguments: not on numpy's global state, its version, or the platform.
"""

from __future__ import annotations

import hashlib
import math
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from mmvq_cli.errors import UsageError
from mmvq_cli.routing.spec import RoutingSpec
from mmvq_cli.routing.step import Routing

# Sum of the masses: a 53-bit uniform number times it, rounded down, is always below it.
_TOTAL_MASS = 2**48


def draw(
    spec: RoutingSpec, n_experts: int, top_k: int, n_tokens: int, seed: int, index: int = 0, *, layer: int = -1
) -> Routing:
    """Draw the routing of `n_tokens` tokens: `top_k` distinct experts each, weights descending, of sum 1.

    A pure function of its arguments, and of the file for a trace, which also gives the weights where it has them. The
    draws of one seed share the popularity of the experts; `index` numbers them; `layer` is the model's, for traces.
    Raises `UsageError` for sizes that cannot be, and what reading a trace raises.
    """
    if spec.is_replayed:
        from mmvq_cli.routing.trace.replay import replay

        return replay(spec, n_experts, top_k, n_tokens, seed=seed, index=index, layer=layer)
    _check_sizes(spec, n_experts, top_k, n_tokens)
    key = (spec, n_experts, top_k, n_tokens, seed, index)
    if spec.kind == "balanced":
        experts = _permutation(n_experts, "balanced", *key)
        ids = experts[np.arange(n_tokens * top_k) % n_experts].reshape(n_tokens, top_k)
    else:
        ids = choose(_masses(spec, n_experts, seed), uniform_numbers(top_k, n_tokens, "experts", *key))
    return Routing(ids.astype(np.int32), router_weights(n_tokens, top_k, key), n_experts, source=str(spec), seed=seed)


def _check_sizes(spec: RoutingSpec, n_experts: int, top_k: int, n_tokens: int) -> None:
    if n_experts < 1 or top_k < 1 or n_tokens < 0:
        raise UsageError(
            f"cannot route {n_tokens} tokens to {top_k} of {n_experts} experts",
            "experts and top-k are at least 1, tokens at least 0",
        )
    if top_k > n_experts:
        raise UsageError(
            f"top-k is {top_k} but there are {n_experts} experts, and a token goes to distinct ones",
            f"choose --top-k {n_experts} or less",
        )
    if spec.hot_experts > n_experts:
        raise UsageError(
            f"{spec} wants {spec.hot_experts} hot experts but there are {n_experts}",
            f"choose {n_experts} or fewer",
        )


def random_words(count: int, *key: object) -> NDArray[np.uint64]:
    """Draw raw 64-bit words of a stream of their own, named by `key`."""
    name = "/".join(map(str, key)).encode()
    entropy = int.from_bytes(hashlib.sha256(name).digest(), "little")
    return np.random.PCG64(np.random.SeedSequence(entropy)).random_raw(count)


def uniform_numbers(rows: int, cols: int, *key: object) -> NDArray[np.float64]:
    """Draw multiples of 2^-53 in [0, 1), [rows, cols]."""
    mantissas = (random_words(rows * cols, *key) >> np.uint64(11)).astype(np.float64)
    return (mantissas * 2.0**-53).reshape(rows, cols)


def _permutation(count: int, *key: object) -> NDArray[np.int64]:
    return np.argsort(random_words(count, *key), kind="stable")


def _masses(spec: RoutingSpec, n_experts: int, seed: int) -> NDArray[np.int64]:
    """Popularity of each expert as a positive integer, int64 [n_experts], by rank and then permuted by the seed."""
    popularity = _popularity_by_rank(spec, n_experts)
    by_rank = np.maximum(1, np.floor(popularity / popularity.sum() * (_TOTAL_MASS - n_experts))).astype(np.int64)
    masses = np.empty(n_experts, dtype=np.int64)
    masses[_permutation(n_experts, "popularity", spec, n_experts, seed)] = by_rank
    return masses


def _popularity_by_rank(spec: RoutingSpec, n_experts: int) -> NDArray[np.float64]:
    """Relative popularity of the most popular expert, of the second, and so on, float64 [n_experts]."""
    parameter = spec.parameter or 0.0
    if spec.kind == "zipf":
        return np.array([float(rank) ** -parameter for rank in range(1, n_experts + 1)])
    if spec.kind == "lognormal":
        # Quantiles, not samples: every seed has the same skew, on other experts.
        quantiles = [NormalDist().inv_cdf(1 - (rank + 0.5) / n_experts) for rank in range(n_experts)]
        return np.array([math.exp(parameter * (quantile - quantiles[0])) for quantile in quantiles])
    popularity = np.ones(n_experts, dtype=np.float64)
    if spec.kind == "hot" and spec.hot_experts < n_experts:
        popularity[: spec.hot_experts] = parameter / spec.hot_experts
        popularity[spec.hot_experts :] = (1 - parameter) / (n_experts - spec.hot_experts)
    return popularity


def choose(masses: NDArray[np.int64], uniform: NDArray[np.float64]) -> NDArray[np.int64]:
    """Choose distinct experts by mass for uniform numbers [top_k, n_tokens]; int64 [n_tokens, top_k].

    A slot's number points into the masses of the experts still free, laid end to end; the experts taken before,
    visited in ascending order, push the point past themselves.
    """
    top_k, n_tokens = uniform.shape
    ends = np.cumsum(masses)
    starts = ends - masses
    free = np.full(n_tokens, ends[-1])
    ids = np.empty((top_k, n_tokens), dtype=np.int64)
    for slot in range(top_k):
        point = (uniform[slot] * free).astype(np.int64)
        for taken in np.sort(ids[:slot], axis=0):
            point += np.where(point >= starts[taken], masses[taken], 0)
        ids[slot] = np.searchsorted(ends, point, side="right")
        free -= masses[ids[slot]]
    return np.ascontiguousarray(ids.T)


def router_weights(n_tokens: int, top_k: int, key: tuple[object, ...]) -> NDArray[np.float32]:
    """Draw weights as a router gives them: descending, of sum 1, float32 [n_tokens, top_k].

    The largest is at most 8 times the smallest, so that an error in any dispatch stays visible in the sum.
    """
    spread = np.sort(1 + 7 * uniform_numbers(n_tokens, top_k, "weights", *key), axis=1)[:, ::-1]
    return np.ascontiguousarray(spread / spread.sum(axis=1, keepdims=True), dtype=np.float32)
