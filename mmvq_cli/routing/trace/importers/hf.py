"""Router logits of Hugging Face models: one [tokens, experts] array per sparse layer, before any softmax.

The top-k of the logits is the selection for softmax routers. DeepSeek-V3's sigmoid router adds a bias and limits the
groups: such a file must hold `e_score_correction_bias`, `n_group` and `topk_group`, or it is refused. Padding tokens
are in the logits; `attention_mask` drops them.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmvq_cli.errors import UsageError
from mmvq_cli.routing.trace.assemble import ImportOptions, Recorded, assemble, source_note
from mmvq_cli.routing.trace.importers.files import damaged, read_arrays
from mmvq_cli.routing.trace.torch_file import read_torch
from mmvq_cli.routing.trace.trace import Trace

_SIGMOID_MODELS = re.compile("deepseek|kimi|glm4|sigmoid", re.IGNORECASE)


def read_router_logits(path: Path, options: ImportOptions) -> Trace:
    """Import `.npz` (`router_logits` [layers, tokens, experts], or one array a layer) or `.pt` (a list of tensors).

    Needs --top-k. Raises `OpenError`, `ModelError` or `UsageError`.
    """
    if options.top_k < 1:
        raise UsageError(f"{path}: logits do not say the top-k", "give --top-k")
    arrays = _arrays(path)
    layers = _layers(arrays, path)
    n_tokens, n_experts = layers[0].shape
    if options.top_k > n_experts:
        raise UsageError(f"{path}: --top-k {options.top_k} with {n_experts} experts", "give the model's top-k")
    keep = _kept_tokens(arrays, n_tokens, path)
    model = options.model_id + str(arrays.get("score_func", "")) + str(arrays.get("model_type", ""))
    bias = arrays.get("e_score_correction_bias")
    if bias is None and _SIGMOID_MODELS.search(model):
        raise UsageError(
            f"{path}: the top-k of this model's logits is not what its router selects",
            "add e_score_correction_bias [layers, experts], n_group and topk_group, or record ids: "
            "mmvq trace record-script hf",
        )
    chosen = []
    for index, logits in enumerate(layers):
        scores = logits[keep].astype(np.float32)
        if not np.isfinite(scores).all():
            raise damaged(str(path), f"router_logits[{index}] holds what is not finite")
        chosen.append(_select(scores if bias is None else _biased(scores, bias, index, arrays, path), options.top_k))
    recorded = Recorded(
        ids=np.stack(chosen, axis=1),
        n_experts=n_experts,
        slot_order="rank",
        metadata={"source": source_note("hf router_logits"), "dropped_padding_tokens": str(int(n_tokens - keep.sum()))},
    )
    return assemble(recorded, options, str(path))


def _arrays(path: Path) -> dict[str, Any]:
    if path.suffix != ".pt":
        return dict(read_arrays(path))
    value = read_torch(path)
    if isinstance(value, list | tuple):
        return {f"layer_{index}": array for index, array in enumerate(value)}
    if isinstance(value, dict):
        return {str(key): item for key, item in value.items()}
    return {"router_logits": value}


def _layers(arrays: dict[str, Any], path: Path) -> list[NDArray[Any]]:
    stacked = arrays.get("router_logits")
    if isinstance(stacked, list | tuple):
        layers = list(stacked)
    elif isinstance(stacked, np.ndarray):
        layers = list(stacked) if stacked.ndim == 3 else [stacked]
    else:
        names = [name for name in arrays if re.fullmatch(r"(?:layer_|arr_)\d{1,4}", name)]
        layers = [arrays[name] for name in sorted(names, key=lambda name: int(name.rpartition("_")[2]))]
    if not layers:
        raise damaged(str(path), "no array is called router_logits or layer_0")
    for index, layer in enumerate(layers):
        if not isinstance(layer, np.ndarray) or layer.dtype.kind != "f" or layer.ndim != 2 or not layer.size:
            raise damaged(str(path), f"the logits of layer {index} are no floating-point [tokens, experts]")
        if layer.shape != layers[0].shape:
            raise damaged(str(path), f"the logits of layer {index} are {layer.shape}, of layer 0 {layers[0].shape}")
    return layers


def _kept_tokens(arrays: dict[str, Any], n_tokens: int, path: Path) -> NDArray[np.bool_]:
    mask = arrays.get("attention_mask")
    if mask is None:
        return np.ones(n_tokens, bool)
    if not isinstance(mask, np.ndarray) or mask.size != n_tokens or mask.dtype.kind not in "iub":
        raise damaged(str(path), f"attention_mask does not have one entry for each of the {n_tokens} tokens")
    kept: NDArray[np.bool_] = mask.reshape(-1) != 0
    return kept


def _biased(
    logits: NDArray[np.float32], bias: Any, layer: int, arrays: dict[str, Any], path: Path
) -> NDArray[np.float32]:
    """DeepSeek-V3's choice scores: sigmoid + bias, and -inf outside the groups whose two best scores sum highest."""
    n_tokens, n_experts = logits.shape
    n_group, topk_group = _whole(arrays, "n_group", path), _whole(arrays, "topk_group", path)
    if not isinstance(bias, np.ndarray) or bias.ndim != 2 or bias.shape[0] <= layer or bias.shape[1] != n_experts:
        raise damaged(str(path), "e_score_correction_bias is no [layers, experts]")
    if n_experts % n_group or not 1 <= topk_group <= n_group:
        raise damaged(str(path), f"{n_experts} experts in {n_group} groups, {topk_group} of them chosen")
    scores: NDArray[np.float32] = (1 / (1 + np.exp(-np.clip(logits, -80, 80))) + bias[layer]).astype(np.float32)
    groups = scores.reshape(n_tokens, n_group, -1)
    best = np.sort(groups, axis=2)[:, :, -2:].sum(axis=2)
    closed = np.argsort(-best, axis=1, kind="stable")[:, topk_group:]
    np.put_along_axis(groups, closed[:, :, None], -np.inf, axis=1)
    return groups.reshape(n_tokens, n_experts)


def _whole(arrays: dict[str, Any], name: str, path: Path) -> int:
    value = arrays.get(name)
    array = np.asarray(value) if isinstance(value, np.ndarray | int) else np.empty(0)
    if array.size != 1 or array.dtype.kind not in "iu" or not 1 <= int(array.reshape(-1)[0]) <= 2**15:
        raise damaged(str(path), f"{name} is missing or no whole number")
    return int(array.reshape(-1)[0])


def _select(scores: NDArray[np.float32], top_k: int) -> NDArray[np.int16]:
    """The experts of the highest scores, highest first; the lower id wins a tie."""
    return np.argsort(-scores, axis=1, kind="stable")[:, :top_k].astype(np.int16)
