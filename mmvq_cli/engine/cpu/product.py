"""The batched mat-vec on the host: chunks of rows in parallel, experts in order, a float32 BLAS product each.

Output rows are split between threads, and within a chunk the experts come in ascending order, so a token's dispatches
are summed in ascending sorted position, as the contract says. Scratch memory is bounded: per thread one chunk of
dequantized rows (at most `_CHUNK_BYTES`) and one float32 column block of the output.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import ThreadpoolController

from mmvq_cli.engine.cpu.dequantize import Dequantizer, fastest_dequantizer
from mmvq_cli.engine.elements import narrow, widen
from mmvq_cli.op import Descriptor, Rows

_CHUNK_BYTES = 1 << 20  # fits a core's L2 beside the activations
_MAX_CHUNK_ROWS = 256
_ONE_THREAD_WEIGHTS = 1 << 21  # below, handing work to other threads takes longer than the work


@dataclass(frozen=True, slots=True)
class HostArgs:
    """The arguments as NumPy arrays: weights u8 [bytes]; activations, output in storage dtype; see op.Args."""

    weights: NDArray[np.uint8]
    activations: NDArray[Any]
    sorted_token_ids: NDArray[np.int32]
    expert_offsets: NDArray[np.int32]
    topk_weights: NDArray[np.float32] | None
    output: NDArray[Any]


@cache
def worker_threads() -> int:
    """Threads of the engine: the cores this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(worker_threads(), thread_name_prefix="mmvq-cpu")


@cache
def _blas() -> ThreadpoolController:
    return ThreadpoolController()  # finding the libraries takes a millisecond, so once


@cache
def _dequantizer() -> Dequantizer:
    return fastest_dequantizer()


def multiply(descriptor: Descriptor, args: HostArgs) -> None:
    """Run one problem into `args.output`."""
    if descriptor.is_empty:
        if not descriptor.adds:
            args.output[...] = 0
        return
    activations = widen(args.activations, descriptor.dtype)
    touched = np.flatnonzero(np.diff(args.expert_offsets))
    n_weights = len(touched) * descriptor.n_rows_per_expert * descriptor.n_cols
    chunk = _chunk_rows(descriptor)
    chunks = [
        slice(first, min(first + chunk, descriptor.n_rows_per_expert))
        for first in range(0, descriptor.n_rows_per_expert, chunk)
    ]
    work = partial(_multiply_rows, descriptor, args, activations, touched)
    if n_weights <= _ONE_THREAD_WEIGHTS:
        for rows in chunks:
            work(rows)
        return
    # One BLAS thread per worker: two levels of threads would fight for the same cores.
    with _blas().limit(limits=1, user_api="blas"):
        for _ in _pool().map(work, chunks):
            pass


def _chunk_rows(d: Descriptor) -> int:
    fitting = max(1, _CHUNK_BYTES // (4 * d.n_cols))
    share = -(-d.n_rows_per_expert // (2 * worker_threads()))
    return max(1, min(fitting, share, _MAX_CHUNK_ROWS))


def _multiply_rows(
    d: Descriptor, args: HostArgs, activations: NDArray[np.float32], touched: NDArray[np.intp], rows: slice
) -> None:
    """All experts' dispatches for the output columns `rows`."""
    decode = _row_decoder(d, args.weights, rows)
    shape = (d.output_row_count, rows.stop - rows.start)
    sums = widen(args.output[:, rows], d.dtype) if d.adds else np.zeros(shape, np.float32)
    old = sums.copy() if d.adds and d.combines else None
    if old is not None:
        sums[...] = 0  # the dispatches are summed first, then added to what was there
    with np.errstate(over="ignore", invalid="ignore"):
        for expert in touched:
            dispatches = np.arange(args.expert_offsets[expert], args.expert_offsets[expert + 1])
            tokens = args.sorted_token_ids[dispatches]
            sources = tokens if d.activation_rows is Rows.TOKEN else dispatches
            products = activations[sources] @ decode(int(expert)).T
            if args.topk_weights is not None:
                products *= args.topk_weights[dispatches, None]
            if d.output_rows is Rows.TOKEN:
                np.add.at(sums, tokens, products)  # in ascending order, also when a token is repeated
            else:
                sums[dispatches] += products
        if old is not None:
            sums += old
        args.output[:, rows] = narrow(sums, d.dtype)


def _row_decoder(d: Descriptor, weights: NDArray[np.uint8], rows: slice) -> Callable[[int], NDArray[np.float32]]:
    """A function from an expert to its rows, f32 [rows, n_cols], in one buffer that the next call overwrites."""
    row_bytes = d.format.row_bytes(d.n_cols)
    buffer = np.empty((rows.stop - rows.start, d.n_cols), np.float32)
    decode = _dequantizer().decode

    def decoded(expert: int) -> NDArray[np.float32]:
        start = expert * d.expert_bytes + rows.start * row_bytes
        packed = weights[start : start + len(buffer) * row_bytes].reshape(len(buffer), row_bytes)
        decode(d.format, packed, buffer)
        return buffer

    return decoded
