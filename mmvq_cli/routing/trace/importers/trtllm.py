"""TensorRT-LLM's expert statistics folder: `meta_info.json` and one `rank<r>.safetensors` per rank.

Keys of the arrays are `<iteration>_<layer>`, int64 [experts] counts; the ranks of an iteration are summed.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np

from mmvq_cli.errors import OpenError
from mmvq_cli.routing.trace.assemble import ImportOptions, counts_trace, source_note
from mmvq_cli.routing.trace.importers.files import damaged
from mmvq_cli.routing.trace.trace import Trace

_MAX_CELLS = 1 << 27


def read_trtllm(path: Path, options: ImportOptions) -> Trace:
    """Import the folder (or its `meta_info.json`).

    Raises `OpenError` or `ModelError`.
    """
    from safetensors import SafetensorError, safe_open

    folder = path if path.is_dir() else path.parent
    n_experts, top_k = _meta(folder / "meta_info.json")
    ranks = sorted(folder.glob("rank*.safetensors"))
    if not ranks:
        raise damaged(str(folder), "no rank<r>.safetensors is there")
    sums: dict[tuple[int, int], np.ndarray[tuple[int, ...], np.dtype[np.int64]]] = {}
    for file in ranks:
        try:
            with safe_open(file, framework="np") as arrays:
                for key in arrays.keys():  # noqa: SIM118 - no mapping
                    match = re.fullmatch(r"(\d{1,9})_(\d{1,4})", key)
                    counts = arrays.get_tensor(key) if match else None
                    if match is None or counts is None or counts.shape != (n_experts,) or counts.dtype.kind not in "iu":
                        raise damaged(f"{file} {key}", f"not <iteration>_<layer> with {n_experts} whole numbers")
                    place = int(match[1]), int(match[2])
                    sums[place] = sums.get(place, 0) + counts.astype(np.int64)
        except (SafetensorError, OSError, TypeError, KeyError) as error:
            raise damaged(str(file), f"not a safetensors file: {error}") from None
    if not sums:
        raise damaged(str(folder), "the ranks hold no counts")
    steps = {step: row for row, step in enumerate(sorted({step for step, _ in sums}))}
    layers = {layer: row for row, layer in enumerate(sorted({layer for _, layer in sums}))}
    if len(steps) * len(layers) * n_experts > _MAX_CELLS:
        raise damaged(str(folder), f"{len(steps)} iterations of {len(layers)} layers are too many")
    counts = np.zeros((len(steps), len(layers), n_experts), np.int64)
    for (step, layer), values in sums.items():
        counts[steps[step], layers[layer]] = values
    index = np.array(list(layers), np.int32)
    notes = {"source": source_note("tensorrt-llm", ranks=len(ranks))}
    return counts_trace(counts, options, str(folder), top_k=top_k, layer_index=index, metadata=notes)


def _meta(path: Path) -> tuple[int, int]:
    try:
        meta = json.loads(path.read_text(encoding="utf-8"))
        n_experts, top_k = meta["num_experts"], meta["num_experts_per_token"]
    except OSError as error:
        raise OpenError(f"cannot open {path}: {error.strerror}", "give the folder of EXPERT_STATISTIC_PATH") from error
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise damaged(str(path), f"no num_experts and num_experts_per_token: {str(error)[:100]}") from None
    if not all(isinstance(n, int) and 1 <= n <= 2**15 for n in (n_experts, top_k)):
        raise damaged(str(path), "num_experts and num_experts_per_token must be from 1 to 32768")
    return n_experts, top_k
