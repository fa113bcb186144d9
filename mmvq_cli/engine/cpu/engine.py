"""The CPU as an engine: what CI runs, and what a machine without a GPU gets."""

from __future__ import annotations

import ctypes
import platform
from collections.abc import Sequence
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmvq_cli.engine.base import Reference
from mmvq_cli.engine.cpu.dequantize import fastest_dequantizer
from mmvq_cli.engine.cpu.product import HostArgs, multiply, worker_threads
from mmvq_cli.engine.cpu.reference import ORACLE_WEIGHTS, exact_product, reference_dequantizer
from mmvq_cli.engine.routing_rules import check_routing
from mmvq_cli.model import ExpertTensor
from mmvq_cli.model.synthetic import random_blocks
from mmvq_cli.op import Args, Descriptor, Device, Format, Plan
from mmvq_cli.op.args import BoundArgs
from mmvq_cli.op.arrays import ArrayView

_POOL_BYTES = 4 << 20
_NUMPY: dict[str, np.dtype[Any]] = {
    name: np.dtype(kind)
    for name, kind in (
        ("u8", "u1"), ("u16", "u2"), ("bf16", "u2"), ("i32", "i4"), ("f16", "f2"), ("f32", "f4"),
    )
}  # fmt: skip


def execute(plan: Plan, views: BoundArgs, workspace_pointer: int, stream: Any) -> None:
    """Run a plan at once; the CPU has no streams and the plan needs no workspace."""
    multiply(plan.descriptor, host_args(views, plan.descriptor))


def host_args(views: BoundArgs, descriptor: Descriptor) -> HostArgs:
    """NumPy arrays over the callers' memory."""
    weights = _array(views.weights).reshape(-1).view(np.uint8)[: descriptor.weight_bytes]
    return HostArgs(
        weights=weights,
        activations=_array(views.activations),
        sorted_token_ids=_array(views.sorted_token_ids),
        expert_offsets=_array(views.expert_offsets),
        topk_weights=None if views.topk_weights is None else _array(views.topk_weights),
        output=_array(views.output),
    )


def _array(view: ArrayView) -> NDArray[Any]:
    dtype = _NUMPY[view.dtype]
    if view.n_bytes == 0:
        return np.empty(view.shape, dtype)
    memory = (ctypes.c_uint8 * view.n_bytes).from_address(view.pointer)
    array: NDArray[Any] = np.frombuffer(memory, dtype).reshape(view.shape)  # type: ignore[call-overload]
    return array


class CpuEngine:
    """Engine over NumPy arrays; see `engine.base.Engine`."""

    def __init__(self) -> None:
        self.device = cpu_device()
        self.xp: ModuleType = np

    def load_experts(self, tensor: ExpertTensor, experts: Sequence[int]) -> NDArray[np.uint8]:
        """Read the named experts; the pages of the others are never touched, so they take no memory."""
        weights = np.empty(tensor.n_bytes, np.uint8)
        for expert in experts:
            start = expert * tensor.expert_bytes
            weights[start : start + tensor.expert_bytes] = tensor.read_expert(expert)
        return weights

    def synthesize(self, format: Format, n_bytes: int, seed: int) -> NDArray[np.uint8]:
        """Random valid blocks: a pool of distinct ones, repeated in a seeded order."""
        rng = np.random.default_rng([seed, format.id])
        n_blocks = n_bytes // format.type_size
        pool = random_blocks(format, min(n_blocks, max(1, _POOL_BYTES // format.type_size)), rng)
        if len(pool) == n_blocks:
            return pool.reshape(-1)
        weights = np.empty((n_blocks, format.type_size), np.uint8)
        for first in range(0, n_blocks, len(pool)):
            part = weights[first : first + len(pool)]
            part[...] = np.roll(pool, int(rng.integers(len(pool))), axis=0)[: len(part)]
        return weights.reshape(-1)

    def upload(self, array: NDArray[Any]) -> NDArray[Any]:
        """A copy."""
        return array.copy()

    def download(self, array: NDArray[Any]) -> NDArray[Any]:
        """A copy."""
        return array.copy()

    def synchronize(self) -> None:
        """Nothing is ever pending."""

    def free_bytes(self) -> int:
        """Memory that the operating system calls available."""
        try:
            with open("/proc/meminfo", encoding="ascii") as lines:  # noqa: PTH123 (not a user's path)
                fields = dict(line.split(":") for line in lines)
            return int(fields["MemAvailable"].split()[0]) * 1024
        except (OSError, KeyError, ValueError):
            return 1 << 62  # unknown: let the allocation decide

    def validate_routing(self, descriptor: Descriptor, args: Args) -> None:
        """Check the routing's indices; raises `InvalidProblem`."""
        check_routing(descriptor, np.asarray(args.sorted_token_ids), np.asarray(args.expert_offsets))

    def reference(self, descriptor: Descriptor, args: Args) -> Reference:
        """The exact product by gguf-py and float64."""
        views = Plan.select(descriptor, self.device).can_implement(args)
        return exact_product(descriptor, host_args(views, descriptor))

    def dequantize(self, format: Format, packed: NDArray[np.uint8], n_cols: int) -> NDArray[np.float32]:
        """Weights f32 [rows, n_cols] by the dequantizer that the products use."""
        rows = packed.reshape(-1, format.row_bytes(n_cols))
        out = np.empty((len(rows), n_cols), np.float32)
        fastest_dequantizer().decode(format, rows, out)
        return out

    def facts(self) -> dict[str, Any]:
        """What the record says about this engine."""
        small, large = (reference_dequantizer(n_weights).name for n_weights in (0, ORACLE_WEIGHTS + 1))
        return {
            "dequantizer": fastest_dequantizer().name,
            "oracle": f"{small}, {large} above {ORACLE_WEIGHTS} weights" if small != large else small,
            "threads": worker_threads(),
        }


def cpu_device() -> Device:
    """Describe this machine's processor."""
    return Device(name=_processor_name(), backend="cpu")


def _processor_name() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:  # noqa: PTH123 (not a user's path)
            return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
