"""The shape of the streaming kernel (`kernels/stream.cu`): tile width, row groups, slices, stages, shared memory.

What may change the order of a sum (`slices`, `segment`) depends on format and n_cols only, so that a token has the same
bits in any batch; the tile width follows the dispatches per expert, and the stages fill what shared memory is left.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from mmvq_cli.op.descriptor import Descriptor, Dtype
from mmvq_cli.op.device import Device

_CHUNK = 256  # weights of a row that one warp takes at a time
_MAX_STAGES = 8
_MIN_STAGES = 3
_ROW_GROUPS, _SLICES = 2, 4
_WIDTHS = (2, 4, 8)  # dispatches per tile
_SEGMENT_BYTES = 1280  # of a row and stage: long enough for the memory, short enough for several stages

# Dynamic shared memory of a block after opting in, in bytes, by compute capability (CUDA programming guide).
_SHARED_BYTES = {(8, 0): 166_912, (9, 0): 232_448, (10, 0): 232_448}
_SHARED_BYTES_ELSEWHERE = 101_376


@dataclass(frozen=True, slots=True)
class StreamShape:
    """One choice of the kernel's compile-time values and the dynamic shared memory that goes with it, in bytes.

    The kernel finds the number of stages from the shared memory that it is given.
    """

    columns: int
    row_groups: int
    slices: int
    stages: int
    segment: int
    shared_bytes: int

    @property
    def rows(self) -> int:
        """Rows of an item."""
        return 16 * self.row_groups

    @property
    def threads(self) -> int:
        """Threads of a block: the consumer warps and one producer."""
        return 32 * (self.row_groups * self.slices + 1)

    @property
    def defines(self) -> tuple[tuple[str, int], ...]:
        """The compile-time values."""
        return (
            ("MMVQ_COLUMNS", self.columns),
            ("MMVQ_ROW_GROUPS", self.row_groups),
            ("MMVQ_SEGMENT", self.segment),
            ("MMVQ_SLICES", self.slices),
        )


def stream_shape(d: Descriptor, device: Device) -> StreamShape | None:
    """The widest fitting tile that the dispatches per touched expert ask for; None when the kernel cannot run."""
    if d.format.is_float or d.is_empty or device.compute_capability < (9, 0):
        return None
    limit = _SHARED_BYTES.get(device.compute_capability, _SHARED_BYTES_ELSEWHERE)
    wanted = dispatches_per_touched_expert(d)
    widths = [width for width in _WIDTHS if width < 2 * wanted] or [_WIDTHS[0]]
    shapes = (_fill(d, width, limit) for width in reversed(widths))
    return next((shape for shape in shapes if shape is not None), None)


def dispatches_per_touched_expert(d: Descriptor) -> float:
    """What uniform routing would give: m_total over the expected number of touched experts."""
    return d.m_total / (d.n_experts * -math.expm1(-d.m_total / d.n_experts))


def _fill(d: Descriptor, columns: int, limit: int) -> StreamShape | None:
    """As many stages as fit beside the rest; None below `_MIN_STAGES`."""
    chunk_bytes = d.format.row_bytes(_CHUNK)
    segment = _CHUNK * _SLICES * max(1, round(_SEGMENT_BYTES / chunk_bytes / _SLICES))  # whole rounds of the slices
    rows = 16 * _ROW_GROUPS
    # Every line has its counterpart in stream.cu: ROW_SLOT, struct Shared, column_bytes.
    row_slot = (d.format.row_bytes(segment) + 31) // 64 * 64 + 96
    parts, slots = (3, 4) if d.dtype is Dtype.F32 else (1, 1)
    n_tiles = -(-columns * slots // 8)
    tiles = min(d.m_total, d.n_experts + d.m_total // columns)
    column_bytes = (2 * d.n_cols + 63) // 128 * 128 + 64
    sums = 4 * 2 * _SLICES * rows * 8 * n_tiles
    other = 16 * _MAX_STAGES + 128 + 8 * tiles + sums + columns * parts * column_bytes + 2 * 128
    other = -(-other // 128) * 128
    stages = min((limit - other) // (rows * row_slot), _MAX_STAGES)
    if stages < _MIN_STAGES:
        return None
    return StreamShape(columns, _ROW_GROUPS, _SLICES, stages, segment, other + stages * rows * row_slot)
