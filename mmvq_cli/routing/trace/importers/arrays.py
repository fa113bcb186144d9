"""Generic `.npz` and `.npy`: `topk_ids` [tokens, layers, k] with `request_offsets`, as recorder scripts write it.

Optional arrays: `topk_weights` like the ids, `layer_index` [layers], `phase` [tokens], `n_experts`. The names
`routed_experts` and `array` (a bare `.npy`) also stand for the ids.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmvq_cli.routing.trace.assemble import ImportOptions, Recorded, assemble, source_note
from mmvq_cli.routing.trace.importers.files import damaged, read_arrays
from mmvq_cli.routing.trace.trace import Trace

_IDS = ("topk_ids", "routed_experts", "array")


def read_npz(path: Path, options: ImportOptions) -> Trace:
    """Import the arrays.

    Raises `OpenError`, `ModelError` or `UsageError`.
    """
    arrays = read_arrays(path)
    name = next((name for name in _IDS if name in arrays), None)
    if name is None:
        raise damaged(str(path), f"no array is called {' or '.join(_IDS)}; it has {', '.join(arrays)[:200]}")
    ids = arrays[name]
    if ids.ndim != 3:
        raise damaged(str(path), f"{name} is {list(ids.shape)}, not [tokens, layers, k]")
    where = f"{path} {name}"
    n_tokens, n_layers = ids.shape[:2]
    offsets = _vector(arrays, "request_offsets", None, path)
    if offsets is not None and (len(offsets) < 2 or offsets[0] != 0):
        raise damaged(str(path), "request_offsets must run from 0 to the tokens")
    index = _vector(arrays, "layer_index", n_layers, path)
    phase = _vector(arrays, "phase", n_tokens, path)
    weights = arrays.get("topk_weights")
    if weights is not None and (weights.shape != ids.shape or weights.dtype.kind != "f"):
        raise damaged(str(path), f"topk_weights are {weights.dtype} {list(weights.shape)}, the ids {list(ids.shape)}")
    n_experts = arrays.get("n_experts")
    recorded = Recorded(
        ids=ids,
        request_lengths=None if offsets is None else np.diff(offsets.astype(np.int64)).tolist(),
        weights=weights,
        layer_index=None if index is None else index.astype(np.int32),
        phase=None if phase is None else phase.astype(np.uint8),
        n_experts=int(n_experts)
        if n_experts is not None and n_experts.size == 1 and n_experts.dtype.kind in "iu"
        else 0,
        metadata={"source": source_note("npz", array=name)},
    )
    return assemble(recorded, options, where)


def _vector(arrays: dict[str, NDArray[Any]], name: str, length: int | None, path: Path) -> NDArray[Any] | None:
    """An optional array of whole numbers in one dimension."""
    array = arrays.get(name)
    if array is None:
        return None
    if array.ndim != 1 or array.dtype.kind not in "iu" or (length is not None and len(array) != length):
        raise damaged(
            str(path), f"{name} is {array.dtype} {list(array.shape)}, not whole numbers [{length or 'n + 1'}]"
        )
    if array.size and not -1 <= int(array.min()) <= int(array.max()) < 2**62:
        raise damaged(str(path), f"{name} goes to {array.max()}")
    return array
