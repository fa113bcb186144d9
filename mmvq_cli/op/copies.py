"""How an item's rows lie in a stage of shared memory: as boxes, together as they lie, or each copied by itself."""

from __future__ import annotations

from dataclasses import dataclass

from mmvq_cli.op.boxes import SHARED_ALIGNMENT, Boxes, find_boxes, rows_of_line
from mmvq_cli.op.descriptor import Descriptor
from mmvq_cli.op.operands import Operands
from mmvq_cli.op.rounding import round_up

LINE = 16  # bytes that copies begin and end at
_SHORT_ROW, _SHORT_ROW_BYTES = 1536, 700  # weights or packed bytes up to which an item's rows are copied together
_ROUNDING_BYTES = 32  # that the first and the last line of such a copy may have besides
_LEAST_BOX_ROWS = 4  # lanes that read eight rows of four boxes at once meet in banks


@dataclass(frozen=True, slots=True)
class Copies:
    """Rows `row_slot` bytes apart in `n_bytes`: `boxes`, or one copy if `are_together`, or some for each row.

    With `line_rows` to a line of the boxes' tensor there are so many boxes, `box_bytes` apart.
    """

    row_slot: int
    n_bytes: int
    boxes: Boxes | None = None
    line_rows: int = 1
    box_bytes: int = 0
    are_together: bool = False


def copies_of(
    d: Descriptor, operands: Operands, rows: int, segment_bytes: int, are_whole: bool, has_bulk_copies: bool
) -> Copies:
    """What is best for segments of this size, which may be `are_whole` rows or parts of them."""
    boxes = _boxes(d, operands, rows, segment_bytes, are_whole) if has_bulk_copies else None
    if boxes:
        return boxes
    if are_whole and _are_short(d) and has_bulk_copies:
        row_slot = d.format.row_bytes(d.n_cols)
        return Copies(row_slot, rows * row_slot + _ROUNDING_BYTES, are_together=True)
    has_phases = not d.format.is_float and d.format.type_size % LINE != 0  # floats stream in whole vectors
    row_slot = row_slot_of(d, operands, segment_bytes, has_phases)
    return Copies(row_slot, rows * row_slot)


def _boxes(d: Descriptor, operands: Operands, rows: int, segment_bytes: int, are_whole: bool) -> Copies | None:
    """A box, or one for each row of a line where rows begin at lines of 16 bytes only together."""
    line_rows = rows_of_line(d)
    may_begin = line_rows == 1 or (not _are_short(d) and rows >= _LEAST_BOX_ROWS * line_rows)
    has_phases = line_rows > 1 or not (are_whole or segment_bytes % LINE == 0)
    row_slot = row_slot_of(d, operands, segment_bytes, has_phases)
    boxes = find_boxes(d, rows, row_slot, line_rows) if may_begin else None
    if boxes is None:
        return None
    box_bytes = round_up(boxes.box_height * row_slot, SHARED_ALIGNMENT)
    return Copies(row_slot, line_rows * box_bytes, boxes, line_rows, box_bytes)


def _are_short(d: Descriptor) -> bool:
    """Whether rows are copied as they lie: a copy for each would take longer than its bytes."""
    return d.n_cols <= _SHORT_ROW or d.format.row_bytes(d.n_cols) <= _SHORT_ROW_BYTES


def row_slot_of(d: Descriptor, operands: Operands, segment_bytes: int, has_phases: bool) -> int:
    """Bytes for a row, which begins at its phase in 16 bytes if it may have one."""
    return _box_slot(d, operands, segment_bytes + (LINE - 1 if has_phases else 0))


def _box_slot(d: Descriptor, operands: Operands, segment_bytes: int) -> int:
    """The same where copies begin with the row itself; lanes of eight rows read from shared memory at once."""
    if d.format.is_float:
        return segment_bytes  # a warp reads one row at a time
    if operands.digits and operands.min_groups:
        return (segment_bytes + 31) // 64 * 64 + 32  # 8 bytes each, 32 of a row
    return (segment_bytes + 15) // 32 * 32 + 16  # an odd number of lines: 4 bytes each, or 16 at strides of 32
