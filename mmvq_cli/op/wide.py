"""The shape of the kernel for many dispatches per expert (`kernels/wide.cu`): columns, rows, stages, shared memory."""

from __future__ import annotations

from functools import lru_cache

from mmvq_cli.op.block import Block, shared_bytes_of
from mmvq_cli.op.boxes import SHARED_ALIGNMENT, find_boxes, rows_of_line
from mmvq_cli.op.copies import LINE, row_slot_of
from mmvq_cli.op.descriptor import Descriptor
from mmvq_cli.op.device import Device
from mmvq_cli.op.operands import Operands, halves_of, operands_of
from mmvq_cli.op.rounding import round_up
from mmvq_cli.op.shape import SHAPE_FIELDS, StreamShape
from mmvq_cli.op.stream import CHUNK, can_stream, grid_copies_of, sizes_of, spread
from mmvq_cli.op.tiles import expected_tiles, share_of_work, touched_experts

# Warpgroups that multiply, by groups of eight mma columns in a tile: more columns need more registers.
_WARPGROUPS = {1: 3, 2: 3, 4: 3, 8: 2}
_GROUP_COLUMNS = 8
_WARPGROUP_ROWS = 64
_MOST_TILES = 1.1  # for each touched expert: each reads the expert's rows
_MIN_STAGES, _MAX_STAGES = 3, 8
_CHUNKS = (4, 2, 1)  # of a stage
_GRID_BYTES = 32 * 1024  # of copies of a codebook
_AS_GOOD = 0.94  # of the best balance: more rows read activations less often
_BARRIER_BYTES = 256  # of barriers, and the items of stages
_ITEM_BYTES = 2**30  # of packed rows that an item is below: the kernel counts them in 32 bits
_ARRANGED_BYTES = 2**30  # of activations: for more, a workspace that only saves time is too large


def wide_shape(d: Descriptor, device: Device) -> StreamShape | None:
    """The narrowest tile that leaves few experts cut, else the widest that fits; None where the kernel cannot run."""
    most_rows = _WARPGROUP_ROWS * max(_WARPGROUPS.values())
    fits = can_stream(d, device) and most_rows * d.format.row_bytes(d.n_cols) < _ITEM_BYTES
    if not device.has_warpgroups or not fits:
        return None
    operands = halves_of(d) if d.format.is_float else operands_of(d)
    sizes = sizes_of(d)
    shapes = [shape for tiles in _WARPGROUPS if (shape := _fill(sizes, operands, tiles, device)) is not None]
    most = _MOST_TILES * touched_experts(d)
    few = (shape for shape in shapes if expected_tiles(d, shape.columns) <= most)
    shape = next(few, shapes[-1] if shapes else None)
    return shape if shape and arranged_bytes(d, shape) <= _ARRANGED_BYTES else None


def group_dispatches(operands: Operands) -> int:
    """Dispatches of a group of eight mma columns."""
    return _GROUP_COLUMNS // operands.slots


def group_bytes(operands: Operands) -> int:
    """Of such a group for 256 weights: activations, sums of the format's groups, powers of two."""
    column = operands.element_bytes * CHUNK + 8 * operands.min_groups + (8 if operands.is_scaled else 0)
    return _GROUP_COLUMNS * column


def arranged_groups(d: Descriptor, operands: Operands) -> int:
    """More than experts can have, because each begins with a group of its own."""
    return d.m_total // group_dispatches(operands) + d.n_experts


def arranged_bytes(d: Descriptor, shape: StreamShape) -> int:
    """Bytes of all dispatches' activations as the kernel multiplies them."""
    return arranged_groups(d, shape.operands) * shape.n_chunks * group_bytes(shape.operands)


@lru_cache(maxsize=256)
def _fill(d: Descriptor, operands: Operands, column_tiles: int, device: Device) -> StreamShape | None:
    """As many rows, which read activations once, then as many chunks in a stage, as leave room for stages."""
    for warpgroups in _row_warpgroups(d, _GROUP_COLUMNS * column_tiles // operands.slots, column_tiles, device):
        for chunks in _CHUNKS:
            shape = _layout(d, operands, column_tiles, warpgroups, chunks, device)
            if shape and shape.n_stages >= _MIN_STAGES:
                return shape
    return None


def _row_warpgroups(d: Descriptor, columns: int, column_tiles: int, device: Device) -> list[int]:
    """What to try, best first: the most rows that share the work out as well as fewer would, then fewer."""
    tiles = expected_tiles(d, columns)

    def balance(warpgroups: int) -> float:
        return share_of_work(d, tiles, _WARPGROUP_ROWS * warpgroups, device.sm_count)

    choices = range(_WARPGROUPS[column_tiles], 0, -1)
    best = next(groups for groups in choices if balance(groups) >= _AS_GOOD * max(map(balance, choices)))
    return [best, *(groups for groups in choices if groups < best)]


def _block(warps: int, column_tiles: int, device: Device) -> Block:
    """One for a multiprocessor; the kernel is compiled for the most warps that any plan has."""
    shared = shared_bytes_of(device)
    return Block(
        per_multiprocessor=1,
        warps=warps,
        summing_warps=0,
        shared_bytes=shared,
        max_threads=32 * (4 * _WARPGROUPS[column_tiles] + 1),
        grid_bytes=min(_GRID_BYTES, shared // 8),
        has_bulk_copies=True,
    )


def _layout(
    d: Descriptor, operands: Operands, column_tiles: int, warpgroups: int, chunks: int, device: Device
) -> StreamShape | None:
    """The kernel's Shape with as many stages as there is room for; None where rows are no boxes."""
    block = _block(4 * warpgroups, column_tiles, device)
    n_chunks, columns = -(-d.n_cols // CHUNK), _GROUP_COLUMNS * column_tiles // operands.slots
    chunks = min(chunks, n_chunks)
    segment, rows, line_rows = chunks * CHUNK, _WARPGROUP_ROWS * warpgroups, rows_of_line(d)
    packed_segment = d.format.row_bytes(min(segment, round_up(d.n_cols, d.format.block_size)))
    has_phases = chunks < n_chunks and packed_segment % LINE != 0
    in_line = packed_segment + (LINE - 1 if line_rows > 1 else 0)  # behind what the row before it left of a line
    row_slot = spread(in_line) if d.format.is_float else row_slot_of(d, operands, in_line, has_phases)
    boxes = find_boxes(d, rows, row_slot, line_rows)
    if boxes is None or boxes.box_height * row_slot % SHARED_ALIGNMENT:  # boxes follow each other
        return None
    columns_at = round_up(rows * row_slot, 128)
    stage_bytes = round_up(columns_at + chunks * column_tiles * group_bytes(operands), 128)
    grid_copies = grid_copies_of(operands, block)
    stages_at = round_up(_BARRIER_BYTES + 4 * operands.grid_words * grid_copies, 128)
    n_stages = min((block.shared_bytes - stages_at) // stage_bytes, _MAX_STAGES)
    shape = dict.fromkeys(SHAPE_FIELDS, 0) | {
        "warps": block.warps,
        "columns": columns,
        "column_shift": columns.bit_length() - 1,
        "rows": rows,
        "n_row_tiles": -(-d.n_rows_per_expert // rows),
        "n_chunks": n_chunks,
        "segment": segment,
        "packed_segment": packed_segment,
        "row_slot": row_slot,
        "stage_bytes": stage_bytes,
        "n_stages": n_stages,
        "columns_at": columns_at,
        "stages_at": stages_at,
        "grid_at": _BARRIER_BYTES,
        "grid_copies": grid_copies,
        "line_rows": line_rows,
    }
    values = tuple((name, shape[name]) for name in SHAPE_FIELDS)
    return StreamShape(values, operands, column_tiles, block, stages_at + n_stages * stage_bytes, boxes)
