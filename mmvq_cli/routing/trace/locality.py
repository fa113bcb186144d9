"""How alike the experts of nearby tokens are: overlap at a lag, and hits of a cache of experts.

A token's experts are a set of bits, so an overlap is one AND and one population count per 64 experts.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mmvq_cli.routing.trace.batches import RequestBounds

LAGS = (1, 2, 5, 20)
_CHUNK_TOKENS = 1 << 15
_LRU_TOKENS = 4096  # per layer: the simulation is a loop


class Locality:
    """Measures the layers of one trace; what depends on requests alone is made once."""

    def __init__(self, bounds: RequestBounds, top_k: int) -> None:
        self._bounds, self._top_k = bounds, top_k
        self._n_tokens = int(bounds.ends[-1]) if len(bounds.ends) else 0
        # for each lag the tokens whose partner is in another request, in order
        self._crossing = {lag: _crossing(bounds, lag) for lag in LAGS}

    def measure(self, ids: NDArray[np.int16], n_experts: int) -> tuple[NDArray[np.int64], dict[int, float]]:
        """Dispatches of each expert and pooled overlap at each lag of a layer, ids [tokens, top_k]; one pass."""
        counts = np.zeros(n_experts + 1, np.int64)
        shared, sizes = dict.fromkeys(LAGS, 0), dict.fromkeys(LAGS, 0)
        reach = max(LAGS)
        for start in range(0, self._n_tokens, _CHUNK_TOKENS):
            stop = min(start + _CHUNK_TOKENS, self._n_tokens)
            slots = self._slots(ids, start, min(stop + reach, self._n_tokens))
            own = slots[:, : stop - start]
            counts += np.bincount((own.reshape(-1) + np.int16(1)).astype(np.intp), minlength=n_experts + 1)
            words = bit_sets(slots, n_experts)
            n_routed = None if own.min() >= 0 else np.bitwise_count(words).sum(axis=0)
            for lag in LAGS:
                n_pairs = min(stop - start, words.shape[1] - lag)
                if n_pairs <= 0:
                    continue
                same = np.bitwise_count(words[0, :n_pairs] & words[0, lag : lag + n_pairs])
                for word in words[1:]:
                    same += np.bitwise_count(word[:n_pairs] & word[lag : lag + n_pairs])
                crossing = self._crossing[lag]
                first, last = np.searchsorted(crossing, (start, start + n_pairs))
                outside = crossing[first:last] - start
                shared[lag] += int(same.sum(dtype=np.int64)) - int(same[outside].sum(dtype=np.int64))
                if n_routed is None:
                    sizes[lag] += self._top_k * (n_pairs - len(outside))
                else:
                    sizes[lag] += int(n_routed[:n_pairs].sum()) - int(n_routed[outside].sum())
        return counts[1:], {lag: shared[lag] / sizes[lag] for lag in LAGS if sizes[lag]}

    def _slots(self, ids: NDArray[np.int16], start: int, stop: int) -> NDArray[np.int16]:
        """Ids of places start..stop in request order, [top_k, tokens], each slot contiguous."""
        order = self._bounds.order
        return np.ascontiguousarray((ids[start:stop] if order is None else ids[order[start:stop]]).T)


def bit_sets(slots: NDArray[np.int16], n_experts: int) -> NDArray[np.uint64]:
    """The experts of each token as bits, uint64 [words, tokens], of slots int16 [top_k, tokens]; -1 sets none."""
    words = np.zeros((-(-n_experts // 64), slots.shape[1]), np.uint64)
    one = np.uint64(1)
    for word in range(len(words)):
        for slot in slots:
            # a shift of 64 or more gives 0, and so does every id of another word, negative ones included
            shift = (slot - np.int16(64 * word)).view(np.uint16).astype(np.uint64)
            words[word] |= np.left_shift(one, shift)
    return words


def lru_hit_rates(
    ids: NDArray[np.int16], bounds: RequestBounds, n_experts: int, shares: tuple[float, ...]
) -> dict[float, float]:
    """Hit rate of a least-recently-used cache of that share of a layer's experts, over its first 4096 tokens.

    One pass for all sizes: an expert hits every cache larger than the number of others used since (Mattson's stack).
    """
    n_tokens = min(_LRU_TOKENS, int(bounds.ends[-1]))
    tokens = bounds.tokens(np.arange(n_tokens))
    stack: list[int] = []
    distances = np.zeros(n_experts + 1, np.int64)
    used = ids[tokens].reshape(-1).tolist()
    for expert in used:
        if expert < 0:
            continue
        depth = stack.index(expert) if expert in stack else n_experts
        distances[depth] += 1
        if depth < n_experts:
            del stack[depth]
        stack.insert(0, expert)
    total = max(1, int(distances.sum()))
    return {share: float(distances[: max(1, round(share * n_experts))].sum() / total) for share in shares}


def _crossing(bounds: RequestBounds, lag: int) -> NDArray[np.int64]:
    """Places whose partner `lag` later belongs to another request, ascending; the last request has none to miss."""
    lengths = np.minimum(bounds.ends - bounds.starts, lag)
    total = int(lengths.sum())
    before = np.cumsum(lengths) - lengths
    places: NDArray[np.int64] = np.repeat(bounds.ends - lengths - before, lengths) + np.arange(total)
    return places
