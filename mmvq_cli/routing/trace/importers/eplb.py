"""Tables of expert load, as `.npy`, `.npz`, `.json` or `.pt`.

EPLB weights are [layers, experts], SGLang's `logical_count` may have steps before that, MoE-Infinity's has sequences.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from mmvq_cli.routing.trace.assemble import ImportOptions, Progress, counts_trace, source_note
from mmvq_cli.routing.trace.importers.files import damaged, read_arrays, read_documents
from mmvq_cli.routing.trace.torch_file import read_torch
from mmvq_cli.routing.trace.trace import Trace

_NAMES = ("logical_count", "weight", "expert_counts", "array")


def read_eplb(path: Path, options: ImportOptions) -> Trace:
    """Import a table [layers, experts] or [steps, layers, experts] of whole numbers or weights.

    Raises `OpenError` or `ModelError`.
    """
    value = _value(path, options.progress)
    if isinstance(value, dict):
        name = next((name for name in _NAMES if name in value), next(iter(value), ""))
        value = value.get(name)
    try:
        table = np.asarray(value)
    except (ValueError, OverflowError) as error:
        raise damaged(str(path), f"lists of unequal lengths: {str(error)[:100]}") from None
    if table.dtype.kind not in "iuf":
        raise damaged(str(path), f"{table.dtype} {list(table.shape)}, not a table of numbers")
    return counts_trace(table, options, str(path), metadata={"source": source_note("eplb table")})


def _value(path: Path, progress: Progress) -> Any:
    if path.suffix in (".npy", ".npz"):
        return read_arrays(path)
    if path.suffix == ".pt":
        return read_torch(path)
    values = [value for _, value in read_documents(path, progress)]
    return values[0] if len(values) == 1 and isinstance(values[0], dict) else values
