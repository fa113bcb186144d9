"""What a launch of the streaming kernel is told: the fields of its argument `Shape`, and compile-time values."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

from mmvq_cli.op.block import Block
from mmvq_cli.op.boxes import Boxes
from mmvq_cli.op.operands import Operands

SHAPE_FIELDS = (
    "warps",
    "columns",
    "column_shift",
    "tile_slots",
    "row_groups",
    "group_shift",
    "rows",
    "n_row_tiles",
    "run",
    "slice_columns",
    "row_columns",
    "slice",
    "packed_slice",
    "n_slices",
    "n_chunks",
    "chunk_inverse",
    "slices",
    "units",
    "item_units",
    "segment",
    "n_segments",
    "segment_inverse",
    "packed_segment",
    "row_slot",
    "copy_rows",
    "has_boxes",
    "line_rows",
    "line_shift",
    "box_shift",
    "box_bytes",
    "stage_bytes",
    "n_stages",
    "stage_inverse",
    "early_stages",
    "column_bytes",
    "item_sums",
    "n_buffers",
    "buffer_shift",
    "sums_at",
    "columns_at",
    "stages_at",
    "grid_at",
    "grid_copies",
)

SHARE_BYTES = 24  # of `Share`, what a block is to do


class _Shape(ctypes.Structure):
    """`Shape` of kernels/stream/share.cuh, where the fields are explained."""

    _fields_ = tuple((name, ctypes.c_int32) for name in SHAPE_FIELDS)


def shape_checks() -> str:
    """C++ static assertions that `kernels/stream/share.cuh` declares the same structs."""
    lines = [
        f'static_assert(sizeof(Shape) == {ctypes.sizeof(_Shape)}, "Shape differs from op/shape.py");',
        f'static_assert(sizeof(Share) == {SHARE_BYTES}, "Share differs from op/shape.py");',
    ]
    lines += [
        f'static_assert(OFFSET_OF(Shape, {name}) == {getattr(_Shape, name).offset}, "{name} differs");'
        for name in SHAPE_FIELDS
    ]
    return "\n".join(lines) + "\n"


@dataclass(frozen=True, slots=True)
class StreamShape:
    """One choice of the kernel's compile-time values, of its argument `shape`, and of dynamic shared bytes."""

    values: tuple[tuple[str, int], ...]
    operands: Operands
    column_tiles: int
    block: Block
    shared_bytes: int
    boxes: Boxes | None

    def __getattr__(self, name: str) -> int:
        """The value called so."""
        try:
            return dict(self.values)[name]
        except KeyError:
            raise AttributeError(name) from None

    @property
    def defines(self) -> tuple[tuple[str, int], ...]:
        """The compile-time values."""
        return (
            ("MMVQ_BULK_COPIES", int(self.block.has_bulk_copies)),
            ("MMVQ_COLUMN_TILES", self.column_tiles),
            ("MMVQ_DIGITS", self.operands.digits),
            ("MMVQ_GRID_WORDS", self.operands.grid_words),
            ("MMVQ_MIN_GROUPS", self.operands.min_groups),
            ("MMVQ_PLAIN", int(self.operands.is_plain)),
            ("MMVQ_SUMMING_WARPS", self.block.summing_warps),
            ("MMVQ_THREADS", self.block.max_threads),
        )
