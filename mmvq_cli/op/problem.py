"""The one argument of every kernel: a C struct, stated here and in `kernels/problem.cuh`.

`layout_checks` is C++ text that the source builder appends to each kernel source, so the compiler proves that the two
statements agree, field by field.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

from mmvq_cli.op.args import BoundArgs
from mmvq_cli.op.descriptor import Descriptor, Rows
from mmvq_cli.op.rounding import round_up

_POINTERS = (
    "weights",
    "activations",
    "sorted_token_ids",
    "expert_offsets",
    "topk_weights",
    "output",
    "partials",
    "token_counts",
    "token_dispatches",
    "arranged",
)
_INTEGERS = (
    "n_experts",
    "n_rows_per_expert",
    "n_cols",
    "m_total",
    "m_tokens",
    "top_k",
    "activation_rows_are_dispatches",
    "output_rows_are_dispatches",
    "adds",
    "is_atomic",
    "combines",
)


class Problem(ctypes.Structure):
    """Pointers (0 when absent), sizes and 0/1 flags of one run; see kernels/problem.cuh for shapes and units."""

    _fields_ = (
        *((name, ctypes.c_uint64) for name in _POINTERS),
        *((name, ctypes.c_int32) for name in _INTEGERS),
    )


def layout_checks() -> str:
    """C++ static assertions that `kernels/problem.cuh` declares the same struct."""
    lines = [f'static_assert(sizeof(Problem) == {ctypes.sizeof(Problem)}, "Problem differs from op/problem.py");']
    lines += [
        f'static_assert(OFFSET_OF(Problem, {name}) == {getattr(Problem, name).offset}, "{name} differs");'
        for name in (*_POINTERS, *_INTEGERS)
    ]
    return "\n".join(lines) + "\n"


@dataclass(frozen=True, slots=True)
class Region:
    """A named part of the workspace, in bytes from its start."""

    name: str
    offset: int
    n_bytes: int


_ALIGNMENT = 256


def workspace_regions(descriptor: Descriptor, arranged_bytes: int = 0) -> tuple[Region, ...]:
    """The scratch memory of the ordered combine: partial rows f32 [m_total, rows], dispatches of each token.

    And of activations that are arranged before they are multiplied, if so many bytes are; empty where neither is done.
    """
    if descriptor.is_empty:
        return ()
    sizes = []
    if descriptor.combines:
        sizes += [
            ("partials", 4 * descriptor.m_total * descriptor.n_rows_per_expert),
            ("token_counts", 4 * descriptor.m_tokens),
            ("token_dispatches", 4 * descriptor.m_tokens * descriptor.top_k),
        ]
    if arranged_bytes:
        sizes.append(("arranged", arranged_bytes))
    regions, offset = [], 0
    for name, n_bytes in sizes:
        regions.append(Region(name, offset, n_bytes))
        offset += round_up(n_bytes, _ALIGNMENT)
    return tuple(regions)


def workspace_size(regions: tuple[Region, ...]) -> int:
    """Bytes that the regions span."""
    return regions[-1].offset + regions[-1].n_bytes if regions else 0


def bind_problem(
    descriptor: Descriptor, views: BoundArgs, workspace_pointer: int, workspace: tuple[Region, ...] | None = None
) -> Problem:
    """Fill the struct; `workspace_pointer` is the start of at least `workspace_size` bytes, or 0.

    `workspace`: the plan's regions, or those of a plan that arranges nothing.
    """
    problem = Problem(
        weights=views.weights.pointer,
        activations=views.activations.pointer,
        sorted_token_ids=views.sorted_token_ids.pointer,
        expert_offsets=views.expert_offsets.pointer,
        topk_weights=views.topk_weights.pointer if views.topk_weights else 0,
        output=views.output.pointer,
        n_experts=descriptor.n_experts,
        n_rows_per_expert=descriptor.n_rows_per_expert,
        n_cols=descriptor.n_cols,
        m_total=descriptor.m_total,
        m_tokens=descriptor.m_tokens,
        top_k=descriptor.top_k,
        activation_rows_are_dispatches=descriptor.activation_rows is Rows.DISPATCH,
        output_rows_are_dispatches=descriptor.output_rows is Rows.DISPATCH,
        adds=descriptor.adds,
        is_atomic=descriptor.accumulate == "atomic",
        combines=descriptor.combines,
    )
    for region in workspace_regions(descriptor) if workspace is None else workspace:
        setattr(problem, region.name, workspace_pointer + region.offset)
    return problem
