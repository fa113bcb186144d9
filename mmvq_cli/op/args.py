"""The arrays of one run, and whether they fit a descriptor: shapes, dtypes, layout, device and byte counts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mmvq_cli.errors import InvalidProblem
from mmvq_cli.op.arrays import ArrayView
from mmvq_cli.op.descriptor import Descriptor, Rows
from mmvq_cli.op.device import Device

# Vector loads of the CUDA kernels; what cudaMalloc and every allocator above it give.
_WEIGHT_ALIGNMENT = 16
_FIT = "make the array fit the descriptor, or the descriptor the array"


@dataclass(frozen=True, slots=True, kw_only=True)
class Args:
    """The arrays of one run, any with DLPack, `__cuda_array_interface__` or `__array_interface__`.

    weights: packed bytes of [n_experts, n_rows_per_expert, n_cols], dense FP also as such; longer is fine.
    activations: [m_tokens or m_total, n_cols]; output: [m_tokens or m_total, n_rows_per_expert]; both of the
    descriptor's dtype (uint16 holds bf16 bits). sorted_token_ids: i32 [m_total]; expert_offsets: i32 [n_experts + 1];
    topk_weights: f32 [m_total], or None for 1.0.
    """

    weights: Any
    activations: Any
    sorted_token_ids: Any
    expert_offsets: Any
    output: Any
    topk_weights: Any = None


@dataclass(frozen=True, slots=True)
class BoundArgs:
    """The views of checked arguments, ready for a launch."""

    weights: ArrayView
    activations: ArrayView
    sorted_token_ids: ArrayView
    expert_offsets: ArrayView
    output: ArrayView
    topk_weights: ArrayView | None


def bind(args: Args, descriptor: Descriptor, device: Device) -> BoundArgs:
    """Check `args` against the problem and the device, in the contract's order; reads no device memory.

    Raises `InvalidProblem` naming the value, the rule and the way out.
    """
    views = BoundArgs(
        weights=ArrayView.of(args.weights, "weights"),
        activations=ArrayView.of(args.activations, "activations"),
        sorted_token_ids=ArrayView.of(args.sorted_token_ids, "sorted_token_ids"),
        expert_offsets=ArrayView.of(args.expert_offsets, "expert_offsets"),
        output=ArrayView.of(args.output, "output"),
        topk_weights=None if args.topk_weights is None else ArrayView.of(args.topk_weights, "topk_weights"),
    )
    _check_shapes(views, descriptor)
    named = _named(views)
    for name, view in named:
        _check_dtype(name, view, descriptor)
    for name, view in named:
        if not view.contiguous:
            raise InvalidProblem(f"{name} is not C-contiguous", "pass a contiguous copy")
    for name, view in named:
        check_device(name, view, device)
    _check_weight_bytes(views.weights, descriptor)
    _check_access(views, device)
    return views


def _named(views: BoundArgs) -> list[tuple[str, ArrayView]]:
    names = ("weights", "activations", "sorted_token_ids", "expert_offsets", "output", "topk_weights")
    return [(name, view) for name in names if (view := getattr(views, name)) is not None]


def _check_shapes(views: BoundArgs, d: Descriptor) -> None:
    _check_rows("activations", views.activations, d.activation_rows, d.activation_row_count, d)
    _check_rows("output", views.output, d.output_rows, d.output_row_count, d)
    if views.activations.shape[1] != d.n_cols:
        raise InvalidProblem(f"activations have {views.activations.shape[1]} columns, n_cols is {d.n_cols}", _FIT)
    if views.output.shape[1] != d.n_rows_per_expert:
        raise InvalidProblem(
            f"output has {views.output.shape[1]} columns, n_rows_per_expert is {d.n_rows_per_expert}", _FIT
        )
    _check_length("sorted_token_ids", views.sorted_token_ids, d.m_total, "m_total")
    _check_length("expert_offsets", views.expert_offsets, d.n_experts + 1, "n_experts + 1")
    if views.topk_weights is not None:
        _check_length("topk_weights", views.topk_weights, d.m_total, "m_total")


def _check_rows(name: str, view: ArrayView, side: Rows, expected: int, d: Descriptor) -> None:
    if len(view.shape) != 2:
        raise InvalidProblem(f"{name} has {len(view.shape)} dimensions, it needs 2", "pass a matrix, one row each")
    if view.shape[0] != expected:
        size = "m_tokens" if side is Rows.TOKEN else "m_total"
        raise InvalidProblem(
            f"{name} has {view.shape[0]} rows, {size} is {expected} ({side} rows)",
            f"a token side has m_tokens = {d.m_tokens} rows, a dispatch side m_total = {d.m_total}",
        )


def _check_length(name: str, view: ArrayView, expected: int, rule: str) -> None:
    if view.shape != (expected,):
        raise InvalidProblem(f"{name} has shape {view.shape}, it must be ({expected},), which is {rule}", _FIT)


def _check_dtype(name: str, view: ArrayView, d: Descriptor) -> None:
    allowed: tuple[str, ...]
    if name == "weights":
        dense = d.format.name.lower()
        allowed = ("u8", dense, "u16") if d.format.name == "BF16" else ("u8", dense)
    elif name in ("activations", "output"):
        allowed = ("bf16", "u16") if d.dtype == "bf16" else (d.dtype.value,)
    else:
        allowed = ("f32",) if name == "topk_weights" else ("i32",)
    if view.dtype not in allowed:
        raise InvalidProblem(f"{name} has dtype {view.dtype}, it must be {' or '.join(allowed)}", "convert it first")


def check_device(name: str, view: ArrayView, device: Device) -> None:
    """Raise `InvalidProblem` when the array is not where the plan runs."""
    wrong_index = view.device_index is not None and view.device_index != device.index
    if view.backend != device.backend or (device.backend == "cuda" and wrong_index):
        raise InvalidProblem(
            f"{name} is on {view.backend} {view.device_index or 0}, the plan is for {device.backend} {device.index}",
            "copy it to the plan's device, or select a plan for the array's device",
        )


def _check_weight_bytes(weights: ArrayView, d: Descriptor) -> None:
    if weights.n_bytes < d.weight_bytes:
        raise InvalidProblem(
            f"weights have {weights.n_bytes} bytes, {d.n_experts} experts of {d.n_rows_per_expert} x {d.n_cols} "
            f"{d.format} need {d.weight_bytes}",
            "pass the whole packed tensor",
        )


def _check_access(views: BoundArgs, device: Device) -> None:
    if not views.output.writable:
        raise InvalidProblem("output is read-only, results are written into it", "pass a writable array")
    if device.backend == "cuda" and views.weights.pointer % _WEIGHT_ALIGNMENT:
        raise InvalidProblem(
            f"weights start at address {views.weights.pointer:#x}, CUDA kernels need a multiple of {_WEIGHT_ALIGNMENT}",
            "pass the whole tensor, or a copy of the slice",
        )
