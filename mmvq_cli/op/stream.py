"""The shape of the streaming kernel (`kernels/stream.cu`): tile width, rows, segments, stages, shared memory.

What may change the order of a sum (`run`) depends on n_cols only, so that a token has the same bits in any batch and on
any device; everything else follows the problem's size and the shared memory.
"""

from __future__ import annotations

import ctypes
import math
from dataclasses import dataclass
from functools import lru_cache

from mmvq_cli.op.descriptor import Descriptor, Dtype
from mmvq_cli.op.device import Device

_CHUNK = 256  # weights of a row that one warp takes at a time
_MAX_SLICES = 14  # of a row: what one item's sums have room for, and one for each warp
_MAX_STAGES = 8
_MIN_STAGES = 3
_WARPS = {1: 14, 2: 12}  # that multiply, by column tiles: more tiles need more registers
_MIN_UNITS = 7  # of an item: about half as many as warps, so that they have something to share
_SUMMING_WARPS = {1: 1, 2: 2}  # that sum up; two take turns: wide tiles have more to add and store
_COPYING_WARPS = 1
_MAX_COLUMN_TILES = 2  # of 8 mma columns: with four, sums and activations leave too little room for stages
_WIDTHS = (1, 2, 4, 8, 16)  # dispatches per tile
_ROW_GROUPS = (8, 4, 2, 1)  # of 16 rows
_SECOND_TILE_BYTES = 20 * 1024  # activations of a tile up to which there is room for two
_EARLY_BYTES = 32 * 1024  # packed bytes on their way before the first activations, which would queue up behind more
_SHORT_ROW, _SHORT_ROW_BYTES = 1536, 700  # weights or packed bytes up to which an item's rows are copied together
_ROUNDING_BYTES = 32  # that the first and the last line of such a copy may have besides
_RING_BYTES = 32 * 1024  # packed bytes of all stages that several row groups must leave room for
_STAGE_BYTES = 40 * 1024  # packed bytes that a stage should not exceed: several stages keep the memory busy

# Dynamic shared memory of a block after opting in, in bytes, by compute capability (CUDA programming guide).
_SHARED_BYTES = {(9, 0): 232_448, (10, 0): 232_448}
_SHARED_BYTES_ELSEWHERE = 101_376

_SHAPE = (
    "columns",
    "column_shift",
    "tile_slots",
    "row_groups",
    "group_shift",
    "rows",
    "n_row_tiles",
    "run",
    "n_slices",
    "slices",
    "units",
    "segment",
    "n_segments",
    "packed_segment",
    "row_slot",
    "copy_rows",
    "stage_bytes",
    "n_stages",
    "early_stages",
    "column_bytes",
    "item_sums",
    "sums_at",
    "columns_at",
    "stages_at",
    "grid_at",
)


class _Shape(ctypes.Structure):
    """`Shape` of kernels/stream.cu, where the fields are explained."""

    _fields_ = tuple((name, ctypes.c_int32) for name in _SHAPE)


def shape_checks() -> str:
    """C++ static assertions that `kernels/stream.cu` declares the same struct."""
    lines = [f'static_assert(sizeof(Shape) == {ctypes.sizeof(_Shape)}, "Shape differs from op/stream.py");']
    lines += [
        f'static_assert(OFFSET_OF(Shape, {name}) == {getattr(_Shape, name).offset}, "{name} differs");'
        for name in _SHAPE
    ]
    return "\n".join(lines) + "\n"


@dataclass(frozen=True, slots=True)
class StreamShape:
    """One choice of the kernel's compile-time values, of its argument `shape`, and of dynamic shared bytes."""

    values: tuple[tuple[str, int], ...]
    column_tiles: int
    min_groups: int
    grid_words: int
    warps: int
    shared_bytes: int

    def __getattr__(self, name: str) -> int:
        """The value called so."""
        try:
            return dict(self.values)[name]
        except KeyError:
            raise AttributeError(name) from None

    @property
    def threads(self) -> int:
        """Threads of a block."""
        return 32 * (self.warps + _COPYING_WARPS + _SUMMING_WARPS[self.column_tiles])

    @property
    def defines(self) -> tuple[tuple[str, int], ...]:
        """The compile-time values."""
        return (
            ("MMVQ_COLUMN_TILES", self.column_tiles),
            ("MMVQ_GRID_WORDS", self.grid_words),
            ("MMVQ_MIN_GROUPS", self.min_groups),
            ("MMVQ_SUMMING_WARPS", _SUMMING_WARPS[self.column_tiles]),
            ("MMVQ_WARPS", self.warps),
        )


@lru_cache(maxsize=256)  # a rule asks for it, then the plan
def stream_shape(d: Descriptor, device: Device) -> StreamShape | None:
    """The widest fitting tile that the dispatches per touched expert ask for; None when the kernel cannot run."""
    if d.format.is_float or d.is_empty or device.compute_capability < (9, 0):
        return None
    limit = _SHARED_BYTES.get(device.compute_capability, _SHARED_BYTES_ELSEWHERE)
    wanted = dispatches_per_touched_expert(d)
    widths = [width for width in _WIDTHS if width < 2 * wanted and _column_tiles(d, width) <= _MAX_COLUMN_TILES]
    shapes = (_fill(d, width, device.sm_count, limit) for width in reversed(widths or _WIDTHS[:1]))
    return next((shape for shape in shapes if shape is not None), None)


def touched_experts(d: Descriptor) -> float:
    """What uniform routing would touch, by the chance that an expert gets none of m_total dispatches."""
    return d.n_experts * -math.expm1(-d.m_total / d.n_experts)


def dispatches_per_touched_expert(d: Descriptor) -> float:
    """What uniform routing would give."""
    return d.m_total / touched_experts(d)


def _fill(d: Descriptor, columns: int, sm_count: int, limit: int) -> StreamShape | None:
    """The rows and the segment for this width, and as many stages as fit; None below `_MIN_STAGES`."""
    n_chunks = -(-d.n_cols // _CHUNK)
    run = -(-n_chunks // _MAX_SLICES)
    n_slices = -(-n_chunks // run)
    for row_groups in _row_groups(d, columns, sm_count, n_slices):
        for n_segments in range(1, n_slices + 1):
            slices = -(-n_slices // n_segments)
            shape, stages_at = _layout(d, columns, row_groups, run, n_slices, slices)
            room, stage_bytes = limit - stages_at, shape["stage_bytes"]
            n_stages = min(room // stage_bytes, _MAX_STAGES)
            if row_groups > 1 and n_stages * stage_bytes < _RING_BYTES:
                continue  # fewer rows have smaller sums
            most = room if shape["copy_rows"] > 1 else max(_STAGE_BYTES, room // 4)
            if n_stages >= _MIN_STAGES and stage_bytes <= most:
                shape["n_stages"] = n_stages
                shape["early_stages"] = min(n_stages, max(1, _EARLY_BYTES // stage_bytes))
                tiles = _column_tiles(d, columns)
                values = tuple((name, shape[name]) for name in _SHAPE)
                shared = stages_at + n_stages * stage_bytes
                return StreamShape(values, tiles, d.format.min_groups, d.format.grid_words, _WARPS[tiles], shared)
    return None


def _layout(
    d: Descriptor, columns: int, row_groups: int, run: int, n_slices: int, slices: int
) -> tuple[dict[str, int], int]:
    """The kernel's Shape but for its n_stages, and the bytes of shared memory before the stages."""
    rows, segment = 16 * row_groups, slices * run * _CHUNK
    packed_segment = d.format.row_bytes(segment)
    are_copied_together = slices == n_slices and _are_short(d)
    row_slot = d.format.row_bytes(d.n_cols) if are_copied_together else _row_slot(d, packed_segment)
    # Activations, four 16-bit parts of each group's sum, the power of two that scales all but f16.
    chunk_bytes = 2 * _CHUNK + 8 * d.format.min_groups + (0 if d.dtype is Dtype.F16 else 16)
    column_bytes = (-(-d.n_cols // _CHUNK) * chunk_bytes + 63) // 128 * 128 + 64  # 64 mod 128 spreads the banks
    item_sums = n_slices * rows * 8 * _column_tiles(d, columns)
    grid_at = _round_up(8 * (2 * _MAX_STAGES + 5), 16)  # behind the barriers
    sums_at = _round_up(grid_at + 4 * d.format.grid_words, 16)
    columns_at = _round_up(sums_at + 2 * 4 * item_sums, 128)
    tile_bytes = columns * _parts(d) * column_bytes
    tile_slots = 2 if tile_bytes <= _SECOND_TILE_BYTES else 1
    stages_at = _round_up(columns_at + tile_slots * tile_bytes, 128)
    shape = {
        "columns": columns,
        "column_shift": columns.bit_length() - 1,
        "tile_slots": tile_slots,
        "row_groups": row_groups,
        "group_shift": row_groups.bit_length() - 1,
        "rows": rows,
        "n_row_tiles": -(-d.n_rows_per_expert // rows),
        "run": run,
        "n_slices": n_slices,
        "slices": slices,
        "units": slices * row_groups,
        "segment": segment,
        "n_segments": -(-d.n_cols // segment),
        "packed_segment": packed_segment,
        "row_slot": row_slot,
        "copy_rows": rows if are_copied_together else 1,
        "stage_bytes": _round_up(rows * row_slot + (_ROUNDING_BYTES if are_copied_together else 0), 16),
        "column_bytes": column_bytes,
        "item_sums": item_sums,
        "sums_at": sums_at,
        "columns_at": columns_at,
        "stages_at": stages_at,
        "grid_at": grid_at,
    }
    return shape, stages_at


def _are_short(d: Descriptor) -> bool:
    """Whether rows are copied as they lie: a copy for each would take longer than its bytes, and few banks collide."""
    row_bytes = d.format.row_bytes(d.n_cols)
    return (d.n_cols <= _SHORT_ROW or row_bytes <= _SHORT_ROW_BYTES) and row_bytes % 64 != 0


def _row_slot(d: Descriptor, packed_segment: int) -> int:
    """Bytes of a row in a stage: a multiple of 16 that spreads rows over the banks of shared memory."""
    if d.format.type_size % 16 == 0:  # no phase; lanes read 16 bytes each at strides of 32: odd lines for odd rows
        return (packed_segment + 15) // 32 * 32 + 16
    return (packed_segment + 31) // 64 * 64 + 96  # room for 15 bytes of phase; 32 mod 64


def _round_up(size: int, step: int) -> int:
    return -(-size // step) * step


def _row_groups(d: Descriptor, columns: int, sm_count: int, n_slices: int) -> list[int]:
    """What to try, best first: the most rows that share the work out as well as fewer would, then fewer, then more."""
    tiles = max(touched_experts(d), d.m_total / columns)

    def balance(groups: int) -> float:
        """The work over what all multiprocessors could do while the busiest one works."""
        items = tiles * -(-d.n_rows_per_expert // (16 * groups))
        padding = d.n_rows_per_expert / (16 * groups * -(-d.n_rows_per_expert // (16 * groups)))
        return padding * items / (sm_count * math.ceil(items / sm_count))

    fitting = [g for g in _ROW_GROUPS if g * n_slices >= _MIN_UNITS]
    small = [g for g in fitting if 16 * g * d.format.row_bytes(d.n_cols) <= _STAGE_BYTES] or fitting[-1:]
    best = next(g for g in small if balance(g) >= 0.95 * max(map(balance, small)))
    return [best, *(g for g in _ROW_GROUPS if g < best), *(g for g in reversed(_ROW_GROUPS) if g > best)]


def _column_tiles(d: Descriptor, columns: int) -> int:
    """Eights of mma columns, rounded up to a power of two."""
    tiles = -(-columns * _parts(d) // 8)
    return 1 << (tiles - 1).bit_length()


def _parts(d: Descriptor) -> int:
    """How many 16-bit floats stand for an activation: mma columns of a dispatch."""
    return 2 if d.dtype is Dtype.F32 else 1
