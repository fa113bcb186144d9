"""Traces in the forms that others read: `.npz`, SGLang's and EPLB's load tables, FlashInfer-Bench's routing logits."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from mmvq_cli.errors import OpenError, UsageError
from mmvq_cli.routing.step import Routing
from mmvq_cli.routing.trace.trace import Trace

_UNSELECTED_LOGIT = -1e4  # exp of it is 0 in float32


def logical_counts(trace: Trace) -> NDArray[np.int64]:
    """Dispatches of each expert in each layer, int64 [layers, experts]."""
    return np.stack([trace.counts(position) for position in range(trace.n_layers)])


def write_load_table(trace: Trace, path: Path, *, key: str = "") -> None:
    """Write [layers, experts] as `.npy` or `.json`; under `key` in an object when one is given.

    `key` "logical_count" makes what SGLang's --init-expert-location takes. Raises `OpenError` or `UsageError`.
    """
    table = logical_counts(trace)
    if path.suffix == ".json":
        text = json.dumps({key: table.tolist()} if key else table.tolist())
        _write(path, text.encode())
    elif path.suffix == ".npy" and not key:
        with _creating(path) as file:
            np.save(file, table)
    else:
        raise UsageError(f"{path}: a load table is written as .json{'' if key else ' or .npy'}", "name the file so")


def write_npz(trace: Trace, path: Path) -> None:
    """Write the ids as [tokens, layers, top_k], with weights, requests and phase; forward passes are left out.

    Raises `OpenError`, and `ModelError` for a trace of counts.
    """
    arrays: dict[str, Any] = {
        "topk_ids": trace.ids.transpose(1, 0, 2),
        "layer_index": np.asarray(trace.layer_index),
        "n_experts": np.array(trace.n_experts),
    }
    if trace.request_offsets is not None:
        arrays["request_offsets"] = np.asarray(trace.request_offsets)
    if trace.topk_weights is not None:
        arrays["topk_weights"] = trace.topk_weights.transpose(1, 0, 2)
    if trace.phase is not None:
        arrays["phase"] = np.asarray(trace.phase)
    with _creating(path) as file:
        np.savez_compressed(file, **arrays)


def routing_logits(routing: Routing) -> NDArray[np.float32]:
    """Logits [tokens, experts] whose softmax over the top-k is the routing's weights, for kernels that take no ids.

    Equal weights keep the order of the slots: the logits of later ones are a little smaller.
    """
    logits = np.full((routing.n_tokens, routing.n_experts), _UNSELECTED_LOGIT, np.float32)
    weights = np.maximum(routing.weights, 1e-30)
    values = np.log(weights) - 1e-4 * np.arange(routing.top_k)
    np.put_along_axis(logits, routing.ids.astype(np.int64), values.astype(np.float32), axis=1)
    return logits


def write_routing_logits(routing: Routing, path: Path) -> None:
    """Write `routing_logits` float32 [tokens, experts] as safetensors, an input of a FlashInfer-Bench workload."""
    from safetensors.numpy import save

    _write(path, save({"routing_logits": routing_logits(routing)}))


def select_layers(trace: Trace, layers: tuple[int, ...]) -> Trace:
    """The trace with these model layers only; raises `UsageError` for one that it does not have."""
    known = trace.layer_index.tolist()
    missing = sorted(set(layers) - set(known))
    if missing:
        raise UsageError(
            f"the trace has no layer {missing[0]}", f"it has {len(known)} from {min(known)} to {max(known)}"
        )
    keep = np.flatnonzero(np.isin(trace.layer_index, layers))
    return replace(
        trace,
        layer_index=trace.layer_index[keep],
        topk_ids=None if trace.topk_ids is None else trace.topk_ids[keep],
        topk_weights=None if trace.topk_weights is None else trace.topk_weights[keep],
        router_logits=None if trace.router_logits is None else trace.router_logits[keep],
        expert_counts=None if trace.expert_counts is None else np.ascontiguousarray(trace.expert_counts[:, keep]),
    )


def to_counts(trace: Trace) -> Trace:
    """The trace as counts alone, one step."""
    metadata = {key: value for key, value in trace.metadata.items() if key not in ("batching", "slot_order")}
    return Trace(
        n_experts=trace.n_experts,
        top_k=trace.top_k,
        layer_index=trace.layer_index,
        expert_counts=logical_counts(trace)[None],
        metadata={**metadata, "provenance": "counts-derived"},
    )


def _write(path: Path, data: bytes) -> None:
    with _creating(path) as file:
        file.write(data)


def _creating(path: Path) -> BinaryIO:
    try:
        return path.open("wb")
    except OSError as error:
        raise OpenError(f"cannot write {path}: {error.strerror}", "check the folder and its permissions") from error
