"""Boxes of packed rows that one instruction copies to shared memory (tensor memory access, from sm_90 on).

A box is the same bytes of some neighbouring rows. A copy of its own for each row takes as long to ask for as 2 KB take
to arrive (kernels/README.md), so boxes serve shorter ones. Limits: CUDA driver API, cuTensorMapEncodeTiled.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import gcd

from mmvq_cli.op.descriptor import Descriptor

_ALIGNMENT = 16  # bytes, of rows and of what a box begins with (an H200 calls others an illegal instruction)
SHARED_ALIGNMENT = 128  # bytes, of a box in shared memory
UNIT = 8  # bytes of an element
_MAX_ELEMENTS = 256  # of a box, in each dimension
_MAX_ROWS = 2**31

LONGEST_ROW = UNIT * _MAX_ELEMENTS  # bytes, in a box


@dataclass(frozen=True, slots=True)
class Boxes:
    """A tensor of `height` lines of `width` elements of `UNIT` bytes, without gaps, and the size of boxes in it.

    What of a box lies outside the tensor becomes zero.
    """

    width: int
    height: int
    box_width: int
    box_height: int


def rows_of_line(d: Descriptor) -> int:
    """Rows that start where boxes may only together."""
    return _ALIGNMENT // gcd(_ALIGNMENT, d.format.row_bytes(d.n_cols))


def find_boxes(d: Descriptor, rows: int, row_slot: int, line_rows: int = 1) -> Boxes | None:
    """Boxes for so many rows, each `row_slot` bytes long in shared memory; None when there are none.

    With `line_rows` to a line of the tensor a box has one of each, so that so many boxes are the rows. Each begins at
    a multiple of `SHARED_ALIGNMENT` bytes.
    """
    line_bytes, n_rows = line_rows * d.format.row_bytes(d.n_cols), d.n_experts * d.n_rows_per_expert
    begin_at_lines = line_bytes % _ALIGNMENT == 0 and d.n_rows_per_expert % line_rows == 0 and rows % line_rows == 0
    are_small = rows <= line_rows * _MAX_ELEMENTS and row_slot <= LONGEST_ROW and n_rows < _MAX_ROWS
    if not (begin_at_lines and are_small):
        return None
    return Boxes(
        width=line_bytes // UNIT,
        height=n_rows // line_rows,
        box_width=row_slot // UNIT,
        box_height=rows // line_rows,
    )
