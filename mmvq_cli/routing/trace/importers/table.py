"""CSV and JSON lines with a column map; the JSON of expert fingerprints (`router_data`) and of forward passes.

Fields: request, layer, experts (ids of the slots), weights, phase (prefill, decode); or layer, expert, count. A cell of
ids is a JSON list or numbers between spaces, commas or semicolons; in JSON it may also hold one list per token. Rows of
a layer follow each other in token order; `token` need not be given.
"""

from __future__ import annotations

import csv
import re
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmvq_cli.errors import ModelError, OpenError, UsageError
from mmvq_cli.routing.trace.assemble import (
    ImportOptions,
    Progress,
    Recorded,
    assemble,
    counts_trace,
    source_note,
)
from mmvq_cli.routing.trace.importers.files import ReadCounter, damaged, read_documents
from mmvq_cli.routing.trace.trace import DECODE, PREFILL, UNKNOWN_PHASE, Trace

# Field -> the names that known loggers give it, besides its own.
_KNOWN = {
    "request": ("request", "req_id", "request_id", "batch_id", "Batch Number"),
    "layer": ("layer", "layer_id", "Layer ID"),
    "experts": ("experts", "topk_ids", "topk_experts", "top_indices", "Activated Expert IDs"),
    "weights": ("weights", "topk_weights"),
    "phase": ("phase",),
    "expert": ("expert", "expert_id"),
    "count": ("count", "counts"),
}
_PHASES = {"prefill": PREFILL, "decode": DECODE}
_MAX_CELLS = 1 << 27


def read_table(path: Path, options: ImportOptions) -> Trace:
    """Import the rows.

    Raises `OpenError`, `ModelError` naming the line, or `UsageError` for a column map that fits no row.
    """
    unknown = sorted(set(options.columns) - set(_KNOWN))
    if unknown:
        raise UsageError(f"--columns: there is no field {unknown[0]!r}", f"fields: {', '.join(_KNOWN)}")
    rows = (_csv_rows if path.suffix == ".csv" else _json_rows)(path, options.progress)
    layers: dict[int, _Layer] = {}
    histogram: dict[tuple[int, int], int] = {}
    columns: dict[str, str] = {}
    for where, row in rows:
        columns = columns if "layer" in columns and columns["layer"] in row else _find_columns(row, options)
        if "layer" not in columns:
            continue
        layer = _whole(row.get(columns["layer"]), where, "layer")
        if "experts" in columns:
            request = str(row.get(columns.get("request", ""), ""))
            slots, weights = row.get(columns["experts"]), row.get(columns.get("weights", ""))
            phase = _PHASES.get(str(row.get(columns.get("phase", ""), "")), UNKNOWN_PHASE)
            layers.setdefault(layer, _Layer()).add(request, slots, weights, phase, where)
        elif "expert" in columns and "count" in columns:
            expert = _whole(row.get(columns["expert"]), where, "expert")
            histogram[layer, expert] = histogram.get((layer, expert), 0) + _whole(
                row.get(columns["count"]), where, "count"
            )
    if histogram and not layers:
        return _counts(histogram, options, path)
    if not layers:
        raise UsageError(
            f"{path}: no row has the columns layer and experts", "--columns layer=NAME,experts=NAME,request=NAME"
        )
    return _trace(layers, options, path)


@dataclass(slots=True)
class _Layer:
    """What the rows of one layer hold, in their order."""

    ids: array[int] = field(default_factory=lambda: array("i"))
    weights: array[float] = field(default_factory=lambda: array("f"))
    requests: list[str] = field(default_factory=list)
    phases: bytearray = field(default_factory=bytearray)
    top_k: int = 0

    def add(self, request: str, slots: Any, weights: Any, phase: int, where: str) -> None:
        """Append one token, or several when the cell holds one list per token."""
        values = _cell(slots, where, int)
        rows = values if values and isinstance(values[0], list) else [values]
        for row in rows:
            if not isinstance(row, list) or not row or not all(type(n) is int and -1 <= n < 2**15 for n in row):
                raise damaged(where, f"experts are {str(row)[:80]}, not ids from 0 to 32767")
            self.top_k = self.top_k or len(row)
            if len(row) != self.top_k:
                raise damaged(where, f"{len(row)} experts, the rows before have {self.top_k}")
            self.ids.extend(row)
            self.requests.append(request)
            self.phases.append(phase)
        if weights not in (None, ""):
            flat = _cell(weights, where, float)
            flat = [w for row in flat for w in row] if flat and isinstance(flat[0], list) else flat
            if not all(isinstance(w, int | float) for w in flat) or len(flat) != len(rows) * self.top_k:
                raise damaged(where, "weights are not one number for each expert")
            try:
                self.weights.extend(float(w) for w in flat)
            except OverflowError:
                raise damaged(where, "a weight is too large") from None


def _trace(layers: dict[int, _Layer], options: ImportOptions, path: Path) -> Trace:
    index = sorted(layers)
    first = layers[index[0]]
    for number in index:
        layer = layers[number]
        if layer.top_k != first.top_k or len(layer.requests) != len(first.requests):
            seen = f"{len(layer.requests)} tokens of top-{layer.top_k}"
            raise damaged(
                str(path), f"layer {number} has {seen}, layer {index[0]} {len(first.requests)} of top-{first.top_k}"
            )
        if layer.requests != first.requests:
            raise damaged(str(path), f"layer {number} has its requests in another order than layer {index[0]}")
    # rows of several requests may be interleaved (decode steps): sort by request, each in its order
    numbers = {name: number for number, name in enumerate(dict.fromkeys(first.requests))}
    request = np.array([numbers[name] for name in first.requests])
    order = np.argsort(request, kind="stable")
    shape = (len(order), first.top_k)
    ids = np.stack([np.array(layers[n].ids, np.int32).reshape(shape)[order] for n in index], axis=1)
    weights: NDArray[Any] | None = None
    if all(len(layers[n].weights) == ids.shape[0] * first.top_k for n in index):
        weights = np.stack([np.array(layers[n].weights, np.float32).reshape(shape)[order] for n in index], axis=1)
    phase = np.frombuffer(first.phases, np.uint8)[order]
    recorded = Recorded(
        ids=ids,
        request_lengths=np.bincount(request).tolist(),
        weights=weights,
        phase=phase if (phase != UNKNOWN_PHASE).any() else None,
        layer_index=np.array(index, np.int32),
        metadata={"source": source_note("table")},
    )
    return assemble(recorded, options, str(path))


def _counts(histogram: dict[tuple[int, int], int], options: ImportOptions, path: Path) -> Trace:
    layers = sorted({layer for layer, _ in histogram})
    n_experts = options.n_experts or max(expert for _, expert in histogram) + 1
    if n_experts > 2**15 or len(layers) * n_experts > _MAX_CELLS:
        raise damaged(str(path), f"{len(layers)} layers of {n_experts} experts are too many")
    counts = np.zeros((len(layers), n_experts), np.int64)
    for (layer, expert), count in histogram.items():
        if expert >= n_experts or count > 2**52:
            raise damaged(str(path), f"expert {expert} of layer {layer} with count {count}: --experts is {n_experts}")
        counts[layers.index(layer), expert] = count
    notes = {"source": source_note("histogram table")}
    return counts_trace(counts, options, str(path), layer_index=np.array(layers, np.int32), metadata=notes)


def _find_columns(row: dict[str, Any], options: ImportOptions) -> dict[str, str]:
    known = {name: next((alias for alias in aliases if alias in row), "") for name, aliases in _KNOWN.items()}
    return {name: column for name, column in {**known, **options.columns}.items() if column}


def _csv_rows(path: Path, progress: Progress) -> Iterator[tuple[str, dict[str, Any]]]:
    try:
        with path.open(encoding="utf-8", newline="") as file:
            counter = ReadCounter(path, progress)
            reader = csv.DictReader(line for line in _counted(file, counter) if not line.startswith("#"))
            for number, row in enumerate(reader, 2):
                yield f"{path}:{number}", row
    except OSError as error:
        raise OpenError(f"cannot open {path}: {error.strerror}", "check the path and its permissions") from error
    except (csv.Error, UnicodeDecodeError) as error:
        raise ModelError(f"{path}: not a CSV: {error}", "the file is damaged, or --from names another source") from None


def _counted(lines: Iterable[str], counter: ReadCounter) -> Iterator[str]:
    for line in lines:
        counter.add(len(line))
        yield line


def _json_rows(path: Path, progress: Progress) -> Iterator[tuple[str, dict[str, Any]]]:
    for number, (where, value) in enumerate(read_documents(path, progress)):
        if not isinstance(value, dict):
            raise damaged(where, "a row is a JSON object")
        if isinstance(value.get("router_data"), list):
            yield from _fingerprint_rows(value["router_data"], where)
        elif value and all(key.isdecimal() for key in value):
            yield from _step_rows(value, "decode" if number else "prefill", where)
        else:
            yield where, value


def _step_rows(step: dict[str, Any], phase: str, where: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """One forward pass, `{"layer": null | [[ids] per token]}`, as rows; the first of a file is the prefill."""
    for layer, tokens in step.items():
        if tokens is not None:
            yield f"{where} layer {layer[:20]}", {"layer": layer, "experts": tokens, "phase": phase}


def _fingerprint_rows(data: list[Any], where: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """`[{"token_i": {"layer_l": {"selected_experts": [...], "selected_probs": [...]}}}]` as rows."""
    for index, entry in enumerate(data):
        for token in entry.values() if isinstance(entry, dict) else ():
            for name, choice in token.items() if isinstance(token, dict) else ():
                if isinstance(choice, dict):
                    yield (
                        f"{where} router_data[{index}].{str(name)[:20]}",
                        {
                            "layer": str(name).removeprefix("layer_"),
                            "experts": choice.get("selected_experts"),
                            "weights": choice.get("selected_probs"),
                        },
                    )


def _whole(value: Any, where: str, name: str) -> int:
    """A number from 0, as JSON or as text."""
    text = str(value).strip() if isinstance(value, str | int) and not isinstance(value, bool) else ""
    if not re.fullmatch(r"[0-9]{1,15}", text) or (name == "layer" and int(text) >= 4096):
        raise damaged(where, f"{name} is {str(value)[:40]!r}, not a number from 0")
    return int(text)


def _cell(value: Any, where: str, kind: type[int] | type[float]) -> list[Any]:
    if isinstance(value, list):
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return [value]
    if not isinstance(value, str):
        raise damaged(where, f"experts or weights are a {type(value).__name__}")
    parts = re.split(r"[\s,;|]+", value.strip().strip("[]() "))
    try:
        return [kind(part) for part in parts if part]
    except ValueError:
        raise damaged(where, f"{value[:60]!r} is no list of numbers") from None
