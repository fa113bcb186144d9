"""The shape of a trace: load per expert, locality in time, and what batches of it touch.

Load is counted over all dispatches. Locality is pooled overlap: the sum of |S_t and S_t+lag| over all pairs of tokens
of one request, over the sum of |S_t|. Batches are samples: `across` takes one token from each of B requests (requests
alike, then a token of it), `consecutive` B tokens in a row of one request (blocks alike; `_by_request`: requests
alike).
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmvq_cli.routing.statistics import expected_uniform_imbalance
from mmvq_cli.routing.trace.batches import across_batches, consecutive_batches, request_bounds
from mmvq_cli.routing.trace.locality import LAGS, Locality, lru_hit_rates
from mmvq_cli.routing.trace.trace import Progress, Trace, silent

BATCHES = (1, 4, 8, 16, 32, 64)
TILES = (16, 64, 128)
CACHE_SHARES = (0.125, 0.25, 0.5)
# Largest M of each bin of the histogram of dispatches per expert; the last bin is open.
M_BINS = (0, 1, 4, 8, 16, 32, 64)
_SAMPLED_TOKENS = 1 << 13  # per batch size, layer and way of batching


@dataclass(frozen=True, slots=True)
class LayerStatistics:
    """One layer. `imbalance` is max/mean, `balancedness` its inverse, `imbalance_ratio` it less 1.

    `n80` experts cover 80 % of the dispatches; `overlap` maps a lag to pooled overlap; `rank_imbalance` is max/mean
    over expert-parallel ranks of neighbouring experts; `lru` maps a cache's share of the experts to its hit rate.
    """

    layer: int
    dispatches: int
    expert_min: int
    expert_mean: float
    expert_max: int
    imbalance: float
    balancedness: float
    imbalance_ratio: float
    uniform_imbalance: float
    rank_imbalance: float | None
    cv: float
    entropy: float
    n80: int
    unused_experts: int
    lognormal_sigma: float
    zipf_s: float
    overlap: dict[int, float]
    lru: dict[float, float]


@dataclass(frozen=True, slots=True)
class BatchStatistics:
    """Batches of `n_tokens`: touched experts (medians over layers) and how dispatches spread over experts.

    `m_histogram` has the share of experts per bin of M_BINS, `padding` maps a tile to the share of rows that pad it.
    """

    n_tokens: int
    uniform_touched: float
    across_touched: float | None
    consecutive_touched: float | None
    consecutive_touched_by_request: float | None
    uniform_imbalance: float
    imbalance: float
    m_histogram: tuple[float, ...]
    padding: dict[int, float]


@dataclass(frozen=True, slots=True)
class TraceStatistics:
    """A whole trace; `median` and `p90` are over layers, by the names of `LayerStatistics`."""

    provenance: str
    kind: str
    batching: str
    n_tokens: int
    n_requests: int
    n_experts: int
    top_k: int
    chance_overlap: float
    metadata: dict[str, str]
    layers: tuple[LayerStatistics, ...]
    batches: tuple[BatchStatistics, ...]
    median: dict[str, float]
    p90: dict[str, float]


def trace_statistics(
    trace: Trace, *, ep: int = 0, lru: bool = False, seed: int = 0, progress: Progress = silent
) -> TraceStatistics:
    """Measure a trace; `ep` ranks for rank imbalance (0: none), `lru` adds cache hit rates (slow), memory is bounded.

    Counts have load only: neither locality nor batches.
    """
    bounds = request_bounds(trace)
    locality = Locality(bounds, trace.top_k) if trace.kind == "topk" and bounds is not None else None
    sampler = _Sampler(trace, bounds, seed) if trace.kind == "topk" else None
    layers = []
    for position in range(trace.n_layers):
        overlap: dict[int, float] = {}
        hits: dict[float, float] = {}
        if locality is None:
            counts = trace.counts(position)
        else:
            counts, overlap = locality.measure(trace.ids[position], trace.n_experts)
        if lru and bounds is not None and trace.kind == "topk":
            hits = lru_hit_rates(trace.ids[position], bounds, trace.n_experts, CACHE_SHARES)
        layers.append(_layer(trace, position, counts, ep, overlap, hits))
        if sampler:
            sampler.add(position)
        progress(position + 1, trace.n_layers)
    return TraceStatistics(
        provenance=trace.provenance,
        kind=trace.kind,
        batching=trace.batching,
        n_tokens=trace.n_tokens,
        n_requests=trace.n_requests,
        n_experts=trace.n_experts,
        top_k=trace.top_k,
        chance_overlap=trace.top_k / trace.n_experts,
        metadata=dict(trace.metadata),
        layers=tuple(layers),
        batches=sampler.result() if sampler else (),
        median=_over_layers(layers, 50),
        p90=_over_layers(layers, 90),
    )


def lognormal_sigma(counts: NDArray[np.int64]) -> float:
    """The sigma of maximal likelihood for load by rank, popularities being quantiles of a log-normal.

    It minimizes KL(sorted load || family), as `zipf_exponent` does for its own.
    """
    n = len(counts)
    return _exponent(counts, np.array([NormalDist().inv_cdf(1 - (rank + 0.5) / n) for rank in range(n)]))


def zipf_exponent(counts: NDArray[np.int64]) -> float:
    """The exponent of maximal likelihood for load by rank."""
    return _exponent(counts, -np.log(np.arange(1, len(counts) + 1)))


def _exponent(counts: NDArray[np.int64], log_popularity: NDArray[np.float64]) -> float:
    """The x for which popularities exp(x * log_popularity) have the observed mean of log_popularity."""
    by_rank = np.sort(counts)[::-1].astype(np.float64)
    if not by_rank.sum():
        return 0.0
    observed = float(by_rank @ log_popularity / by_rank.sum())
    low, high = 0.0, 20.0
    for _ in range(40):
        middle = (low + high) / 2
        mass = np.exp(middle * (log_popularity - log_popularity[0]))
        low, high = (middle, high) if mass @ log_popularity / mass.sum() < observed else (low, middle)
    return low


def _layer(
    trace: Trace, position: int, counts: NDArray[np.int64], ep: int, overlap: dict[int, float], lru: dict[float, float]
) -> LayerStatistics:
    total, n_experts = int(counts.sum()), trace.n_experts
    mean, largest = total / n_experts, int(counts.max())
    share = counts[counts > 0] / max(1, total)
    imbalance = largest / mean if total else 0.0
    n_tokens = max(1, -(-total // max(1, trace.top_k)))
    ranks = [int(part.sum()) for part in np.array_split(counts, ep)] if ep else []
    covered = np.cumsum(np.sort(counts)[::-1])
    return LayerStatistics(
        layer=int(trace.layer_index[position]),
        dispatches=total,
        expert_min=int(counts.min()),
        expert_mean=mean,
        expert_max=largest,
        imbalance=imbalance,
        balancedness=1 / imbalance if imbalance else 0.0,
        imbalance_ratio=imbalance - 1 if imbalance else 0.0,
        uniform_imbalance=expected_uniform_imbalance(n_experts, total, n_tokens),
        rank_imbalance=max(ranks) * ep / total if ranks and total else None,
        cv=float(counts.std() / mean) if total else 0.0,
        entropy=float(-(share * np.log(share)).sum() / np.log(n_experts)) if total and n_experts > 1 else 0.0,
        n80=int(np.searchsorted(covered, 0.8 * total) + 1) if total else 0,
        unused_experts=int((counts == 0).sum()),
        lognormal_sigma=lognormal_sigma(counts),
        zipf_s=zipf_exponent(counts),
        overlap=overlap,
        lru=lru,
    )


def _over_layers(layers: list[LayerStatistics], percentile: float) -> dict[str, float]:
    names = ["imbalance", "balancedness", "imbalance_ratio", "uniform_imbalance", "cv", "entropy", "n80"]
    names += ["unused_experts", "lognormal_sigma", "zipf_s"]
    rows: dict[str, list[float]] = {name: [float(getattr(layer, name)) for layer in layers] for name in names}
    if layers[0].rank_imbalance is not None:
        rows["rank_imbalance"] = [layer.rank_imbalance or 0.0 for layer in layers]
    rows |= {f"overlap_{lag}": [layer.overlap[lag] for layer in layers if lag in layer.overlap] for lag in LAGS}
    rows |= {f"lru_{share:g}": [layer.lru[share] for layer in layers if share in layer.lru] for share in CACHE_SHARES}
    return {name: float(np.percentile(values, percentile)) for name, values in rows.items() if values}


class _Sampler:
    """Collects, layer by layer, what batches touch."""

    def __init__(self, trace: Trace, bounds: Any, seed: int) -> None:
        self._trace = trace
        self._plans: dict[int, tuple[NDArray[np.int64] | None, NDArray[np.int64] | None, NDArray[np.int64] | None]] = {}
        self._rows: dict[int, list[dict[str, Any]]] = {}
        rng = np.random.default_rng(seed)
        for n_tokens in BATCHES:
            n_batches = _SAMPLED_TOKENS // n_tokens
            across = across_batches(bounds, n_tokens, n_batches, rng) if bounds is not None else None
            blocks, owners = consecutive_batches(bounds, n_tokens, n_batches) if bounds is not None else (None, None)
            if across is not None or blocks is not None:
                self._plans[n_tokens] = across, blocks, owners
                self._rows[n_tokens] = []

    def add(self, position: int) -> None:
        """Sample the layer at `position`."""
        for n_tokens, (across, blocks, owners) in self._plans.items():
            row: dict[str, Any] = {}
            ids = self._trace.ids[position]
            if across is not None:
                counts = self._count(ids, across)
                row["across"] = float((counts > 0).sum(axis=1).mean())
                row["spread"] = counts
            if blocks is not None and owners is not None:
                counts = self._count(ids, blocks)
                touched = (counts > 0).sum(axis=1)
                row["consecutive"] = float(touched.mean())
                sums, n = np.bincount(owners, touched), np.bincount(owners)
                row["by_request"] = float((sums[n > 0] / n[n > 0]).mean())
                row.setdefault("spread", counts)
            self._rows[n_tokens].append(_spread(row))

    def _count(self, ids: NDArray[np.int16], batches: NDArray[np.int64]) -> NDArray[np.int64]:
        """Dispatches [batches, experts]."""
        n_experts = self._trace.n_experts
        chosen = ids[batches.reshape(-1)].reshape(len(batches), -1).astype(np.int64)
        slots = np.arange(len(batches))[:, None] * (n_experts + 1) + chosen + 1
        counts = np.bincount(slots.reshape(-1), minlength=len(batches) * (n_experts + 1))
        return counts.reshape(len(batches), n_experts + 1)[:, 1:]

    def result(self) -> tuple[BatchStatistics, ...]:
        """Medians over the layers."""
        e, k = self._trace.n_experts, self._trace.top_k
        out = []
        for n_tokens, rows in self._rows.items():

            def median(name: str, rows: list[dict[str, Any]] = rows) -> float | None:
                values = [row[name] for row in rows if name in row]
                return float(np.median(values)) if values else None

            out.append(
                BatchStatistics(
                    n_tokens=n_tokens,
                    uniform_touched=e * (1 - (1 - k / e) ** n_tokens),
                    across_touched=median("across"),
                    consecutive_touched=median("consecutive"),
                    consecutive_touched_by_request=median("by_request"),
                    uniform_imbalance=expected_uniform_imbalance(e, n_tokens * k, n_tokens),
                    imbalance=median("imbalance") or 0.0,
                    m_histogram=tuple(np.mean([row["m"] for row in rows], axis=0).tolist()),
                    padding={tile: float(np.mean([row["padding"][tile] for row in rows])) for tile in TILES},
                )
            )
        return tuple(out)


def _spread(row: dict[str, Any]) -> dict[str, Any]:
    """Replace the counts [batches, experts] of a layer by what is reported of them."""
    counts = row.pop("spread")
    edges = (*M_BINS, np.iinfo(np.int64).max)
    bins = np.searchsorted(edges, counts.reshape(-1))
    row["m"] = np.bincount(bins, minlength=len(edges)) / counts.size
    row["imbalance"] = float((counts.max(axis=1) / np.maximum(counts.mean(axis=1), 1e-9)).mean())
    total = max(1, int(counts.sum()))
    row["padding"] = {tile: 1 - total / max(1, int((-(-counts // tile) * tile).sum())) for tile in TILES}
    return row
