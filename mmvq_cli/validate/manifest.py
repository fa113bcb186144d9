"""Manifests: a sha256 for every tensor and every expert, to verify a download and to name what differs."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmvq_cli.errors import ModelError, OpenError
from mmvq_cli.model import ExpertTensor, Tensor
from mmvq_cli.validate.findings import Findings, Place
from mmvq_cli.validate.layers import as_matrix

Progress = Callable[[int], None]
_VERSION = 1
_PIECE_BYTES = 4 * 2**20
_MOST_BYTES = 256 * 2**20
_HINT = "write one with `mmvq validate MODEL.gguf --write-manifest FILE`"


@dataclass(frozen=True, slots=True)
class Entry:
    """One tensor of a manifest: hex sha256 of all its bytes, and of each expert where it has experts."""

    type: str
    ne: tuple[int, ...]
    sha256: str
    experts: tuple[str, ...] = ()


def hash_tensors(
    tensors: tuple[Tensor, ...], experts: tuple[ExpertTensor, ...], progress: Progress
) -> dict[str, Entry]:
    """Hash all tensors, on all cores. Raises `OpenError` when a file cannot be read."""
    stacks = {stack.name: stack.n_experts for stack in experts}

    def entry(tensor: Tensor) -> Entry:
        return _hash(tensor, stacks.get(tensor.name, 0))

    pool = ThreadPoolExecutor(os.cpu_count() or 1)
    try:
        found = {}
        for tensor, result in zip(tensors, pool.map(entry, tensors), strict=True):
            found[tensor.name] = result
            progress(tensor.n_bytes)
        return found
    finally:
        pool.shutdown(cancel_futures=True)


def _hash(tensor: Tensor, n_experts: int) -> Entry:
    matrix, buffer = as_matrix(tensor), np.empty(min(_PIECE_BYTES, tensor.n_bytes), np.uint8)
    whole, experts = hashlib.sha256(), []
    if not n_experts:
        for piece in _pieces(matrix, 0, tensor.n_bytes, buffer):
            whole.update(piece)
    with ThreadPoolExecutor(1) as beside:  # the tensor's hash and the expert's of the same bytes, at once
        for expert in range(n_experts):
            own, expert_bytes = hashlib.sha256(), tensor.n_bytes // n_experts
            for piece in _pieces(matrix, expert * expert_bytes, expert_bytes, buffer):
                done = beside.submit(whole.update, piece)
                own.update(piece)
                done.result()
            experts.append(own.hexdigest())
    return Entry(tensor.format_name, tensor.ne, whole.hexdigest(), tuple(experts))


def _pieces(matrix: ExpertTensor, start: int, n_bytes: int, buffer: NDArray[np.uint8]) -> Iterator[memoryview]:
    """Read `n_bytes` from `start` on; a piece is valid until the next one."""
    for offset in range(0, n_bytes, _PIECE_BYTES):
        piece = buffer[: min(_PIECE_BYTES, n_bytes - offset)].data
        matrix.read_into(start + offset, piece)
        yield piece


def write_manifest(path: Path, entries: Mapping[str, Entry]) -> None:
    """Write a manifest, whole or not at all. Raises `OpenError` when `path` cannot be written."""
    tensors = {
        name: {"type": entry.type, "ne": entry.ne, "sha256": entry.sha256, "experts": entry.experts}
        for name, entry in entries.items()
    }
    draft = path.with_name(f"{path.name}.part")
    try:
        draft.write_text(json.dumps({"manifest_version": _VERSION, "tensors": tensors}, indent=1) + "\n")
        draft.replace(path)
    except OSError as error:
        raise OpenError(f"cannot write {path}: {error.strerror}", "check the folder and its permissions") from error


def read_manifest(path: Path) -> dict[str, Entry]:
    """Read a manifest. Raises `OpenError` when it cannot be read, `ModelError` when it is no manifest."""
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise ModelError(f"{path} has more than {_MOST_BYTES} bytes, no manifest is that long", _HINT)
        document = json.loads(path.read_text())
        if document["manifest_version"] != _VERSION:
            raise ModelError(f"{path} has manifest_version {document['manifest_version']}, 1 is read", _HINT)
        return {name: _entry(row) for name, row in document["tensors"].items()}
    except OSError as error:
        raise OpenError(f"cannot read {path}: {error.strerror}", "check the path and its permissions") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ModelError(f"{path} is not a manifest: {type(error).__name__}: {error}", _HINT) from error


def _entry(row: Any) -> Entry:
    return Entry(str(row["type"]), tuple(map(int, row["ne"])), str(row["sha256"]), tuple(map(str, row["experts"])))


def compare_with_manifest(
    tensors: tuple[Tensor, ...], seen: Mapping[str, Entry], expected: Mapping[str, Entry], findings: Findings
) -> None:
    """Report tensors that are missing, extra or changed, and where changed bytes belong if the manifest knows them."""
    owners: dict[str, str] = {}
    for name, entry in expected.items():
        owners.setdefault(entry.sha256, name)
        for expert, digest in enumerate(entry.experts):
            owners.setdefault(digest, f"expert {expert} of {name}")
    places = {tensor.name: Place(tensor.extent.path, tensor.extent.offset, tensor.name) for tensor in tensors}
    first = tensors[0].extent.path if tensors else Path()
    for name, entry in expected.items():
        if name not in seen:
            findings.add("manifest.missing", "is in the manifest, but not in the model", Place(first, tensor=name))
        elif (entry.type, entry.ne) != (seen[name].type, seen[name].ne):
            message = f"is {seen[name].type} {list(seen[name].ne)}, in the manifest {entry.type} {list(entry.ne)}"
            findings.add("manifest.missing", message, places[name])
        elif entry.sha256 != seen[name].sha256:
            _report_change(places[name], seen[name], entry, owners, findings)
    for name in seen.keys() - expected.keys():
        findings.add("manifest.extra", "is not in the manifest", places[name])


def _report_change(place: Place, seen: Entry, expected: Entry, owners: Mapping[str, str], findings: Findings) -> None:
    if seen.sha256 in owners or not expected.experts:
        findings.add("manifest.changed", f"its bytes are {_owner(seen.sha256, owners)}", place, seen.sha256)
        return
    for expert, (now, then) in enumerate(zip(seen.experts, expected.experts, strict=False)):
        if now != then:
            where = Place(place.file, place.offset, place.tensor, expert)
            findings.add("manifest.changed", f"its bytes are {_owner(now, owners)}", where, now)


def _owner(digest: str, owners: Mapping[str, str]) -> str:
    return f"those that the manifest has as {owners[digest]}" if digest in owners else "not those of the manifest"
