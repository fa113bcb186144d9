"""vLLM's routed experts, three generations: `[seq, layers, k]` arrays, nested lists, base64 of `.npy` bytes.

Ids are logical. About 0.14: int32 with all hidden layers; 0.21: MoE layers only, -1 for prefix-cached positions, the
prompt's apart; 0.33: uint8 or uint16 with all hidden layers, dense ones zero, and no row for the last sampled token.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmvq_cli.routing.trace.assemble import ImportOptions, Recorded, assemble, source_note
from mmvq_cli.routing.trace.importers.files import (
    damaged,
    decode_base64,
    integers,
    parse_npy,
    read_arrays,
    read_documents,
)
from mmvq_cli.routing.trace.trace import DECODE, PREFILL, Trace


def read_vllm(path: Path, options: ImportOptions) -> Trace:
    """Import responses (JSON, a list of them, or JSON lines), or one `.npy`, or an `.npz` of one array a request.

    Raises `OpenError`, `ModelError` or `UsageError`.
    """
    if path.suffix in (".npy", ".npz"):
        requests = [(name, _three(array, f"{path} {name}"), -1) for name, array in read_arrays(path).items()]
    else:
        requests = [
            request for where, value in read_documents(path, options.progress) for request in _requests(value, where)
        ]
    if not requests:
        raise damaged(str(path), "no response has routed_experts")
    return join_requests(requests, options, str(path), "vllm")


def join_requests(
    requests: list[tuple[str, NDArray[Any], int]], options: ImportOptions, where: str, tool: str
) -> Trace:
    """One trace of (place, ids [tokens, layers, k], prompt tokens or -1) per request."""
    _, first, _ = requests[0]
    for place, ids, _ in requests:
        if ids.shape[1:] != first.shape[1:]:
            raise damaged(place, f"layers x k is {ids.shape[1:]}, the first request has {first.shape[1:]}")
    phase = None
    if all(n_prompt >= 0 for _, _, n_prompt in requests):
        phase = np.concatenate(
            [
                np.where(np.arange(len(ids)) < n_prompt, PREFILL, DECODE).astype(np.uint8)
                for _, ids, n_prompt in requests
            ]
        )
    recorded = Recorded(
        ids=np.concatenate([ids.astype(np.int64) if ids.dtype == np.uint64 else ids for _, ids, _ in requests]),
        request_lengths=[len(ids) for _, ids, _ in requests],
        phase=phase,
        metadata={"source": source_note(tool, requests=len(requests)), "last_token": "not recorded"},
    )
    return assemble(recorded, options, where)


def _requests(value: Any, where: str) -> Iterator[tuple[str, NDArray[Any], int]]:
    if not isinstance(value, dict):
        raise damaged(where, "a response is a JSON object")
    choices = value.get("choices", [value])
    if not isinstance(choices, list):
        raise damaged(where, "choices is no list")
    prompt = value.get("prompt_routed_experts")
    usage = value.get("usage")
    for index, choice in enumerate(choices):
        place = f"{where} choices[{index}]"
        if not isinstance(choice, dict):
            raise damaged(place, "a choice is a JSON object")
        routed = choice.get("routed_experts")
        if routed is None:
            continue
        ids = _decode(routed, place)
        n_prompt = usage.get("prompt_tokens", -1) if isinstance(usage, dict) else -1
        if prompt is not None:
            before = _decode(prompt, f"{where} prompt_routed_experts")
            n_prompt = len(before)
            if before.size and ids.size and before.shape[1:] != ids.shape[1:]:
                raise damaged(place, f"layers x k is {ids.shape[1:]}, the prompt has {before.shape[1:]}")
            ids = np.concatenate([part for part in (before, ids) if part.size] or [ids])
        elif isinstance(usage, dict):
            _check_length(len(ids), usage, place)
        if ids.size:
            yield place, ids, n_prompt if isinstance(n_prompt, int) else -1


def _check_length(n_rows: int, usage: dict[str, Any], place: str) -> None:
    """The last sampled token is never forwarded: rows are tokens - 1, fewer when the prompt's start was left out."""
    total = usage.get("total_tokens")
    if isinstance(total, int) and n_rows > total:
        raise damaged(place, f"{n_rows} rows for {total} tokens")


def _decode(routed: Any, place: str) -> NDArray[Any]:
    if isinstance(routed, str):
        return _three(parse_npy(decode_base64(routed, place), place), place)
    return integers(routed, place, 3) if routed else np.empty((0, 0, 0), np.int16)


def _three(array: NDArray[Any], place: str) -> NDArray[Any]:
    if array.ndim != 3 or array.dtype.kind not in "iu":
        raise damaged(place, f"{array.dtype} {list(array.shape)}, not whole numbers [tokens, layers, k]")
    return array
