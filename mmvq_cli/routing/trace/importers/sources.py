"""The sources that can be imported, and which one a file looks like."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from mmvq_cli.errors import OpenError, UsageError
from mmvq_cli.routing.trace.assemble import ImportOptions, Progress
from mmvq_cli.routing.trace.importers.arrays import read_npz
from mmvq_cli.routing.trace.importers.eplb import read_eplb
from mmvq_cli.routing.trace.importers.files import ReadCounter
from mmvq_cli.routing.trace.importers.hf import read_router_logits
from mmvq_cli.routing.trace.importers.imatrix import read_imatrix
from mmvq_cli.routing.trace.importers.sglang import read_sglang
from mmvq_cli.routing.trace.importers.table import read_table
from mmvq_cli.routing.trace.importers.trtllm import read_trtllm
from mmvq_cli.routing.trace.importers.vllm import read_vllm
from mmvq_cli.routing.trace.trace import Trace


@dataclass(frozen=True, slots=True)
class Source:
    """One kind of recording: how it is read and what it is."""

    read: Callable[[Path, ImportOptions], Trace]
    title: str


SOURCES = {
    "vllm": Source(read_vllm, "vLLM responses with routed_experts (JSON, JSON lines), or their .npy / .npz"),
    "sglang": Source(read_sglang, "SGLang responses, or the .pt files of its expert distribution recorder"),
    "imatrix": Source(read_imatrix, "llama.cpp imatrix GGUF (counts)"),
    "hf-logits": Source(read_router_logits, "Hugging Face router logits, .npz or .pt"),
    "trtllm": Source(read_trtllm, "TensorRT-LLM expert statistics folder (counts)"),
    "npz": Source(read_npz, "topk_ids [tokens, layers, k] with request_offsets; what the recorder scripts write"),
    "table": Source(read_table, "CSV or JSON lines with a column map; JSON with router_data or one object a pass"),
    "eplb": Source(read_eplb, "table of expert load [layers, experts], .npy, .json or .pt (counts)"),
}


def import_trace(path: Path, source: str = "", options: ImportOptions | None = None) -> Trace:
    """Read a recording; the source is detected when it is not named.

    Raises `OpenError`, `ModelError` naming the place of what is wrong, `UsageError` for what only the user can know.
    """
    if not path.exists():
        raise OpenError(f"cannot open {path}: no such file or folder", "check the path")
    name = source or detect(path)
    if name not in SOURCES:
        raise UsageError(f"--from {name!r} is not a source", f"use one of {', '.join(SOURCES)}")
    options = options or ImportOptions()
    trace = SOURCES[name].read(path, options)
    noted = json.loads(trace.metadata.get("source", "{}"))
    noted |= {"file": path.name, **({"sha256": _digest(path, options.progress)} if path.is_file() else {})}
    return replace(trace, metadata={**trace.metadata, "source": json.dumps(noted, sort_keys=True)})


def detect(path: Path) -> str:
    """The source that a path looks like; raises `UsageError` when it could be several."""
    if path.is_dir():
        return "trtllm" if (path / "meta_info.json").is_file() else "sglang"
    try:
        with path.open("rb") as file:
            start = file.read(1 << 16)
    except OSError as error:
        raise OpenError(f"cannot open {path}: {error.strerror}", "check the path and its permissions") from error
    if start.startswith(b"GGUF") or path.suffix == ".dat":
        return "imatrix"
    if path.suffix == ".npz":
        return "hf-logits" if b"router_logits" in start else "npz"
    if path.suffix == ".npy":
        return "npz"
    if path.suffix == ".pt":
        return "sglang"
    if path.suffix == ".csv":
        return "table"
    if path.name == "meta_info.json":
        return "trtllm"
    if _STEPS.match(start):
        return "table"
    for mark, name in _MARKS:
        if mark in start:
            return name
    raise UsageError(f"{path}: cannot tell what recorded it", f"--from {', '.join(SOURCES)}")


# Words that tell JSON sources apart, most telling first.
_MARKS = (
    (b'"meta_info"', "sglang"),
    (b'"sglext"', "sglang"),
    (b'"logical_count"', "eplb"),
    (b"routed_experts", "vllm"),
    (b'"router_data"', "table"),
    (b'"layer', "table"),
    (b"[[", "eplb"),
)


_STEPS = re.compile(rb'\s*\[\s*\{\s*"[0-9]+"\s*:')  # a list of forward passes by layer


def _digest(path: Path, progress: Progress) -> str:
    digest, counter = hashlib.sha256(), ReadCounter(path, progress, "sha256")
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            digest.update(block)
            counter.add(len(block))
    return digest.hexdigest()
