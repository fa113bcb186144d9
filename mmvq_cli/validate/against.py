"""Compare with the same model in another quantization, or with the original: the error of every expert and block."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from math import inf, isnan
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mmvq_cli.errors import ModelError
from mmvq_cli.model import ExpertTensor
from mmvq_cli.model.splits import read_shards
from mmvq_cli.op.formats import FORMATS
from mmvq_cli.validate.blocks import place_of
from mmvq_cli.validate.findings import Findings, Place, TensorError
from mmvq_cli.validate.layers import expert_tensors, group_layers, list_tensors
from mmvq_cli.validate.robust import outliers

Floats = NDArray[np.float32]
_FOREIGN = 0.9  # of the norm; no quantization of ggml is above 0.6 on weights, independent ones are at 1.4
_PIECE_WEIGHTS = 2**20


def compare_with(
    tensors: tuple[ExpertTensor, ...], other: Path, findings: Findings, progress: Callable[[int], None]
) -> tuple[TensorError, ...]:
    """Compare every expert tensor with that of the same name in `other`; worst tensors first.

    Raises `OpenError` and `ModelError` when `other` cannot be read, `ModelError` when it has no expert tensors.
    """
    theirs = {tensor.name: tensor for tensor in expert_tensors(group_layers(list_tensors(read_shards(other))))}
    if not theirs:
        raise ModelError(f"{other} has no expert tensors", "--against needs the same model in another quantization")
    errors = []
    for tensor in tensors:
        reference = theirs.pop(tensor.name, None)
        if _comparable(tensor, reference, findings) and reference is not None:
            errors.append(_compare(tensor, reference, findings))
        progress(tensor.n_bytes)
    for reference in theirs.values():
        findings.add("against.structure", f"is in {other.name} only", Place(other, tensor=reference.name))
    return tuple(sorted(errors, key=lambda error: error.worst, reverse=True))


def _comparable(tensor: ExpertTensor, reference: ExpertTensor | None, findings: Findings) -> bool:
    if reference is None:
        findings.add("against.structure", "is not in the other file", place_of(tensor, 0))
        return False
    shape, other = (tensor.n_experts, tensor.rows, tensor.cols), (reference.n_experts, reference.rows, reference.cols)
    if shape != other:
        message = f"is {shape} (experts, rows, columns), in the other file {other}"
        findings.add("against.structure", message, place_of(tensor, 0))
        return False
    for one in (tensor, reference):
        if one.format_name not in FORMATS:
            findings.leave_out(f"{one.name} against the other file: {one.format_name} is not decoded here")
            return False
    return True


def _compare(tensor: ExpertTensor, reference: ExpertTensor, findings: Findings) -> TensorError:
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        compared = list(pool.map(lambda expert: _compare_expert(tensor, reference, expert), range(tensor.n_experts)))
    relative = [error for error, _ in compared]
    for expert, (error, blocks) in enumerate(compared):
        if error > _FOREIGN:
            message = f"differs from the other file by {error:.3g} of its norm"
            findings.add("against.error", message, place_of(tensor, expert), f"{error:.4g}")
        elif blocks:
            block, worst = blocks[0]
            message = f"{len(blocks)} blocks differ from the other file, the first by {worst:.3g} of its norm"
            findings.add("against.block", message, place_of(tensor, expert, block), f"{worst:.4g}", len(blocks))
    errors = np.array(relative)
    for expert, ratio in outliers(errors, both=False):
        if errors[expert] <= _FOREIGN:
            message = f"its error {errors[expert]:.3g} is {ratio:.3g} times the median of the experts"
            findings.add("against.outlier", message, place_of(tensor, expert), f"{errors[expert]:.4g}")
    return TensorError(tensor.name, (tensor.format_name, reference.format_name), tuple(relative))


def _compare_expert(
    tensor: ExpertTensor, reference: ExpertTensor, expert: int
) -> tuple[float, list[tuple[int, float]]]:
    """||a - b|| / ||b|| of one expert (inf: not finite), and the blocks (number, error) off by more than `_FOREIGN`."""
    size = tensor.format.block_size if not tensor.format.is_float else 32
    size = size if tensor.cols % size == 0 else tensor.cols
    difference, norm = [], []
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        for ours, theirs in zip(_rows(tensor, expert), _rows(reference, expert), strict=True):
            difference.append(np.square(ours - theirs, dtype=np.float64).reshape(-1, size).sum(axis=1))
            norm.append(np.square(theirs, dtype=np.float64).reshape(-1, size).sum(axis=1))
        squares, norms = np.concatenate(difference), np.concatenate(norm)
        total = float(np.sqrt(squares.sum() / norms.sum())) if squares.any() else 0.0
        ratio = np.sqrt(squares / np.maximum(norms, norms.mean()))
    if tensor.format.is_float:
        size //= tensor.format.block_size
    found = np.flatnonzero(ratio > _FOREIGN)
    scale = size if tensor.format.is_float else 1
    return inf if isnan(total) else total, [(int(block) * scale, float(ratio[block])) for block in found]


def _rows(tensor: ExpertTensor, expert: int) -> Iterator[Floats]:
    """The weights of one expert, f32 [rows, cols] in pieces of whole rows, the same for every format."""
    from mmvq_cli.engine.cpu.dequantize import fastest_dequantizer

    dequantizer = fastest_dequantizer()
    row_bytes = tensor.format.row_bytes(tensor.cols)
    step = max(1, _PIECE_WEIGHTS // tensor.cols)
    for first in range(0, tensor.rows, step):
        n_rows = min(step, tensor.rows - first)
        packed = np.empty((n_rows, row_bytes), np.uint8)
        tensor.read_into(expert * tensor.expert_bytes + first * row_bytes, packed.reshape(-1).data)
        weights = np.empty((n_rows, tensor.cols), np.float32)
        dequantizer.decode(tensor.format, packed, weights)
        yield weights
