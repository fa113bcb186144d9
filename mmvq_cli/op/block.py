"""What a block of the streaming kernel has of a multiprocessor: warps, and with them registers, and shared memory."""

from __future__ import annotations

from dataclasses import dataclass

from mmvq_cli.op.descriptor import Descriptor
from mmvq_cli.op.device import Device
from mmvq_cli.op.operands import Operands
from mmvq_cli.op.tiles import touched_experts

_WARPS = {1: 16, 2: 12}  # that multiply, by column tiles: more tiles need more registers; the same on all schedulers
_COPIER_WARPS = 14  # where the copying warp has much to do: fewer beside it on its scheduler
_PLAIN_WARPS = 12  # for floats, which are multiplied in more registers
_HALF_WARPS = 7  # of one of two blocks
_SUMMING_WARPS = {1: 1, 2: 2}  # that sum up; two take turns: wide tiles have more to add and store
_SMALL_SHARE = 2**18  # weights of a multiprocessor up to which more warps only take longer to start
_GRID_BYTES, _SMALL_GRID_BYTES = 80 * 1024, 32 * 1024  # of codebooks, and with such a share: they are copied first
_SHORT_ROW = 768  # weights up to which two blocks are faster: their items' starts and ends overlap

# Shared memory of a multiprocessor that blocks can have, in bytes, by compute capability (CUDA programming guide).
_SHARED_BYTES = {(8, 0): 167_936, (8, 7): 167_936, (9, 0): 233_472, (10, 0): 233_472, (10, 3): 233_472}
_SHARED_BYTES_ELSEWHERE = 102_400
_RESERVED_BYTES = 1024  # of each block


@dataclass(frozen=True, slots=True)
class Block:
    """One of `per_multiprocessor` equal blocks.

    `shared_bytes` is what its dynamic shared memory may have, `grid_bytes` what copies of a codebook may have of it,
    `max_threads` what the kernel is compiled for: all blocks of a multiprocessor together, so that one kernel serves
    any number of them. One more warp copies: without `has_bulk_copies` its lanes 16 bytes each.
    """

    per_multiprocessor: int
    warps: int
    summing_warps: int
    shared_bytes: int
    max_threads: int
    grid_bytes: int
    has_bulk_copies: bool

    @property
    def threads(self) -> int:
        """Threads of the block."""
        return _threads(self.warps, self.summing_warps)

    def share(self, n_bytes: int) -> int:
        """The block's share of what suits a multiprocessor."""
        return n_bytes // self.per_multiprocessor


def blocks_for(
    d: Descriptor, operands: Operands, column_tiles: int, has_boxes: bool, device: Device
) -> tuple[Block, ...]:
    """What to try, best first, where an item's rows come as a box or by many copies."""
    shared = _multiprocessor_bytes(device)
    is_small = _is_small(d, device)
    grid_bytes = min(_SMALL_GRID_BYTES if is_small else _GRID_BYTES, shared * 3 // 8)
    summing = _SUMMING_WARPS[column_tiles]
    warps = _PLAIN_WARPS if operands.is_plain else _WARPS[column_tiles]
    if not has_boxes or is_small:
        warps = min(warps, _COPIER_WARPS)
    has_halves = column_tiles == 1 and not operands.is_plain
    max_threads = _threads(_PLAIN_WARPS if operands.is_plain else _WARPS[column_tiles], summing)
    if has_halves:
        max_threads = max(max_threads, 2 * _threads(_HALF_WARPS, summing))
    has_bulk = device.has_bulk_copies
    whole = Block(1, warps, summing, shared - _RESERVED_BYTES, max_threads, grid_bytes, has_bulk)
    half = Block(2, _HALF_WARPS, summing, shared // 2 - _RESERVED_BYTES, max_threads, grid_bytes // 2, has_bulk)
    return (half, whole) if has_halves and d.n_cols <= _SHORT_ROW else (whole,)


def shared_bytes_of(device: Device) -> int:
    """What the only block of a multiprocessor may have."""
    return _multiprocessor_bytes(device) - _RESERVED_BYTES


def _multiprocessor_bytes(device: Device) -> int:
    return _SHARED_BYTES.get(device.compute_capability, _SHARED_BYTES_ELSEWHERE)


def _is_small(d: Descriptor, device: Device) -> bool:
    """Whether each multiprocessor has few weights to multiply."""
    weights = touched_experts(d) * d.n_rows_per_expert * d.n_cols
    return weights <= _SMALL_SHARE * max(device.sm_count, 1)


def _threads(warps: int, summing_warps: int) -> int:
    return 32 * (warps + 1 + summing_warps)
