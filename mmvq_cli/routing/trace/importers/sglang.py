"""SGLang: routed experts of a request (base64 of raw int32), and the `.pt` files of its expert distribution recorder.

Recorder files: `stat` holds logical counts [steps, layers, experts]; `per_pass` and `per_token` hold one record per
forward pass and rank, with physical ids that `last_physical_to_logical_map` turns into logical ones. `per_token` always
has 8 slots, padded with -1, and a layer axis with the dense layers.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmvq_cli.errors import UsageError
from mmvq_cli.routing.trace.assemble import ImportOptions, Recorded, assemble, counts_trace, source_note
from mmvq_cli.routing.trace.container import map_ids
from mmvq_cli.routing.trace.importers.files import damaged, decode_base64, read_documents
from mmvq_cli.routing.trace.importers.vllm import join_requests
from mmvq_cli.routing.trace.torch_file import read_torch
from mmvq_cli.routing.trace.trace import Trace


def read_sglang(path: Path, options: ImportOptions) -> Trace:
    """Import a recorder's `.pt`, a folder with the `.pt` of every rank, or responses as JSON or JSON lines.

    Responses have no header: --top-k, and --num-layers where the token counts do not give it.
    Raises `OpenError`, `ModelError` or `UsageError`.
    """
    if path.is_dir():
        files = sorted(path.glob("*.pt"))
        if not files:
            raise damaged(str(path), "the folder has no .pt file")
        return _from_recorder([read_torch(file) for file in files], options, str(path))
    if path.suffix == ".pt":
        return _from_recorder([read_torch(path)], options, str(path))
    return _from_responses(path, options)


def _from_responses(path: Path, options: ImportOptions) -> Trace:
    if not options.top_k:
        raise UsageError(f"{path}: SGLang's responses do not say the top-k", "give --top-k, and --num-layers")
    requests = []
    for where, value in read_documents(path, options.progress):
        info = value.get("meta_info") if isinstance(value, dict) else None
        extra = value.get("sglext") if isinstance(value, dict) else None
        routed = _routing_in(info) or _routing_in(extra)
        if not routed:
            continue
        counts = info if isinstance(info, dict) else value.get("usage", {})
        requests.append((where, *_raw(decode_base64(routed, where), counts, options, where)))
    if not requests:
        raise damaged(str(path), "no response has meta_info.routed_experts or sglext.routed_experts")
    return join_requests(requests, options, str(path), "sglang")


def _routing_in(part: Any) -> str:
    routed = part.get("routed_experts") if isinstance(part, dict) else None
    return routed if isinstance(routed, str) else ""


def _raw(raw: bytes, counts: Any, options: ImportOptions, where: str) -> tuple[NDArray[Any], int]:
    """Ids [tokens, layers, k] of headerless int32, and the prompt's tokens (-1: not known)."""
    counts = counts if isinstance(counts, dict) else {}
    prompt, completion = counts.get("prompt_tokens"), counts.get("completion_tokens")
    n_layers = options.n_layers
    known = isinstance(prompt, int) and isinstance(completion, int)
    row_bytes = 4 * options.top_k
    if not n_layers and known:
        rows = prompt + completion - 1
        if rows < 1 or len(raw) % (row_bytes * rows):
            raise damaged(where, f"{len(raw)} bytes are not {rows} tokens of top-{options.top_k}; give --num-layers")
        n_layers = len(raw) // (row_bytes * rows)
    if not n_layers:
        raise UsageError(f"{where}: the number of layers is not known", "give --num-layers, all hidden layers")
    if not raw or len(raw) % (row_bytes * n_layers):
        raise damaged(where, f"{len(raw)} bytes are not int32 [tokens, {n_layers} layers, {options.top_k}]")
    return np.frombuffer(raw, "<i4").reshape(-1, n_layers, options.top_k), prompt if known else -1


def _from_recorder(dumps: list[Any], options: ImportOptions, where: str) -> Trace:
    if not all(isinstance(dump, dict) for dump in dumps):
        raise damaged(where, "not a dump of the expert distribution recorder")
    if "logical_count" in dumps[0]:
        counts = _array(dumps[0]["logical_count"], 3, where, "logical_count")
        return counts_trace(counts, options, where, metadata={"source": source_note("sglang", mode="stat")})
    records = [record for dump in dumps for record in _records(dump, where)]
    table = _array(dumps[0].get("last_physical_to_logical_map"), 2, where, "last_physical_to_logical_map")
    if "topk_ids_of_layer" in records[0]:
        return _per_token(records, table, options, where)
    return _per_pass(records, table, options, where)


def _records(dump: Any, where: str) -> list[dict[str, Any]]:
    records = dump.get("records") if isinstance(dump, dict) else None
    if not isinstance(records, list) or not records or not all(isinstance(record, dict) for record in records):
        raise damaged(where, "the dump has no records")
    return records


def _array(value: Any, dims: int, where: str, name: str) -> NDArray[Any]:
    if not isinstance(value, np.ndarray) or value.ndim != dims or value.dtype.kind not in "iu" or not value.size:
        seen = f"{value.dtype} {list(value.shape)}" if isinstance(value, np.ndarray) else type(value).__name__
        raise damaged(where, f"{name} is {seen}, not whole numbers in {dims} dimensions")
    return value


def _per_pass(records: list[dict[str, Any]], table: NDArray[Any], options: ImportOptions, where: str) -> Trace:
    """Sum the ranks of each pass, then the replicas of each logical expert."""
    passes: dict[int, NDArray[np.int64]] = {}
    for index, record in enumerate(records):
        name = f"records[{index}].global_physical_count"
        counts = _array(record.get("global_physical_count"), 2, where, name)
        number = record.get("forward_pass_id")
        if counts.shape != table.shape or not isinstance(number, int):
            raise damaged(where, f"{name} is {list(counts.shape)}, the physical-to-logical map {list(table.shape)}")
        passes[number] = passes[number] + counts if number in passes else counts.astype(np.int64)
    n_experts = options.n_experts or int(table.max()) + 1
    if table.min() < 0 or not table.max() < n_experts <= 2**15:
        raise damaged(where, f"the physical-to-logical map goes to expert {table.max()}")
    logical = np.zeros((len(passes), table.shape[0], n_experts), np.int64)
    for step, counts in enumerate(passes[number] for number in sorted(passes)):
        for layer, experts in enumerate(table):
            np.add.at(logical[step, layer], experts, counts[layer])
    return counts_trace(logical, options, where, metadata={"source": source_note("sglang", mode="per_pass")})


def _per_token(records: list[dict[str, Any]], table: NDArray[Any], options: ImportOptions, where: str) -> Trace:
    """Tokens of every pass in order; ids become logical."""
    steps: list[NDArray[np.int16]] = []
    records = sorted(records, key=lambda record: (_pass_of(record, where), str(record.get("rank"))))
    for index, record in enumerate(records):
        ids = _array(record.get("topk_ids_of_layer"), 3, where, f"records[{index}].topk_ids_of_layer")
        if ids.shape[0] != table.shape[0] or ids.shape[2] != steps[0].shape[2] if steps else False:
            raise damaged(where, f"records[{index}].topk_ids_of_layer is {list(ids.shape)}")
        steps.append(map_ids(ids, table, where))
    passes = [_pass_of(record, where) for record in records]
    lengths: dict[int, int] = {}
    for number, ids in zip(passes, steps, strict=True):
        lengths[number] = lengths.get(number, 0) + ids.shape[1]
    recorded = Recorded(
        ids=np.concatenate([ids.transpose(1, 0, 2) for ids in steps]),
        step_lengths=list(lengths.values()),
        n_experts=int(table.max()) + 1,
        metadata={"source": source_note("sglang", mode="per_token"), "recorded_id_space": "physical"},
    )
    return assemble(recorded, options, where)


def _pass_of(record: dict[str, Any], where: str) -> int:
    number = record.get("forward_pass_id")
    if not isinstance(number, int):
        raise damaged(where, f"forward_pass_id is a {type(number).__name__}")
    return number
