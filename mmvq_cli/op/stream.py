"""The shape of the streaming kernel (`kernels/stream.cu`): tile width, rows, segments, stages, shared memory.

What may change the order of a sum (`run`) depends on n_cols and the format only, so that a token has the same bits in
any batch and on any device; everything else follows the problem's size and the shared memory.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from itertools import product

from mmvq_cli.op.block import Block, blocks_for
from mmvq_cli.op.boxes import LONGEST_ROW, Boxes
from mmvq_cli.op.copies import copies_of
from mmvq_cli.op.descriptor import Accumulate, Descriptor, OutputMode, Rows
from mmvq_cli.op.device import OLDEST_COMPUTE_CAPABILITY, Device
from mmvq_cli.op.formats import Format
from mmvq_cli.op.operands import Operands, digits_of, halves_of, has_digits, operands_of
from mmvq_cli.op.rounding import round_up
from mmvq_cli.op.shape import SHAPE_FIELDS, SHARE_BYTES, StreamShape
from mmvq_cli.op.tiles import expected_tiles, share_of_work, touched_experts, wanted_widths

_OCTET = 8  # neighbouring floats that a lane reads
CHUNK = 256  # weights of a row that one warp takes at a time
_MAX_SLICES = 14  # of a row: what one item's sums have room for, and one for each warp
_FEW_CHUNKS, _FEW_SLICES = 12, 4  # rows of up to so many chunks are cut into fewer: each takes some 90 instructions
_LONG_SLICES = 7  # of rows whose chunks have few bytes: of what warps work on, copies have no room
_LIGHT_CHUNK, _LIGHT_CHUNK_WITH_GRID = 110, 66  # bytes; copies of a codebook leave less room
_SHORTEST_RUN = 2  # chunks of a slice
_WHOLE_CHUNKS = 3  # rows that are not cut
_MAX_STAGES = 8
_COUNTED_STAGES = 2**29  # of a block: what `stage_inverse` divides
_MAX_BUFFERS = 8
_MAX_SUMS_BYTES = 24 * 1024  # of more than two items
_MIN_STAGES = 3
_MIN_UNITS, _MAX_UNITS = 4, 8  # of an item: with fewer a block would be at many items at once; more end further apart
_MAX_COLUMN_TILES = 2  # of 8 mma columns: with four, sums and activations leave too little room for stages
_PLAIN_COLUMNS = 2  # dispatches of a tile up to which f32 products keep up with the memory
_PLAIN_TILES = 1.15  # of two dispatches for each touched expert, up to which they are faster than tiles of four
# Of four dispatches for each touched expert, up to which f32 products are faster than f16 in one part or in two.
_MOST_PLAIN_TILES = {1: 1.2, 2: 2.0}
_MAX_PLAIN_COLUMNS = 4  # multiplied at once: more would read the rows again from shared memory
_DIGIT_COLUMNS = 2  # dispatches that are digits in one column tile; two column tiles are slower
_ROW_GROUPS = (8, 4, 2, 1)  # of 16 rows
_SECOND_TILE_BYTES = 20 * 1024  # activations of a tile up to which there is room for two
_EARLY_BYTES = 76 * 1024  # packed bytes on their way before the first activations, which would queue up behind more
_FEW_COPIES = 8  # of the codebook: fewer are not faster than one
_RING_BYTES = 32 * 1024  # packed bytes of all stages that several row groups must leave room for
_STAGE_BYTES = 40 * 1024  # packed bytes that a stage should not exceed: several stages keep the memory busy
_SMALL_STAGE_BYTES = 20 * 1024  # the same for three stages: four smaller ones are faster


def stream_shape(d: Descriptor, device: Device) -> StreamShape | None:
    """The widest fitting tile that the dispatches per touched expert ask for; None when the kernel cannot run."""
    return _widest(sizes_of(d), operands_of(d), device) if can_stream(d, device) else None


def halves_shape(d: Descriptor, device: Device) -> StreamShape | None:
    """The same for plain floats as f16; None for block formats, and where f32 products read few rows twice."""
    if not d.format.is_float or not can_stream(d, device):
        return None
    operands = halves_of(d)
    if expected_tiles(d, _MAX_PLAIN_COLUMNS) <= _MOST_PLAIN_TILES[operands.parts] * touched_experts(d):
        return None
    return _widest(sizes_of(d), operands, device)


def digit_shape(d: Descriptor, device: Device) -> StreamShape | None:
    """The same with digits for activations; None where f16 is faster: in wide tiles and some formats."""
    if not can_stream(d, device) or not has_digits(d):
        return None
    width = min(wanted_widths(d)[-1], _DIGIT_COLUMNS)
    are_few = expected_tiles(d, width) <= d.format.digit_tiles * touched_experts(d)
    return _fill(sizes_of(d), digits_of(d), width, device) if are_few else None


def sizes_of(d: Descriptor) -> Descriptor:
    """The problem with ordinary modes, which change no shape: all of them share what is computed once."""
    return replace(
        d,
        activation_rows=Rows.TOKEN,
        output_rows=Rows.TOKEN,
        output_mode=OutputMode.OVERWRITE,
        accumulate=Accumulate.ORDERED,
    )


def _widest(d: Descriptor, operands: Operands, device: Device) -> StreamShape | None:
    most = _most_plain_columns(d) if operands.is_plain else 8 * _MAX_COLUMN_TILES // operands.slots
    shapes = (_fill(d, operands, width, device) for width in reversed(wanted_widths(d)) if width <= most)
    return next((shape for shape in shapes if shape is not None), None)


def _most_plain_columns(d: Descriptor) -> int:
    """Two where few rows are read twice for it: four take longer to multiply."""
    are_few = expected_tiles(d, _PLAIN_COLUMNS) <= _PLAIN_TILES * touched_experts(d)
    return _PLAIN_COLUMNS if are_few else _MAX_PLAIN_COLUMNS


def can_stream(d: Descriptor, device: Device) -> bool:
    """Whether the kernel takes such problems at all, tiles that fit provided."""
    are_whole_vectors = not d.format.is_float or d.n_cols % _OCTET == 0
    most_stages = d.m_total * -(-d.n_rows_per_expert // 16) * _slicing(d)[2]  # of all blocks together
    are_counted = most_stages < _COUNTED_STAGES * max(device.sm_count, 1)
    return (
        are_whole_vectors and are_counted and not d.is_empty and device.compute_capability >= OLDEST_COMPUTE_CAPABILITY
    )


@lru_cache(maxsize=256)  # a rule asks for it, then the plan
def _fill(d: Descriptor, operands: Operands, columns: int, device: Device) -> StreamShape | None:
    """The block, the rows and the segment for this width; boxes before other copies, four stages before three.

    None when nothing fits. `d` has the sizes alone (`sizes_of`).
    """
    for needs_boxes in (True, False) if device.has_bulk_copies else (False,):
        blocks = blocks_for(d, operands, _column_tiles(operands, columns), needs_boxes, device)
        for block, stage_of_three in product(blocks, (_SMALL_STAGE_BYTES, _STAGE_BYTES)):
            shape = _fill_block(d, operands, columns, block, device.sm_count, needs_boxes, stage_of_three)
            if shape is not None:
                return shape
    return None


def _fill_block(
    d: Descriptor,
    operands: Operands,
    columns: int,
    block: Block,
    sm_count: int,
    needs_boxes: bool,
    stage_of_three: int,
) -> StreamShape | None:
    """The same for this block and as many stages as fit: three of up to `stage_of_three` bytes, or more."""
    _, _, n_slices = _slicing(d)
    for row_groups in _row_groups(d, columns, block, sm_count, n_slices):
        for n_segments in range(1, n_slices + 1):
            shape, stages_at, boxes = _layout(d, operands, columns, block, row_groups, -(-n_slices // n_segments))
            if needs_boxes and boxes is None:
                continue
            room, stage_bytes = block.shared_bytes - stages_at, shape["stage_bytes"]
            n_stages = min(room // stage_bytes, _MAX_STAGES)
            if row_groups > 1 and n_stages * stage_bytes < block.share(_RING_BYTES):
                continue  # fewer rows have smaller sums
            is_smallest = row_groups == 1 and shape["slices"] == 1
            if shape["copy_rows"] > 1 or is_smallest:
                most = room
            elif n_stages == _MIN_STAGES:
                most = block.share(stage_of_three)
            else:
                most = max(block.share(_STAGE_BYTES), room // 4)
            if n_stages >= _MIN_STAGES and stage_bytes <= most:
                shape["n_stages"] = n_stages
                shape["stage_inverse"] = -(-(2**32) // n_stages)
                shape["early_stages"] = min(n_stages, max(1, block.share(_EARLY_BYTES) // stage_bytes))
                values = tuple((name, shape[name]) for name in SHAPE_FIELDS)
                shared = stages_at + n_stages * stage_bytes
                return StreamShape(values, operands, _column_tiles(operands, columns), block, shared, boxes)
    return None


def _slicing(d: Descriptor) -> tuple[int, int, int]:
    """Chunks of a row, chunks of a slice, slices of a row."""
    n_chunks = -(-d.n_cols // CHUNK)
    is_short = n_chunks <= _FEW_CHUNKS and _SHORTEST_RUN * d.format.row_bytes(CHUNK) < LONGEST_ROW  # longer: no boxes
    if is_short and n_chunks <= _WHOLE_CHUNKS:
        return n_chunks, n_chunks, 1
    most = _FEW_SLICES if is_short else _LONG_SLICES if _is_light(d.format) else _MAX_SLICES
    run = max(_SHORTEST_RUN, -(-n_chunks // most))
    return n_chunks, run, -(-n_chunks // run)


def _is_light(format: Format) -> bool:
    """Whether longer slices leave enough shared memory for stages on their way."""
    has_grid = format.grid_words or format.digit_grid_words
    return format.row_bytes(CHUNK) <= (_LIGHT_CHUNK_WITH_GRID if has_grid else _LIGHT_CHUNK)


def _layout(
    d: Descriptor, operands: Operands, columns: int, block: Block, row_groups: int, slices: int
) -> tuple[dict[str, int], int, Boxes | None]:
    """The kernel's Shape but for its n_stages, the bytes of shared memory before the stages, and boxes if there are."""
    n_chunks, run, n_slices = _slicing(d)
    rows, segment = 16 * row_groups, slices * run * CHUNK
    packed_segment = d.format.row_bytes(min(segment, round_up(d.n_cols, d.format.block_size)))
    copies = copies_of(d, operands, rows, packed_segment, slices == n_slices, block.has_bulk_copies)
    n_bytes = chunk_bytes(operands)
    column_bytes = spread(n_chunks * n_bytes)
    item_sums = n_slices * rows * 8 * _column_tiles(operands, columns)
    n_buffers = _n_buffers(n_slices * row_groups, block, item_sums)
    # Behind barriers of 8 bytes and counters of 4: of stages, of buffers, of the first activations and the share, and
    # of stages on their way.
    grid_at = round_up(16 * _MAX_STAGES + 12 * _MAX_BUFFERS + 2 * 8 + 4 + SHARE_BYTES, 16)
    grid_copies = grid_copies_of(operands, block)
    sums_at = round_up(grid_at + 4 * operands.grid_words * grid_copies, 16)
    columns_at = round_up(sums_at + n_buffers * 4 * item_sums, 128)
    tile_bytes = columns * operands.parts * column_bytes
    tile_slots = 2 if tile_bytes <= block.share(_SECOND_TILE_BYTES) else 1
    stages_at = round_up(columns_at + tile_slots * tile_bytes, 128)
    shape = {
        "warps": block.warps,
        "columns": columns,
        "column_shift": columns.bit_length() - 1,
        "tile_slots": tile_slots,
        "row_groups": row_groups,
        "group_shift": row_groups.bit_length() - 1,
        "rows": rows,
        "n_row_tiles": -(-d.n_rows_per_expert // rows),
        "run": run,
        "slice_columns": run * n_bytes,
        "row_columns": n_chunks * n_bytes,
        "slice": run * CHUNK,
        "packed_slice": d.format.row_bytes(run * CHUNK),
        "n_slices": n_slices,
        "n_chunks": n_chunks,
        "chunk_inverse": -(-(2**30) // n_chunks),
        "slices": slices,
        "units": slices * row_groups,
        "item_units": n_slices * row_groups,
        "segment": segment,
        "n_segments": -(-d.n_cols // segment),
        "segment_inverse": -(-(2**8) // slices),
        "packed_segment": packed_segment,
        "row_slot": copies.row_slot,
        "copy_rows": rows if copies.are_together else 1,
        "has_boxes": int(copies.boxes is not None),
        "line_rows": copies.line_rows,
        "line_shift": copies.line_rows.bit_length() - 1,
        "box_shift": (rows // copies.line_rows).bit_length() - 1,
        "box_bytes": copies.box_bytes,
        "stage_bytes": round_up(copies.n_bytes, 128),
        "column_bytes": column_bytes,
        "item_sums": item_sums,
        "n_buffers": n_buffers,
        "buffer_shift": n_buffers.bit_length() - 1,
        "sums_at": sums_at,
        "columns_at": columns_at,
        "stages_at": stages_at,
        "grid_at": grid_at,
        "grid_copies": grid_copies,
    }
    return shape, stages_at, copies.boxes


def chunk_bytes(operands: Operands) -> int:
    """Of a column: activations, four 16-bit parts of each group's sum, the power of two that scales all but f16."""
    return operands.element_bytes * CHUNK + 8 * operands.min_groups + (16 if operands.is_scaled else 0)


def _n_buffers(item_units: int, block: Block, item_sums: int) -> int:
    """Items whose sums are kept: those that the warps are at, and as many that are summed up."""
    wanted = 2 + 2 * block.warps // item_units
    n_buffers = min(1 << (wanted - 1).bit_length(), _MAX_BUFFERS)
    while n_buffers > 2 and n_buffers * 4 * item_sums > block.share(_MAX_SUMS_BYTES):
        n_buffers //= 2
    return n_buffers


def grid_copies_of(operands: Operands, block: Block) -> int:
    """Copies of the codebook: lanes that look up different entries in one bank wait for each other."""
    fitting = block.grid_bytes // (4 * operands.grid_words) if operands.grid_words else 1
    return min(32, 1 << (fitting.bit_length() - 1)) if fitting >= _FEW_COPIES else 1


def spread(n_bytes: int) -> int:
    """The next size that is 64 mod 128: lanes that read 64 bytes of each of two meet in no bank."""
    return (n_bytes + 63) // 128 * 128 + 64


def _row_groups(d: Descriptor, columns: int, block: Block, sm_count: int, n_slices: int) -> list[int]:
    """What to try, best first: the most rows that share the work out as well as fewer would, then fewer, then more."""
    tiles = max(touched_experts(d), d.m_total / columns)
    n_blocks = sm_count * block.per_multiprocessor

    def balance(groups: int) -> float:
        return share_of_work(d, tiles, 16 * groups, n_blocks)

    fitting = [g for g in _ROW_GROUPS if _MIN_UNITS <= g * n_slices <= max(_MAX_UNITS, n_slices)]
    small = [g for g in fitting if 16 * g * d.format.row_bytes(d.n_cols) <= block.share(_STAGE_BYTES)] or fitting[-1:]
    best = next(g for g in small if balance(g) >= 0.95 * max(map(balance, small)))
    return [best, *(g for g in _ROW_GROUPS if g < best), *(g for g in reversed(_ROW_GROUPS) if g > best)]


def _column_tiles(operands: Operands, columns: int) -> int:
    """Eights of mma columns, rounded up to a power of two."""
    tiles = -(-columns * operands.slots // 8)
    return 1 << (tiles - 1).bit_length()
