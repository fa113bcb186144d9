"""`--kernels`: which types have a kernel here, and whether it is right on a few rows of every expert tensor."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from mmvq_cli.check import Checker
from mmvq_cli.engine.base import Engine
from mmvq_cli.engine.cpu.dequantize import oracle_dequantizer
from mmvq_cli.engine.workload import Workload, random_activations, upload_draw
from mmvq_cli.model import ExpertTensor
from mmvq_cli.op import Descriptor, Dtype, Plan
from mmvq_cli.op.formats import FORMATS, unsupported_reason
from mmvq_cli.routing import Dispatch
from mmvq_cli.validate.findings import Findings, Place

_EXPERTS = 4  # of each tensor, the first and the last among them


def open_engine(name: str, device_index: int) -> Engine:
    """The engine `cuda` or `cpu`; raises `EnvironmentInvalid` when it cannot run."""
    if name == "cuda":
        from mmvq_cli.engine.cuda import CudaEngine

        return CudaEngine(device_index)
    from mmvq_cli.engine.cpu import CpuEngine

    return CpuEngine()


def check_kernels(
    tensors: Sequence[ExpertTensor], engine: Engine, n_rows: int, findings: Findings, progress: Callable[[int], None]
) -> dict[str, str]:
    """Multiply `n_rows` rows of 4 experts of each tensor and compare; returns what is known of each type.

    Decoded weights are compared with gguf-py's bit for bit, products with the float64 oracle within its bound.
    Raises `OpenError` when a file cannot be read, and what the engine raises.
    """
    known: dict[str, str] = {}
    for name, count in Counter(tensor.format_name for tensor in tensors).items():
        if name in FORMATS:
            known[name] = f"yes, right on {n_rows} rows of {_EXPERTS} experts in each of {count} tensors"
        else:
            known[name] = f"no: {unsupported_reason(name)}"
            first = next(tensor for tensor in tensors if tensor.format_name == name)
            message = f"{count} expert tensors are {name}: {unsupported_reason(name)}"
            findings.add("kernels.missing", message, Place(first.extents[0].path), name, count)
    for tensor in tensors:
        if tensor.format_name in FORMATS:
            failures = _failures(tensor, engine, n_rows)
            for failure in failures:
                findings.add("kernels.wrong", failure, Place(tensor.extents[0].path, tensor=tensor.name))
            if failures:
                known[tensor.format_name] = "WRONG, see the findings"
        progress(tensor.n_bytes)
    return known


def _failures(tensor: ExpertTensor, engine: Engine, n_rows: int) -> list[str]:
    """What is wrong with the sampled rows of one tensor, as sentences."""
    packed = _sample(tensor, n_rows)
    n_experts, rows, _ = packed.shape
    device_rows = engine.upload(packed.reshape(-1))
    decoded = engine.dequantize(tensor.format, device_rows, tensor.cols)
    expected = np.empty((n_experts * rows, tensor.cols), np.float32)
    oracle_dequantizer().decode(tensor.format, packed.reshape(n_experts * rows, -1), expected)
    wrong = (decoded.view(np.uint32) != expected.view(np.uint32)) & ~(np.isnan(decoded) & np.isnan(expected))
    failures = [f"{wrong.sum()} of {wrong.size} decoded weights differ from ggml's"] if wrong.any() else []
    descriptor = Descriptor(
        n_experts=n_experts,
        n_rows_per_expert=rows,
        n_cols=tensor.cols,
        m_total=n_experts,
        m_tokens=n_experts,
        top_k=1,
        format=tensor.format,
        dtype=Dtype.F16,
    )
    plan = Plan.select(descriptor, engine.device)
    activations = random_activations(n_experts, tensor.cols, descriptor.dtype, [tensor.layer, tensor.cols])
    draw = upload_draw(engine, _one_token_each(n_experts), activations, weighted=True)
    check = Checker(engine, plan, Workload(descriptor, [device_rows], (draw,)), draw).check()
    return [*failures, *(f"{plan.sku.name}: {failure}" for failure in check.failures)]


def _sample(tensor: ExpertTensor, n_rows: int) -> NDArray[np.uint8]:
    """Packed rows u8 [experts, rows, row bytes], both spread evenly from the first to the last."""
    row_bytes = tensor.format.row_bytes(tensor.cols)
    experts, rows = _spread(tensor.n_experts, _EXPERTS), _spread(tensor.rows, n_rows)
    packed = np.empty((len(experts), len(rows), row_bytes), np.uint8)
    for i, expert in enumerate(experts):
        for j, row in enumerate(rows):
            tensor.read_into(expert * tensor.expert_bytes + row * row_bytes, packed[i, j].data)
    return packed


def _spread(total: int, most: int) -> list[int]:
    return [int(number) for number in np.unique(np.linspace(0, total - 1, min(total, most)).round())]


def _one_token_each(n_experts: int) -> Dispatch:
    numbers = np.arange(n_experts + 1, dtype=np.int32)
    return Dispatch(numbers[:-1], numbers, np.ones(n_experts, np.float32))
