"""Boxes of packed rows that one instruction copies to shared memory (tensor memory access, from sm_90 on).

A box is the same bytes of some neighbouring rows. A copy of its own for each row takes as long to ask for as 2 KB take
to arrive (kernels/README.md), so boxes serve shorter ones. Limits: CUDA driver API, cuTensorMapEncodeTiled.
"""

from __future__ import annotations

from dataclasses import dataclass

from mmvq_cli.op.descriptor import Descriptor

_ALIGNMENT = 16  # bytes, of rows and of what a box begins with (an H200 calls others an illegal instruction)
UNIT = 8  # bytes of an element
_MAX_ELEMENTS = 256  # of a box, in each dimension
_MAX_ROWS = 2**31

LONGEST_ROW = UNIT * _MAX_ELEMENTS  # bytes, in a box


@dataclass(frozen=True, slots=True)
class Boxes:
    """A tensor of `height` rows of `width` elements of `UNIT` bytes, without gaps, and the size of boxes in it.

    What of a box lies outside the tensor becomes zero.
    """

    width: int
    height: int
    box_width: int
    box_height: int


def can_box(d: Descriptor) -> bool:
    """Whether rows start where boxes may."""
    return d.format.row_bytes(d.n_cols) % _ALIGNMENT == 0 and d.n_experts * d.n_rows_per_expert < _MAX_ROWS


def find_boxes(d: Descriptor, rows: int, segment_bytes: int, row_slot: int) -> Boxes | None:
    """Boxes for segments of this size, each row `row_slot` bytes long in shared memory; None when there are none."""
    row_bytes = d.format.row_bytes(d.n_cols)
    is_aligned = segment_bytes % _ALIGNMENT == 0 or segment_bytes >= row_bytes
    if not can_box(d) or not is_aligned or rows > _MAX_ELEMENTS or row_slot > LONGEST_ROW:
        return None
    return Boxes(
        width=row_bytes // UNIT,
        height=d.n_experts * d.n_rows_per_expert,
        box_width=row_slot // UNIT,
        box_height=rows,
    )
