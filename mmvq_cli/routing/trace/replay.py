"""Batches of a trace as `Routing`s: which tokens make a step, and how its experts fit a tensor's.

A batch depends on the trace and the arguments only. Tokens without a full set of routes in the layer are left out.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mmvq_cli.errors import UsageError
from mmvq_cli.routing.draws import choose, random_words, router_weights, uniform_numbers
from mmvq_cli.routing.spec import RoutingSpec
from mmvq_cli.routing.step import Routing
from mmvq_cli.routing.trace.batches import request_bounds
from mmvq_cli.routing.trace.container import open_trace
from mmvq_cli.routing.trace.generators import preset_synthesis, synthesize
from mmvq_cli.routing.trace.trace import DECODE, Trace


def replay(
    spec: RoutingSpec, n_experts: int, top_k: int, n_tokens: int, *, seed: int, index: int, layer: int
) -> Routing:
    """Batch `index` of the trace for a tensor of `n_experts` in the model's layer `layer` (-1: not known).

    Raises `UsageError` when experts, top-k, layer or batch do not fit, and what reading the trace raises.
    """
    trace, digest = open_origin(spec)
    position = _position(spec, trace, layer)
    _check_fit(spec, trace, n_experts, top_k)
    key = ("replay", digest, spec.compose, position, n_tokens, seed, index)
    if trace.kind == "counts":
        counts = np.maximum(trace.counts(position), 1)
        share = np.maximum(1, counts.astype(np.float64) / counts.sum() * 2.0**47).astype(np.int64)
        ids = choose(share, uniform_numbers(top_k, n_tokens, *key))
        copies = np.zeros(n_tokens, np.int64)
        weights = router_weights(n_tokens, top_k, key)
    else:
        tokens = _batch(spec, trace, position, n_tokens, key)
        ids = trace.ids[position][tokens].astype(np.int64)
        copies = _request_of(trace, tokens)
        recorded = trace.topk_weights
        weights = (
            router_weights(n_tokens, top_k, key) if recorded is None else recorded[position][tokens].astype(np.float32)
        )
    mapped = _map_experts(spec, ids, trace.n_experts, n_experts, copies)
    return Routing(mapped.astype(np.int32), np.ascontiguousarray(weights), n_experts, source=str(spec), seed=seed)


def open_origin(spec: RoutingSpec) -> tuple[Trace, str]:
    """Open the trace of a spec, with its hash; raises what reading it raises."""
    return _twin(spec.origin) if spec.kind == "twin" else open_trace(Path(spec.origin))


@lru_cache(maxsize=4)
def _twin(name: str) -> tuple[Trace, str]:
    """A preset's synthetic trace: 256 requests, so that 256 tokens can come from as many."""
    trace = synthesize(preset_synthesis(name, n_layers=4, n_requests=256, request_tokens=256))
    return trace, hashlib.sha256(trace.ids.tobytes()).hexdigest()


def _position(spec: RoutingSpec, trace: Trace, layer: int) -> int:
    """Where the layer's rows are; the layers of a synthetic trace are alike, so any number will do there."""
    wanted = spec.layer if spec.layer >= 0 else layer
    if wanted < 0:
        return trace.n_layers // 2
    if "generator" in trace.metadata:
        return wanted % trace.n_layers
    found = np.flatnonzero(trace.layer_index == wanted)
    if not len(found):
        known = trace.layer_index
        raise UsageError(
            f"{spec} has no layer {wanted}, it has {len(known)} from {known.min()} to {known.max()}",
            f"--trace-layer {known[len(known) // 2]} replays that one for every tensor",
        )
    return int(found[0])


def _check_fit(spec: RoutingSpec, trace: Trace, n_experts: int, top_k: int) -> None:
    if trace.top_k and trace.top_k != top_k:
        raise UsageError(f"{spec} has top-k {trace.top_k}, the case has {top_k}", f"--top-k {trace.top_k}")
    way = "fold" if trace.n_experts > n_experts else "tile"
    if trace.n_experts != n_experts and spec.expert_map != way:
        raise UsageError(
            f"{spec} has {trace.n_experts} experts, the tensor has {n_experts}",
            f"--map-experts {way} maps the experts of the trace onto those of the tensor",
        )
    if top_k > n_experts:
        raise UsageError(f"top-k is {top_k} but there are {n_experts} experts", f"choose --top-k {n_experts} or less")


def _batch(spec: RoutingSpec, trace: Trace, position: int, n_tokens: int, key: tuple[object, ...]) -> NDArray[np.int64]:
    """Token numbers of the batch, int64 [n_tokens]."""
    full = _eligible(spec, trace, position)
    compose = spec.compose or {"recorded": "recorded", "requests": "decode-mix", "none": "shuffle"}[trace.batching]
    if compose == "shuffle":
        tokens = np.flatnonzero(full)
        _require(spec, n_tokens, len(tokens), "routed tokens", "choose fewer tokens")
        return tokens[np.argsort(random_words(len(tokens), *key), kind="stable")[:n_tokens]]
    if compose == "recorded":
        return _recorded_step(spec, trace, full, n_tokens, key)
    bounds = request_bounds(trace)
    if bounds is None:
        raise UsageError(f"{spec} does not know its requests, {compose} needs them", "--compose shuffle")
    places = np.ascontiguousarray(full if bounds.order is None else full[bounds.order])
    before = np.concatenate([[0], np.cumsum(places)])
    if compose == "chunk":
        # a start is good when the next n_tokens places are all full and in its request
        starts = np.arange(len(places) - n_tokens + 1) if n_tokens <= len(places) else np.empty(0, np.int64)
        ends_at = np.repeat(bounds.ends, bounds.ends - bounds.starts)[: len(starts)]
        good = starts[(before[starts + n_tokens] - before[starts] == n_tokens) & (starts + n_tokens <= ends_at)]
        if not len(good):
            longest = int((bounds.ends - bounds.starts).max())
            _require(spec, n_tokens, min(longest, n_tokens - 1), "tokens in a row of a request", "--compose decode-mix")
        start = int(good[int(random_words(1, *key)[0] % np.uint64(len(good)))])
        return bounds.tokens(np.arange(start, start + n_tokens))
    n_full = before[bounds.ends] - before[bounds.starts]
    requests = np.flatnonzero(n_full)
    _require(spec, n_tokens, len(requests), "requests", "--compose shuffle takes several tokens of a request")
    words = random_words(2 * len(requests), *key)
    chosen = np.argsort(words[: len(requests)], kind="stable")[:n_tokens]
    pick = (words[len(requests) :][chosen] % n_full[requests[chosen]].astype(np.uint64)).astype(np.int64)
    # the pick-th full place of each chosen request
    return bounds.tokens(np.flatnonzero(places)[before[bounds.starts[requests[chosen]]] + pick])


@lru_cache(maxsize=4)
def _eligible(spec: RoutingSpec, trace: Trace, position: int) -> NDArray[np.bool_]:
    """Tokens with a route in every slot; of decode alone where decode-mix knows the phase."""
    full: NDArray[np.bool_] = np.ones(trace.n_tokens, bool)
    for slot in range(trace.top_k):
        full &= trace.ids[position][:, slot] >= 0
    if spec.compose in ("", "decode-mix") and trace.phase is not None and (trace.phase == DECODE).any():
        full &= trace.phase == DECODE
    return full


def _recorded_step(
    spec: RoutingSpec, trace: Trace, full: NDArray[np.bool_], n_tokens: int, key: tuple[object, ...]
) -> NDArray[np.int64]:
    if trace.step_offsets is None:
        raise UsageError(f"{spec} does not know its forward passes", "--compose decode-mix, chunk or shuffle")
    before = np.concatenate([[0], np.cumsum(full)])
    sizes = before[trace.step_offsets[1:]] - before[trace.step_offsets[:-1]]
    steps = np.flatnonzero(sizes == n_tokens)
    if not len(steps):
        known = np.unique(sizes[sizes > 0])
        raise UsageError(
            f"{spec} has no forward pass of {n_tokens} tokens",
            f"--tokens {','.join(map(str, known[:8]))}, or --compose shuffle",
        )
    step = int(steps[int(random_words(1, *key)[0] % np.uint64(len(steps)))])
    first, last = int(trace.step_offsets[step]), int(trace.step_offsets[step + 1])
    return first + np.flatnonzero(full[first:last])


def _require(spec: RoutingSpec, wanted: int, available: int, what: str, hint: str) -> None:
    if wanted > available:
        raise UsageError(f"{spec} has {available} {what}, a batch of {wanted} tokens needs {wanted}", hint)


def _request_of(trace: Trace, tokens: NDArray[np.int64]) -> NDArray[np.int64]:
    if trace.request_id is not None:
        return trace.request_id[tokens].astype(np.int64)
    if trace.request_offsets is not None:
        return np.searchsorted(trace.request_offsets, tokens, side="right") - 1
    return tokens


def _map_experts(
    spec: RoutingSpec, ids: NDArray[np.int64], n_trace: int, n_experts: int, copies: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Fold: expert mod the tensor's, moved on to the next free one of the token. Tile: a copy for each request."""
    if n_trace == n_experts:
        return ids
    if spec.expert_map == "tile":
        return ids + n_trace * (copies % (n_experts // n_trace))[:, None]
    folded = ids % n_experts
    for slot in range(1, ids.shape[1]):
        taken = (folded[:, :slot] == folded[:, slot : slot + 1]).any(axis=1)
        while taken.any():
            folded[taken, slot] = (folded[taken, slot] + 1) % n_experts
            taken = (folded[:, :slot] == folded[:, slot : slot + 1]).any(axis=1)
    return folded
