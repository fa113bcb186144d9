"""The shape of the kernel for many dispatches per expert (`kernels/wide.cu`): columns, rows, stages, shared memory."""

from __future__ import annotations

from mmvq_cli.op.block import Block, shared_bytes_of
from mmvq_cli.op.boxes import find_boxes
from mmvq_cli.op.copies import LINE, row_slot_of
from mmvq_cli.op.descriptor import Descriptor
from mmvq_cli.op.device import Device
from mmvq_cli.op.operands import Operands, halves_of, operands_of
from mmvq_cli.op.shape import SHAPE_FIELDS, StreamShape
from mmvq_cli.op.stream import CHUNK, can_stream, chunk_bytes, grid_copies_of, round_up, sizes_of, spread
from mmvq_cli.op.tiles import expected_tiles, share_of_work, touched_experts

# Warps that multiply where others copy lines, and where one copies boxes, by column tiles: more need more registers.
_WARPS, _BOX_WARPS = {4: 12, 8: 8}, {4: 15, 8: 11}
_COPYING_WARPS = 4  # of lines
_FEWEST_GROUPS = 4  # of 16 rows
_MOST_TILES = 1.1  # for each touched expert: each reads the expert's rows
_MIN_STAGES, _MAX_STAGES = 3, 8
_CHUNKS = (4, 2, 1)  # of a stage
_ENOUGH_STAGES = 5  # for more than one chunk in each, of lines
_BOX_BYTES = 128  # of a row's piece in a stage, from which on boxes are faster than lines
_GRID_BYTES = 32 * 1024  # of copies of a codebook
_AS_GOOD = 0.97  # of the best balance: more warps hide more
_BARRIER_BYTES = 256
_ITEM_BYTES = 2**30  # of packed rows that an item is below: the kernel counts them in 32 bits
_ARRANGED_BYTES = 2**30  # of activations: for more, a workspace that only saves time is too large


def wide_shape(d: Descriptor, device: Device) -> StreamShape | None:
    """The narrowest tile that leaves few experts cut, else the widest that fits; None where the kernel cannot run."""
    rows = 16 * max(*_WARPS.values(), *_BOX_WARPS.values())
    if not can_stream(d, device) or rows * d.format.row_bytes(d.n_cols) >= _ITEM_BYTES:
        return None
    operands = halves_of(d) if d.format.is_float else operands_of(d)
    sizes = sizes_of(d)
    shapes = [shape for tiles in _WARPS if (shape := _fill(sizes, operands, tiles, device)) is not None]
    most = _MOST_TILES * touched_experts(d)
    few = (shape for shape in shapes if expected_tiles(d, shape.columns) <= most)
    shape = next(few, shapes[-1] if shapes else None)
    return shape if shape and arranged_bytes(d, shape) <= _ARRANGED_BYTES else None


def arranged_bytes(d: Descriptor, shape: StreamShape) -> int:
    """Bytes of all dispatches' activations as the kernel multiplies them."""
    return d.m_total * shape.n_chunks * shape.operands.parts * shape.column_bytes


def _fill(d: Descriptor, operands: Operands, column_tiles: int, device: Device) -> StreamShape | None:
    """Boxes where the rows' pieces are long enough, else lines; as many rows and chunks as leave room for stages.

    Two warps share the chunks of a stage that has more than one by boxes: few rows leave room for such stages.
    """
    for has_boxes in (True, False) if device.has_bulk_copies else (False,):
        most = (_BOX_WARPS if has_boxes else _WARPS)[column_tiles]
        for chunks in _CHUNKS:
            slices = 2 if chunks > 1 and has_boxes else 1
            for groups in _row_groups(d, 8 * column_tiles // operands.slots, most // slices, device.sm_count):
                block = _block(groups * slices, has_boxes, column_tiles, device)
                shape = _layout(d, operands, column_tiles, block, groups, chunks, has_boxes)
                if shape and shape.n_stages >= (_MIN_STAGES if has_boxes or chunks == 1 else _ENOUGH_STAGES):
                    return shape
    return None


def _row_groups(d: Descriptor, columns: int, most: int, sm_count: int) -> list[int]:
    """Of 16 rows, what to try, best first: the most that share the work out as well as fewer would, then fewer."""
    tiles = expected_tiles(d, columns)

    def balance(groups: int) -> float:
        return share_of_work(d, tiles, 16 * groups, sm_count)

    choices = range(most, min(most, _FEWEST_GROUPS) - 1, -1)
    best = next(groups for groups in choices if balance(groups) >= _AS_GOOD * max(map(balance, choices)))
    return [best, *(groups for groups in choices if groups < best)]


def _block(warps: int, has_boxes: bool, column_tiles: int, device: Device) -> Block:
    """One for a multiprocessor; the kernel is compiled for the most warps that any plan has."""
    shared = shared_bytes_of(device)
    return Block(
        per_multiprocessor=1,
        warps=warps,
        summing_warps=0,
        shared_bytes=shared,
        max_threads=32 * (_WARPS[column_tiles] + _COPYING_WARPS),
        grid_bytes=min(_GRID_BYTES, shared // 8),
        has_bulk_copies=device.has_bulk_copies,
        copying_warps=1 if has_boxes else _COPYING_WARPS,
    )


def _layout(
    d: Descriptor,
    operands: Operands,
    column_tiles: int,
    block: Block,
    row_groups: int,
    chunks: int,
    has_boxes: bool,
) -> StreamShape | None:
    """The kernel's Shape with as many stages as there is room for; None without boxes where it should have some."""
    n_chunks, columns = -(-d.n_cols // CHUNK), 8 * column_tiles // operands.slots
    chunks = min(chunks, n_chunks)
    segment, rows, slices = chunks * CHUNK, 16 * row_groups, block.warps // row_groups
    packed_segment = d.format.row_bytes(min(segment, round_up(d.n_cols, d.format.block_size)))
    has_phases = d.format.row_bytes(d.n_cols) % LINE != 0 or (chunks < n_chunks and packed_segment % LINE != 0)
    row_slot = spread(packed_segment) if d.format.is_float else row_slot_of(d, operands, packed_segment, has_phases)
    row_lines = -(-(packed_segment + (LINE - 1 if has_phases else 0)) // LINE)
    boxes = find_boxes(d, rows, packed_segment, row_slot) if has_boxes and packed_segment >= _BOX_BYTES else None
    if has_boxes and boxes is None:
        return None
    column_bytes, columns_at = spread(chunk_bytes(operands)), round_up(rows * row_slot, 128)
    stage_bytes = columns_at + chunks * columns * operands.parts * column_bytes
    grid_copies = grid_copies_of(operands, block)
    sums_at = round_up(_BARRIER_BYTES + 4 * operands.grid_words * grid_copies, 128)
    stages_at = sums_at + (32 * rows * column_tiles if slices > 1 else 0)
    n_stages = min((block.shared_bytes - stages_at) // stage_bytes, _MAX_STAGES)
    shape = dict.fromkeys(SHAPE_FIELDS, 0) | {
        "warps": block.warps,
        "row_groups": row_groups,
        "slices": slices,
        "columns": columns,
        "column_shift": columns.bit_length() - 1,
        "rows": rows,
        "n_row_tiles": -(-d.n_rows_per_expert // rows),
        "n_chunks": n_chunks,
        "segment": segment,
        "packed_segment": packed_segment,
        "row_slot": row_slot,
        "has_boxes": int(has_boxes),
        "stage_bytes": stage_bytes,
        "n_stages": n_stages,
        "column_bytes": column_bytes,
        "sums_at": sums_at,
        "columns_at": columns_at,
        "stages_at": stages_at,
        "grid_at": _BARRIER_BYTES,
        "grid_copies": grid_copies,
        "row_lines": row_lines,
    }
    values = tuple((name, shape[name]) for name in SHAPE_FIELDS)
    return StreamShape(values, operands, column_tiles, block, stages_at + n_stages * stage_bytes, boxes)
