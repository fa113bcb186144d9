"""The judge on the device: dequantized weights, exact products in float64, and whether a routing is legal."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmvq_cli.engine.base import Reference
from mmvq_cli.engine.cuda.device import import_cupy
from mmvq_cli.engine.cuda.launch import launch_errors, load_kernel, on_device
from mmvq_cli.engine.cuda.memory import allocate, download, require_free
from mmvq_cli.engine.cuda.source import format_defines as weight_defines
from mmvq_cli.engine.routing_rules import routing_error
from mmvq_cli.errors import InvalidProblem
from mmvq_cli.op import Args, Descriptor, Device, Format, Rows
from mmvq_cli.op.args import BoundArgs, bind
from mmvq_cli.op.launches import format_defines
from mmvq_cli.op.problem import Problem, bind_problem

_THREADS = (256, 1, 1)
_BLOCKS_PER_SM = 16  # of the grid-stride kernels here; none of them is timed
_CHUNK_BYTES = 8 * 2**20  # of results at once: what stays in a processor's cache while the host adds them up


def reference(descriptor: Descriptor, args: Args, device: Device) -> Reference:
    """Compute the float64 answer, summed on the host over chunks of dispatches; see `Reference`.

    Raises `InvalidProblem`, `OutOfMemory`, `LaunchError`.
    """
    views = bind(args, descriptor, device)
    shape = (descriptor.output_row_count, descriptor.n_rows_per_expert)
    values, magnitude = np.zeros(shape), np.zeros(shape)
    if descriptor.is_empty:
        return Reference(values, magnitude)
    rows = download(args.sorted_token_ids)
    if descriptor.output_rows is Rows.DISPATCH:
        rows = np.arange(descriptor.m_total, dtype=np.int32)
    weights = np.ones(descriptor.m_total)
    if args.topk_weights is not None:
        weights = download(args.topk_weights).astype(np.float64)
    for begin, end in _chunks(descriptor):
        products, magnitudes = _dispatch_products(descriptor, args, views, begin, end, device)
        with np.errstate(all="ignore"):  # non-finite activations are a case like any other
            _add_rows(values, rows[begin:end], products * weights[begin:end, None])
            _add_rows(magnitude, rows[begin:end], magnitudes * np.abs(weights[begin:end, None]))
    return Reference(values, magnitude)


def dequantize(format: Format, packed: Any, n_cols: int, device: Device) -> NDArray[np.float32]:
    """Weights f32 [rows, n_cols] of `packed`, device bytes of whole rows.

    Raises `InvalidProblem` when the bytes are no whole rows, `OutOfMemory`, `LaunchError`.
    """
    row_bytes = format.row_bytes(n_cols)
    if n_cols % format.block_size or not row_bytes or packed.nbytes % row_bytes:
        raise InvalidProblem(
            f"{packed.nbytes} bytes are no whole rows of {n_cols} {format} weights ({row_bytes} bytes each)",
            "pass whole packed rows",
        )
    kernel = load_kernel("dequantize", "dequantize.cu", tuple(weight_defines(format).items()), device.index)
    n_rows = packed.nbytes // row_bytes
    weights = np.empty((n_rows, n_cols), np.float32)
    chunk = max(1, _CHUNK_BYTES // (4 * n_cols))
    for begin in range(0, n_rows, chunk):
        count = min(chunk, n_rows - begin)
        out = allocate(4 * count * n_cols, device.index)
        source = ctypes.c_void_p(packed.data.ptr + begin * row_bytes)
        args = (source, out, ctypes.c_int64(count), ctypes.c_int32(n_cols))
        kernel(_grid(device), _THREADS, args)
        weights[begin : begin + count] = download(out).view(np.float32).reshape(count, n_cols)
    return weights


def validate_routing(descriptor: Descriptor, args: Args, device: Device) -> None:
    """Check ids, offsets and dispatches per token with a kernel.

    Raises `InvalidProblem` for a broken rule; when several are broken, for any one of them.
    """
    cupy = import_cupy()
    problem = bind_problem(descriptor, bind(args, descriptor, device), 0)
    with on_device(device.index), launch_errors("validate_routing"):
        counts = cupy.zeros(max(1, descriptor.m_tokens), cupy.int32)
        report = cupy.zeros(4, cupy.int32)
        problem.token_counts = counts.data.ptr
        kernel = load_kernel("validate_routing", "validate.cu", (), device.index)
        kernel(_grid(device), _THREADS, (problem, report))
        code, position, value, _ = (int(number) for number in report.get())
    if code:
        raise routing_error(code, position, value, descriptor)


def _dispatch_products(
    d: Descriptor, args: Args, views: BoundArgs, begin: int, end: int, device: Device
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Unweighted values and magnitudes, f64 [end - begin, n_rows_per_expert] each, of dispatches [begin, end)."""
    cupy = import_cupy()
    shape = (end - begin, d.n_rows_per_expert)
    require_free(16 * shape[0] * shape[1], device.index)
    with on_device(device.index), launch_errors("oracle_dispatches"):
        values, magnitudes = cupy.empty(shape), cupy.empty(shape)
        # All ones is a NaN: a dispatch that belongs to no expert must not pass for one whose answer is 0.
        values.data.memset(0xFF, values.nbytes)
        magnitudes.data.memset(0xFF, magnitudes.nbytes)
        offsets = cupy.asarray(np.clip(download(args.expert_offsets) - begin, 0, end - begin).astype(np.int32))
        problem = _subproblem(d, views, begin, end)
        problem.expert_offsets = offsets.data.ptr
        kernel = load_kernel("oracle_dispatches", "oracle.cu", format_defines(d), device.index)
        kernel(_grid(device), _THREADS, (problem, values, magnitudes))
        return values.get(), magnitudes.get()


def _subproblem(d: Descriptor, views: BoundArgs, begin: int, end: int) -> Problem:
    """Make the problem of dispatches [begin, end) alone, but for its expert offsets."""
    problem = bind_problem(d, views, 0)
    problem.sorted_token_ids += 4 * begin
    problem.m_total = end - begin
    if d.activation_rows is Rows.DISPATCH:
        problem.activations += begin * d.n_cols * d.dtype.itemsize
    return problem


def _chunks(d: Descriptor) -> Iterator[tuple[int, int]]:
    """Ranges of dispatches whose values and magnitudes, 16 bytes a row, fit into a chunk."""
    step = max(1, _CHUNK_BYTES // (16 * d.n_rows_per_expert))
    for begin in range(0, d.m_total, step):
        yield begin, min(begin + step, d.m_total)


def _grid(device: Device) -> tuple[int, int, int]:
    return (max(1, device.sm_count) * _BLOCKS_PER_SM, 1, 1)


def _add_rows(total: NDArray[np.float64], rows: NDArray[np.int32], terms: NDArray[np.float64]) -> None:
    """total[rows[i]] += terms[i], repeated rows included, in ascending i."""
    order = np.argsort(rows, kind="stable")
    starts = np.flatnonzero(np.diff(rows[order], prepend=-1))
    total[rows[order][starts]] += np.add.reduceat(terms[order], starts, axis=0)
