"""Which tokens make a batch: one of each request, a row of one request, or as recorded."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mmvq_cli.routing.trace.trace import Trace


@dataclass(frozen=True, slots=True, eq=False)
class RequestBounds:
    """The tokens of each request: `order[starts[r] : ends[r]]` in time; `order` is None when they lie in order."""

    starts: NDArray[np.int64]
    ends: NDArray[np.int64]
    order: NDArray[np.int64] | None = None

    def tokens(self, places: NDArray[np.int64]) -> NDArray[np.int64]:
        """Token numbers of places in request order."""
        return places if self.order is None else self.order[places]


def request_bounds(trace: Trace) -> RequestBounds | None:
    """Where each request's tokens are; None when requests are not known. Empty requests are left out."""
    if trace.request_offsets is not None:
        starts, ends = np.asarray(trace.request_offsets[:-1]), np.asarray(trace.request_offsets[1:])
        return RequestBounds(starts[ends > starts], ends[ends > starts])
    if trace.request_id is None or not trace.n_tokens:
        return None
    order = np.argsort(trace.request_id, kind="stable").astype(np.int64)
    edges = np.flatnonzero(np.diff(trace.request_id[order])) + 1
    starts = np.concatenate([[0], edges]).astype(np.int64)
    return RequestBounds(starts, np.append(starts[1:], len(order)).astype(np.int64), order)


def across_batches(
    bounds: RequestBounds, n_tokens: int, n_batches: int, rng: np.random.Generator
) -> NDArray[np.int64] | None:
    """One token from each of `n_tokens` distinct requests, int64 [n_batches, n_tokens]; None with too few requests."""
    n_requests = len(bounds.starts)
    if n_requests < n_tokens:
        return None
    per_shuffle = n_requests // n_tokens
    shuffles = [rng.permutation(n_requests)[: per_shuffle * n_tokens] for _ in range(-(-n_batches // per_shuffle))]
    requests = np.concatenate(shuffles).reshape(-1, n_tokens)[:n_batches]
    lengths = (bounds.ends - bounds.starts)[requests]
    places = bounds.starts[requests] + (rng.random(requests.shape) * lengths).astype(np.int64)
    return bounds.tokens(places)


def consecutive_batches(
    bounds: RequestBounds, n_tokens: int, n_batches: int
) -> tuple[NDArray[np.int64] | None, NDArray[np.int64] | None]:
    """Blocks of tokens in a row of one request, [blocks, n_tokens], and the request of each; None without any.

    Requests are cut into blocks from their start; at most `n_batches` of these, evenly spread, are taken.
    """
    per_request = (bounds.ends - bounds.starts) // n_tokens
    total = int(per_request.sum())
    if not total:
        return None, None
    chosen = np.unique(np.linspace(0, total - 1, min(total, n_batches)).astype(np.int64))
    ends = np.cumsum(per_request)
    owners = np.searchsorted(ends, chosen, side="right")
    within = chosen - (ends - per_request)[owners]
    places = (bounds.starts[owners] + within * n_tokens)[:, None] + np.arange(n_tokens)
    return bounds.tokens(places), owners
