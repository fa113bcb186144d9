"""The oracle on the host: gguf-py's dequantizer, then a float64 product. Plain, never made fast.

gguf-py takes minutes for a large case, so those are decoded by the fastest dequantizer, which tests prove bit-equal.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mmvq_cli.engine.base import Reference
from mmvq_cli.engine.cpu.dequantize import Dequantizer, fastest_dequantizer, oracle_dequantizer
from mmvq_cli.engine.cpu.product import HostArgs
from mmvq_cli.engine.elements import widen
from mmvq_cli.op import Descriptor, Rows

_CHUNK_WEIGHTS = 1 << 22  # 32 MiB of float64 at a time
ORACLE_WEIGHTS = 1 << 26  # touched weights that gguf-py decodes in seconds


def reference_dequantizer(n_weights: int) -> Dequantizer:
    """The dequantizer of the exact answer, by the number of touched weights."""
    return oracle_dequantizer() if n_weights <= ORACLE_WEIGHTS else fastest_dequantizer()


def exact_product(descriptor: Descriptor, args: HostArgs, dequantizer: Dequantizer | None = None) -> Reference:
    """Values and magnitudes (see `Reference`) of one problem, float64 throughout."""
    d = descriptor
    shape = (d.output_row_count, d.n_rows_per_expert)
    values, magnitude = np.zeros(shape), np.zeros(shape)
    if d.is_empty:
        return Reference(values, magnitude)
    touched = np.flatnonzero(np.diff(args.expert_offsets))
    decode = (dequantizer or reference_dequantizer(len(touched) * d.n_rows_per_expert * d.n_cols)).decode
    activations = widen(args.activations, d.dtype).astype(np.float64)
    chunk = max(1, _CHUNK_WEIGHTS // d.n_cols)
    for expert in touched:
        dispatches = np.arange(args.expert_offsets[expert], args.expert_offsets[expert + 1])
        tokens = args.sorted_token_ids[dispatches]
        x = activations[tokens if d.activation_rows is Rows.TOKEN else dispatches]
        w = np.ones(len(dispatches)) if args.topk_weights is None else args.topk_weights[dispatches].astype(np.float64)
        targets = tokens if d.output_rows is Rows.TOKEN else dispatches
        for first in range(0, d.n_rows_per_expert, chunk):
            rows = slice(first, min(first + chunk, d.n_rows_per_expert))
            weights = _expert_rows(d, args.weights, int(expert), rows, decode)
            with np.errstate(over="ignore", invalid="ignore"):
                np.add.at(values[:, rows], targets, w[:, None] * (x @ weights.T))
                np.add.at(magnitude[:, rows], targets, np.abs(w)[:, None] * (np.abs(x) @ np.abs(weights).T))
    return Reference(values, magnitude)


def _expert_rows(
    d: Descriptor, weights: NDArray[np.uint8], expert: int, rows: slice, decode: object
) -> NDArray[np.float64]:
    row_bytes = d.format.row_bytes(d.n_cols)
    start = expert * d.expert_bytes + rows.start * row_bytes
    n_rows = rows.stop - rows.start
    out = np.empty((n_rows, d.n_cols), np.float32)
    packed = weights[start : start + n_rows * row_bytes].reshape(n_rows, row_bytes)
    assert callable(decode)
    decode(d.format, packed, out)
    return out.astype(np.float64)
