"""llama.cpp's imatrix GGUF: how often each expert was used, per layer.

`<weight>.counts` of `blk.N.ffn_{gate,up,down,gate_up}_exps.weight` is float32 [1, experts]; the counts of the
tensors of a layer agree. A dense tensor has one count, the tokens, so their sum over experts is top-k times it. The
older `.dat` holds one call count per tensor: nothing about experts is left in it.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmvq_cli.errors import Unsupported
from mmvq_cli.model import Header, TensorInfo, read_header
from mmvq_cli.routing.trace.assemble import ImportOptions, counts_trace, source_note
from mmvq_cli.routing.trace.importers.files import damaged
from mmvq_cli.routing.trace.trace import Trace

_EXPERTS = re.compile(r"blk\.(\d{1,4})\.ffn_(?:gate|up|down|gate_up)_exps\.weight\.counts")
_F32 = 0


def read_imatrix(path: Path, options: ImportOptions) -> Trace:
    """Import the counts; top-k comes from the dense tensors' token count.

    Raises `OpenError`, `ModelError`, and `Unsupported` for the older `.dat` form.
    """
    if path.suffix == ".dat":
        raise Unsupported(f"{path} is a .dat imatrix, which has no count per expert", "write it again as GGUF")
    header = read_header(path)
    if header.metadata.get("general.type") != "imatrix":
        raise damaged(str(path), f"general.type is {header.metadata.get('general.type')!r}, not 'imatrix'")
    layers: dict[int, NDArray[Any]] = {}
    dense = 0.0
    for tensor in header.tensors:
        match = _EXPERTS.fullmatch(tensor.name)
        if match:
            counts, layer = _read(path, header, tensor), int(match[1])
            if layer in layers and not np.array_equal(layers[layer], counts):
                raise damaged(str(path), f"{tensor.name} differs from the other tensors of its layer")
            layers[layer] = counts
        elif tensor.name.endswith(".counts") and tensor.ne[-1] == 1:
            dense = max(dense, float(_read(path, header, tensor)[0]))
    if not layers:
        raise damaged(str(path), "no tensor has counts per expert")
    if len({len(counts) for counts in layers.values()}) > 1:
        raise damaged(str(path), "layers have different numbers of experts")
    index = np.array(sorted(layers), np.int32)
    table = np.stack([layers[int(layer)] for layer in index])
    notes = {"source": source_note("llama.cpp imatrix", datasets=_datasets(header)), "tokens": str(int(dense))}
    return counts_trace(table, options, str(path), top_k=_top_k(table, dense, path), layer_index=index, metadata=notes)


def _top_k(table: NDArray[Any], tokens: float, path: Path) -> int:
    """Dispatches over tokens; 0 where no dense tensor tells the tokens."""
    if not tokens:
        return 0
    ratios = table.sum(axis=1, dtype=np.float64) / tokens
    top_k = round(float(ratios.max()))
    exact = table.max() < 2**24
    if exact and (not np.isfinite(ratios).all() or top_k < 1 or np.abs(ratios - top_k).max() > 0.01):
        layer = int(np.abs(ratios - top_k).argmax())
        raise damaged(str(path), f"counts of the expert layer {layer} sum to {ratios[layer]:.3f} x the tokens")
    return min(top_k, len(table[0]))


def _read(path: Path, header: Header, tensor: TensorInfo) -> NDArray[Any]:
    if tensor.type_id != _F32 or tensor.ne[0] != 1 or len(tensor.ne) > 2 or tensor.ne[-1] > 2**15:
        raise damaged(str(path), f"{tensor.name} is no F32 [1, experts]")
    values = np.fromfile(path, "<f4", tensor.n_bytes // 4, offset=header.data_offset + tensor.offset)
    if len(values) * 4 != tensor.n_bytes or not np.isfinite(values).all() or values.min() < 0:
        raise damaged(str(path), f"{tensor.name} holds what is no count")
    return values


def _datasets(header: Header) -> list[str]:
    names = header.metadata.get("imatrix.datasets", ())
    return [str(name) for name in names] if isinstance(names, tuple) else []
