"""`*.moetrace.safetensors`: the neutral file of a trace, written whole and read memory-mapped.

The layout is safetensors': 8 bytes of little-endian header length, a JSON header, raw arrays. The safetensors package
checks that header (lengths, bounds, overlaps); the arrays are then mapped, never copied, and nothing is executed.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmvq_cli.errors import ModelError, OpenError
from mmvq_cli.routing.trace.trace import Progress, Trace, silent

SUFFIX = ".moetrace.safetensors"
_FORMAT, _VERSION = "moe-routing-trace", "1"
_HINT = "the file is damaged or not a trace: `mmvq trace import` makes one, docs/traces.md has the rules"
_MAX_HEADER_BYTES = 1 << 24
_DTYPES = {
    "I16": "<i2",
    "I32": "<i4",
    "I64": "<i8",
    "U8": "|u1",
    "F16": "<f2",
    "F32": "<f4",
    "BF16": "<u2",
}
# Array -> the types that it may have.
_ARRAYS = {
    "topk_ids": ("I16",),
    "expert_counts": ("I64",),
    "topk_weights": ("F16", "F32"),
    "router_logits": ("BF16", "F32"),
    "layer_index": ("I32",),
    "request_offsets": ("I64",),
    "step_offsets": ("I64",),
    "request_id": ("I32",),
    "phase": ("U8",),
    "token_ids": ("I32",),
    "positions": ("I32",),
}


def write_trace(trace: Trace, path: Path) -> None:
    """Write the trace; the same trace gives the same bytes.

    Raises `OpenError` when the file cannot be written, `ModelError` for a trace that breaks the rules.
    """
    trace.validate(str(path))
    arrays = {name: getattr(trace, name) for name in _ARRAYS if getattr(trace, name) is not None}
    header: dict[str, Any] = {"__metadata__": dict(sorted(_written_metadata(trace).items()))}
    end = 0
    # safetensors wants wider types first, for alignment
    order = sorted(arrays, key=lambda name: (-arrays[name].dtype.itemsize, name))
    for name in order:
        array = arrays[name]
        header[name] = {"dtype": _type_of(name, array), "shape": list(array.shape)}
        header[name]["data_offsets"] = [end, end + array.nbytes]
        end += array.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    draft = path.with_name(path.name + ".part")
    try:
        with draft.open("wb") as file:
            file.write(len(text).to_bytes(8, "little") + text)
            for name in order:
                _write_array(file, arrays[name])
        draft.replace(path)
    except OSError as error:
        draft.unlink(missing_ok=True)
        raise OpenError(f"cannot write {path}: {error.strerror}", "check the folder and its permissions") from error


def read_trace(path: Path, progress: Progress = silent) -> Trace:
    """Map a trace file and check it whole.

    Raises `OpenError` when it cannot be opened, `ModelError` naming the array and place for what breaks the rules.
    """
    header, start = _read_header(path)
    metadata = header.pop("__metadata__", {})
    if metadata.get("format") != _FORMAT or metadata.get("format_version") != _VERSION:
        seen = f"format {metadata.get('format')!r} version {metadata.get('format_version')!r}"
        raise ModelError(f"{path}: {seen}, this reads {_FORMAT!r} version {_VERSION!r}", _HINT)
    arrays = {name: _map(path, name, entry, start) for name, entry in header.items() if name in _ARRAYS}
    if "layer_index" not in arrays:
        raise ModelError(f"{path}: layer_index is missing", _HINT)
    trace = Trace(
        n_experts=_number(path, metadata, "num_experts"),
        top_k=_number(path, metadata, "top_k"),
        metadata=metadata,
        **arrays,
    )
    if metadata.get("expert_id_space", "logical") == "physical":
        trace = _to_logical(path, trace, header, start)
    if metadata.get("kind", trace.kind) != trace.kind:
        raise ModelError(f"{path}: metadata says kind {metadata['kind']!r}, the arrays are {trace.kind}", _HINT)
    trace.validate(str(path), progress)
    return trace


@lru_cache(maxsize=4)
def _open_cached(path: str, size: int, modified_ns: int) -> tuple[Trace, str]:
    digest = hashlib.sha256()
    with Path(path).open("rb") as file:
        while block := file.read(1 << 22):
            digest.update(block)
    return read_trace(Path(path)), digest.hexdigest()


def open_trace(path: Path) -> tuple[Trace, str]:
    """Read a trace and the SHA-256 of its file; kept while the file stays as it is. Raises like `read_trace`."""
    try:
        state = path.stat()
        return _open_cached(str(path), state.st_size, state.st_mtime_ns)
    except OSError as error:
        raise OpenError(f"cannot open {path}: {error.strerror}", "check the path and its permissions") from error


def convert(trace: Trace, **metadata: str) -> Trace:
    """The same trace with these metadata entries set."""
    return replace(trace, metadata={**trace.metadata, **metadata})


def _written_metadata(trace: Trace) -> dict[str, str]:
    return {
        "expert_id_space": "logical",
        **trace.metadata,
        "format": _FORMAT,
        "format_version": _VERSION,
        "kind": trace.kind,
        "num_experts": str(trace.n_experts),
        "top_k": str(trace.top_k),
        "num_layers": str(trace.n_layers),
        "batching": trace.batching,
    }


def _type_of(name: str, array: NDArray[Any]) -> str:
    for code in _ARRAYS[name]:
        if np.dtype(_DTYPES[code]) == array.dtype:
            return code
    raise ModelError(f"{name} is {array.dtype}, it must be {' or '.join(_ARRAYS[name])}", "convert it before writing")


def _write_array(file: Any, array: NDArray[Any]) -> None:
    rows = max(1, (1 << 24) // max(1, array[:1].nbytes))
    for start in range(0, len(array), rows):
        file.write(np.ascontiguousarray(array[start : start + rows]).data.cast("B") if array.size else b"")


def _read_header(path: Path) -> tuple[dict[str, Any], int]:
    """The checked header as a dict, and the offset of the data."""
    from safetensors import SafetensorError, safe_open

    try:
        if not path.is_file():
            raise OpenError(f"cannot open {path}: it is not a file", f"give the path of a *{SUFFIX} file")
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            length = int.from_bytes(file.read(8), "little")
            if length > min(_MAX_HEADER_BYTES, size - 8):
                raise ModelError(f"{path}: the header says it has {length} bytes, the file has {size}", _HINT)
            text = file.read(length)
        with safe_open(path, framework="np"):
            pass
        header = json.loads(text)
    except OSError as error:
        raise OpenError(f"cannot open {path}: {error.strerror}", "check the path and its permissions") from error
    except (SafetensorError, ValueError, RecursionError) as error:
        raise ModelError(f"{path}: not a safetensors file: {error}", _HINT) from None
    return header, 8 + length


def _map(path: Path, name: str, entry: dict[str, Any], start: int) -> NDArray[Any]:
    types = _ARRAYS.get(name, ("I32",))
    if entry["dtype"] not in types:
        raise ModelError(f"{path}: {name} is {entry['dtype']}, it must be {' or '.join(types)}", _HINT)
    begin, end = entry["data_offsets"]
    dtype = np.dtype(_DTYPES[entry["dtype"]])
    if begin == end:
        return np.zeros(entry["shape"], dtype)
    return np.memmap(path, dtype, "r", start + begin, tuple(entry["shape"]))


def _number(path: Path, metadata: dict[str, str], key: str) -> int:
    text = metadata.get(key, "")
    if not text.isdecimal() or len(text) > 6:
        raise ModelError(f"{path}: metadata {key} is {text!r}, it must be a number", _HINT)
    return int(text)


def _to_logical(path: Path, trace: Trace, header: dict[str, Any], start: int) -> Trace:
    """Apply `physical_to_logical` int32 [layers, physical experts] to the ids."""
    entry = header.get("physical_to_logical")
    if entry is None or trace.topk_ids is None:
        raise ModelError(f"{path}: ids are physical, but physical_to_logical is missing", _HINT)
    table = _map(path, "physical_to_logical", entry, start)
    metadata = {**trace.metadata, "expert_id_space": "logical", "recorded_id_space": "physical"}
    return replace(trace, topk_ids=map_ids(trace.topk_ids, table, str(path)), metadata=metadata)


def map_ids(ids: NDArray[Any], table: NDArray[Any], where: str) -> NDArray[np.int16]:
    """Replace physical by logical ids [layers, tokens, top_k] with table [layers, physical]; -1 stays.

    Raises `ModelError` for an id beyond the table.
    """
    if table.ndim != 2 or table.shape[0] != ids.shape[0] or table.shape[1] < 1:
        raise ModelError(
            f"{where}: the physical-to-logical table is {list(table.shape)}, not [layers, physical]", _HINT
        )
    if ids.size and (ids.max() >= table.shape[1] or ids.min() < -1):
        raise ModelError(f"{where}: a physical id is {ids.max()}, the table has {table.shape[1]} experts", _HINT)
    if table.size and (table.max() >= 2**15 or table.min() < -1):
        raise ModelError(f"{where}: the physical-to-logical table goes to expert {table.max()}", _HINT)
    mapped = np.empty(ids.shape, np.int16)
    for layer, layer_ids in enumerate(ids):
        mapped[layer] = np.append(table[layer], -1).astype(np.int16)[layer_ids.astype(np.int64)]
    return mapped
