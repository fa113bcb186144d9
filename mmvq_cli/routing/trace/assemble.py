"""From what a source recorded to a `Trace`: the traps that every recorder has are handled here, and counted.

A warm-up run is a stretch of tokens that are routed alike in every layer (profile runs and graph capture feed one dummy
token); a dense layer is one whose rows are all "no route"; buffers that start as zeros leave rows of one repeated id.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmvq_cli.errors import ModelError, UsageError
from mmvq_cli.routing.trace.trace import Trace

# Shorter stretches of equal rows happen in real text; a warm-up pass has hundreds.
_WARMUP_RUN_TOKENS = 64
_MIN_WARMUP_SLOTS = 4  # with fewer slots over all layers, equal rows are no evidence
_HINT = "the recording is damaged, or --from names another source"

Progress = Callable[[str, int, int], None]  # what is being done, bytes done, bytes in all


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportOptions:
    """What a source does not say itself; 0, empty or None where it does.

    `moe_layers` are the model's layers with experts, `columns` maps a table's fields to its column names.
    """

    n_experts: int = 0
    top_k: int = 0
    n_layers: int = 0
    moe_layers: tuple[int, ...] = ()
    columns: dict[str, str] = field(default_factory=dict)
    model_id: str = ""
    keep_warmup: bool = False
    progress: Progress = field(default=lambda what, done, total: None, compare=False)


@dataclass(slots=True, kw_only=True)
class Recorded:
    """What an importer read: ids [tokens, layers, top_k] of any integer type, and the lengths of the requests.

    `step_lengths` instead when tokens are ordered by forward pass. `layer_index` is empty when layers count from 0.
    """

    ids: NDArray[Any]
    request_lengths: list[int] | None = None
    step_lengths: list[int] | None = None
    weights: NDArray[Any] | None = None
    layer_index: NDArray[np.int32] | None = None
    request_id: NDArray[np.int32] | None = None
    phase: NDArray[np.uint8] | None = None
    n_experts: int = 0
    slot_order: str = ""
    metadata: dict[str, str] = field(default_factory=dict)


def assemble(recorded: Recorded, options: ImportOptions, where: str) -> Trace:
    """Drop what is no routing (warm-up, dense layers, padding), check the rest, and note what was dropped.

    Raises `ModelError` naming `where` and the place, `UsageError` where only the user can know.
    """
    ids = _checked(recorded.ids, where)
    layers = recorded.layer_index if recorded.layer_index is not None else np.arange(ids.shape[1], dtype=np.int32)
    metadata = dict(recorded.metadata)
    keep_layers = _moe_layers(ids, layers, options, where)
    if len(keep_layers) < ids.shape[1]:
        metadata["dropped_dense_layers"] = str(ids.shape[1] - len(keep_layers))
    n_slots = _used_slots(ids, keep_layers)
    if n_slots < ids.shape[2]:
        metadata["dropped_padding_slots"] = str(ids.shape[2] - n_slots)
    keep = np.ones(len(ids), bool)
    if not options.keep_warmup:
        warm = _warmup(ids, keep_layers)
        keep &= ~warm
        metadata["dropped_warmup_tokens"] = str(int(warm.sum()))
    unrouted = keep & ~_routed(ids, keep_layers)
    keep &= ~unrouted
    if unrouted.any():
        metadata["dropped_unrouted_tokens"] = str(int(unrouted.sum()))
    tokens = np.flatnonzero(keep)
    if not len(tokens):
        raise ModelError(f"{where}: no routed token is left of {len(ids)}", _HINT)
    major = _layer_major(ids, tokens, keep_layers, n_slots, options.progress)
    n_experts = options.n_experts or recorded.n_experts or int(major.max()) + 1
    if not (options.n_experts or recorded.n_experts):
        metadata["num_experts_inferred"] = "largest id + 1"
    metadata["slot_order"] = recorded.slot_order or _slot_order(major, recorded.weights)
    if options.model_id:
        metadata["model_id"] = options.model_id
    trace = Trace(
        n_experts=n_experts,
        top_k=n_slots,
        layer_index=np.asarray(layers, np.int32)[keep_layers],
        topk_ids=major,
        topk_weights=_weights(recorded.weights, tokens, keep_layers, n_slots),
        request_offsets=_offsets(recorded.request_lengths, keep, where),
        step_offsets=_offsets(recorded.step_lengths, keep, where),
        request_id=None if recorded.request_id is None else recorded.request_id[tokens],
        phase=None if recorded.phase is None else recorded.phase[tokens],
        metadata=metadata,
    )
    trace.validate(where)
    return trace


def counts_trace(
    counts: NDArray[Any],
    options: ImportOptions,
    where: str,
    *,
    top_k: int = 0,
    layer_index: NDArray[np.int32] | None = None,
    metadata: dict[str, str] | None = None,
) -> Trace:
    """A trace of expert counts [steps, layers, experts] or [layers, experts]; empty steps and dense layers go.

    Fractions (float weights) are scaled so that the largest is 2^20. Raises `ModelError` naming `where`.
    """
    notes = dict(metadata or {})
    if counts.ndim == 2:
        counts = counts[None]
    if counts.ndim != 3 or not counts.size or counts.dtype.kind not in "iuf":
        raise ModelError(
            f"{where}: counts are {counts.dtype} {list(counts.shape)}, not [steps, layers, experts]", _HINT
        )
    if counts.shape[2] > 2**15:
        raise ModelError(f"{where}: counts have {counts.shape[2]} experts, at most 32768 are read", _HINT)
    if not np.isfinite(counts).all() or counts.min() < 0 or counts.max() > 2.0**52:
        raise ModelError(f"{where}: counts must be finite, from 0 to 2^52", _HINT)
    if counts.dtype.kind == "f":
        if (counts != np.floor(counts)).any():
            counts = np.round(counts * (2.0**20 / counts.max()))
            notes["counts_scaled"] = "largest weight is 2^20"
        elif counts.dtype == np.float32 and counts.max() >= 2**24:
            notes["counts_inexact"] = "float32 counts beyond 2^24 have lost dispatches"
    steps = counts.sum(axis=(1, 2)) > 0
    routed = counts.sum(axis=(0, 2)) > 0
    if not routed.any():
        raise ModelError(f"{where}: every count is 0", "record while the model runs")
    if not steps.all():
        notes["dropped_empty_steps"] = str(int((~steps).sum()))
    if not routed.all():
        notes["dropped_dense_layers"] = str(int((~routed).sum()))
    layers = np.arange(counts.shape[1], dtype=np.int32) if layer_index is None else layer_index
    notes["provenance"] = "counts-derived"
    if options.model_id:
        notes["model_id"] = options.model_id
    if options.n_experts and options.n_experts != counts.shape[2]:
        raise ModelError(f"{where}: counts have {counts.shape[2]} experts, --experts is {options.n_experts}", _HINT)
    top_k = options.top_k or top_k
    if top_k > counts.shape[2]:
        raise ModelError(f"{where}: top-k {top_k} with {counts.shape[2]} experts", _HINT)
    trace = Trace(
        n_experts=counts.shape[2],
        top_k=top_k,
        layer_index=layers[routed],
        expert_counts=np.ascontiguousarray(counts[steps][:, routed]).astype(np.int64),
        metadata=notes,
    )
    trace.validate(where)
    return trace


def source_note(tool: str, **facts: Any) -> str:
    """The `source` entry of the metadata."""
    return json.dumps({"tool": tool, **facts}, sort_keys=True)


def _checked(ids: NDArray[Any], where: str) -> NDArray[Any]:
    if ids.ndim != 3 or ids.dtype.kind not in "iu":
        raise ModelError(f"{where}: ids are {ids.dtype} {list(ids.shape)}, not integers [tokens, layers, top-k]", _HINT)
    if not ids.size:
        raise ModelError(f"{where}: there is no token ({list(ids.shape)})", "record while the model runs")
    if ids.shape[2] > 256 or ids.shape[1] > 4096:
        raise ModelError(f"{where}: ids are {list(ids.shape)}; is that [tokens, layers, top-k]?", _HINT)
    if ids.min() < -1 or ids.max() >= 2**15:
        token, layer, slot = np.argwhere((ids < -1) | (ids >= 2**15))[0]
        raise ModelError(
            f"{where}: the id of token {token}, layer {layer}, slot {slot} is {ids[token, layer, slot]}", _HINT
        )
    return ids


def _no_route(rows: NDArray[Any]) -> NDArray[np.bool_]:
    """Which rows [..., top_k] are no route: all -1, or (top-k > 1) one id repeated, as untouched buffers hold."""
    same = (rows == rows[..., :1]).all(axis=-1)
    empty: NDArray[np.bool_] = same if rows.shape[-1] > 1 else same & (rows[..., 0] == -1)
    return empty


def _moe_layers(ids: NDArray[Any], layers: NDArray[np.int32], options: ImportOptions, where: str) -> NDArray[np.intp]:
    if options.moe_layers:
        missing = sorted(set(options.moe_layers) - set(layers.tolist()))
        if missing:
            raise UsageError(f"{where} has no layer {missing[0]}", f"its layers are {layers[0]}..{layers[-1]}")
        return np.flatnonzero(np.isin(layers, options.moe_layers))
    dense = [bool(_no_route(ids[:, layer]).all()) for layer in range(ids.shape[1])]
    if ids.shape[2] == 1 and len(ids) > 1:
        zero = [layer for layer in range(ids.shape[1]) if not ids[:, layer].any()]
        if zero:
            raise UsageError(
                f"{where}: layer {layers[zero[0]]} goes to expert 0 only; with top-1 that may be a dense layer",
                "name the layers with experts: --moe-layers 3..60",
            )
    if all(dense):
        raise ModelError(f"{where}: no layer has a route", _HINT)
    return np.flatnonzero(~np.array(dense))


def _used_slots(ids: NDArray[Any], layers: NDArray[np.intp]) -> int:
    """Slots up to the last one that is ever used."""
    used = [slot for slot in range(ids.shape[2]) if any((ids[:, layer, slot] >= 0).any() for layer in layers)]
    return max(used) + 1


def _warmup(ids: NDArray[Any], layers: NDArray[np.intp]) -> NDArray[np.bool_]:
    """Which tokens are in long runs of equal rows."""
    warm = np.zeros(len(ids), bool)
    if len(ids) < _WARMUP_RUN_TOKENS or len(layers) * ids.shape[2] < _MIN_WARMUP_SLOTS:
        return warm
    same = np.ones(len(ids) - 1, bool)
    for layer in layers:
        same &= (ids[1:, layer] == ids[:-1, layer]).all(axis=1)
        if not same.any():
            return warm
    edges = np.flatnonzero(np.diff(np.concatenate([[0], same.view(np.int8), [0]])))
    for first, last in edges.reshape(-1, 2):  # rows first..last are equal
        if last - first + 1 >= _WARMUP_RUN_TOKENS and not (ids[first] == -1).all():
            warm[first : last + 1] = True
    return warm


def _routed(ids: NDArray[Any], layers: NDArray[np.intp]) -> NDArray[np.bool_]:
    routed = np.zeros(len(ids), bool)
    for layer in layers:
        routed |= ~_no_route(ids[:, layer])
        if routed.all():
            break
    return routed


def _layer_major(
    ids: NDArray[Any], tokens: NDArray[np.intp], layers: NDArray[np.intp], n_slots: int, progress: Progress
) -> NDArray[np.int16]:
    """Ids as int16 [layers, tokens, slots]; rows without a route are -1."""
    major = np.empty((len(layers), len(tokens), n_slots), np.int16)
    everything = len(tokens) == len(ids)
    for position, layer in enumerate(layers):
        rows = ids[:, layer, :n_slots] if everything else ids[tokens, layer, :n_slots]
        major[position] = rows
        if n_slots > 1:
            major[position][_no_route(rows)] = -1
        progress("sorting by layer", major[: position + 1].nbytes, major.nbytes)
    return major


def _slot_order(major: NDArray[np.int16], weights: NDArray[Any] | None) -> str:
    """`rank` only where weights prove it."""
    if weights is None or not weights.size:
        return "unordered"
    sample = weights.reshape(-1, weights.shape[-1])[: 1 << 16, : major.shape[2]]
    return "rank" if (sample[:, 1:] <= sample[:, :-1]).all() else "unordered"


def _weights(
    weights: NDArray[Any] | None, tokens: NDArray[np.intp], layers: NDArray[np.intp], n_slots: int
) -> NDArray[Any] | None:
    if weights is None:
        return None
    kind = np.float16 if weights.dtype == np.float16 else np.float32
    return np.stack([weights[tokens, layer, :n_slots].astype(kind) for layer in layers])


def _offsets(lengths: list[int] | None, keep: NDArray[np.bool_], where: str) -> NDArray[np.int64] | None:
    """Offsets of what is kept; requests or steps without a token disappear."""
    if lengths is None:
        return None
    if min(lengths, default=0) < 0 or sum(lengths) != len(keep):
        raise ModelError(f"{where}: the lengths sum to {sum(lengths)}, there are {len(keep)} tokens", _HINT)
    kept = np.concatenate([[0], np.cumsum(keep)])[np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])]
    return np.unique(kept).astype(np.int64)
