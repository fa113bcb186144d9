"""The launches of a plan: the product by either family, and what comes before and after it."""

from __future__ import annotations

from dataclasses import replace

from mmvq_cli.op.descriptor import Descriptor, Dtype
from mmvq_cli.op.device import Device
from mmvq_cli.op.plan import Launch
from mmvq_cli.op.shape import StreamShape
from mmvq_cli.op.wide import arranged_groups, group_bytes

# Shape of the grouped kernel; the same names reach kernels/grouped.cu as defines.
WARPS = 4
ROWS_PER_WARP = 4
OCTETS = 2  # neighbouring groups of 8 weights per lane and step
COLUMNS = 4  # dispatches of one expert that share one read of its rows
_MAX_GRID_X = 2**31 - 1
_HELPER_THREADS = 256
_INDEX_THREADS = 1024
_ONE_BLOCK_DISPATCHES = 8192  # up to here one block indexes them faster than two launches do
_COMBINE_ROWS = 512

_ACTIVATION_CODE = {Dtype.F32: 0, Dtype.F16: 1, Dtype.BF16: 2}


def grouped_launches(d: Descriptor) -> tuple[Launch, ...]:
    """The product of the plain family with what surrounds it; what an empty problem needs, if anything."""
    if d.is_empty:
        return () if d.adds or not d.output_row_count * d.n_rows_per_expert else (_clear_output(d),)
    return tuple(_surrounded(d, _grouped(d)))


def stream_launches(d: Descriptor, device: Device, shape: StreamShape) -> tuple[Launch, ...]:
    """The product of the streaming family with what surrounds it; each waits for the one before it by itself."""
    launches = _surrounded(d, _stream(d, device, shape))
    return tuple(replace(launch, overlaps=device.has_bulk_copies) for launch in launches)


def wide_launches(d: Descriptor, device: Device, shape: StreamShape) -> tuple[Launch, ...]:
    """The same of the kernel for many dispatches per expert: activations are arranged first."""
    defines = (*format_defines(d), *shape.defines, ("MMVQ_GROUP_BYTES", group_bytes(shape.operands)))
    items = min(d.m_total, d.n_experts + d.m_total // shape.columns) * shape.n_row_tiles
    warps = arranged_groups(d, shape.operands) * shape.n_chunks
    arrange = Launch(
        "arrange",
        "wide.cu",
        defines,
        (min(-(-32 * warps // _HELPER_THREADS), _MAX_GRID_X), 1, 1),
        (_HELPER_THREADS, 1, 1),
        0,
        shape.values,
    )
    wide = Launch(
        "wide",
        "wide.cu",
        defines,
        (max(1, min(device.sm_count, items)), 1, 1),
        (shape.block.threads, 1, 1),
        shape.shared_bytes,
        shape.values,
        shape.boxes,
    )
    return tuple(replace(launch, overlaps=True) for launch in _surrounded(d, arrange, wide))


def format_defines(d: Descriptor) -> tuple[tuple[str, int], ...]:
    """The compile-time values that choose a format's device struct and the activation dtype."""
    return (
        *_activation_define(d),
        ("MMVQ_BLOCK_SIZE", d.format.block_size),
        ("MMVQ_FORMAT", d.format.id),
        ("MMVQ_TYPE_SIZE", d.format.type_size),
    )


def _surrounded(d: Descriptor, *products: Launch) -> list[Launch]:
    """The product with what comes before and after it: zeroed rows, the ordered sum."""
    launches = []
    # With top_k = 1 and a dispatch for every token each row is written anyway.
    if d.output_rows == "token" and d.top_k == 1 and not d.adds and d.m_total < d.m_tokens:
        launches.append(_clear_output(d))
    if d.combines:
        launches += _index(d)
    launches += products
    if d.combines:
        launches.append(_combine(d))
    return launches


def _stream(d: Descriptor, device: Device, shape: StreamShape) -> Launch:
    # Persistent: as many blocks as multiprocessors have room for, and never more than there are items.
    n_blocks = device.sm_count * shape.block.per_multiprocessor
    items = min(d.m_total, d.n_experts + d.m_total // shape.columns) * -(-d.n_rows_per_expert // shape.rows)
    return Launch(
        "stream",
        "stream.cu",
        (*format_defines(d), *shape.defines),
        (max(1, min(n_blocks, items)), 1, 1),
        (shape.block.threads, 1, 1),
        shape.shared_bytes,
        shape.values,
        shape.boxes,
    )


def _index(d: Descriptor) -> list[Launch]:
    """Collect each token's dispatches."""
    if max(d.m_total, d.m_tokens) <= _ONE_BLOCK_DISPATCHES:
        return [Launch("index_dispatches", "combine.cu", _combine_defines(d), (1, 1, 1), (_INDEX_THREADS, 1, 1))]
    return [_helper("clear_token_counts", d.m_tokens, d), _helper("append_dispatches", d.m_total, d)]


def _combine(d: Descriptor) -> Launch:
    blocks = min(d.m_tokens * -(-d.n_rows_per_expert // _COMBINE_ROWS), _MAX_GRID_X)
    return Launch("combine", "combine.cu", _combine_defines(d), (blocks, 1, 1), (_HELPER_THREADS, 1, 1))


def _combine_defines(d: Descriptor) -> tuple[tuple[str, int], ...]:
    return (*_activation_define(d), ("MMVQ_COMBINE_ROWS", _COMBINE_ROWS))


def _activation_define(d: Descriptor) -> tuple[tuple[str, int], ...]:
    return (("MMVQ_ACTIVATION", _ACTIVATION_CODE[d.dtype]),)


def _helper(entry: str, n_items: int, d: Descriptor) -> Launch:
    blocks = min(-(-n_items // _HELPER_THREADS), _MAX_GRID_X)
    return Launch(entry, "combine.cu", _combine_defines(d), (max(blocks, 1), 1, 1), (_HELPER_THREADS, 1, 1))


def _clear_output(d: Descriptor) -> Launch:
    return _helper("clear_output", min(d.output_row_count * d.n_rows_per_expert, 2**20), d)


def _grouped(d: Descriptor) -> Launch:
    # Tiles: at most one per dispatch, and at most one per expert plus one per COLUMNS dispatches (grouped.cu).
    tiles = min(d.m_total, d.n_experts + d.m_total // COLUMNS)
    row_blocks = -(-d.n_rows_per_expert // (WARPS * ROWS_PER_WARP))
    defines = (
        *format_defines(d),
        ("MMVQ_COLUMNS", COLUMNS),
        ("MMVQ_OCTETS", OCTETS),
        ("MMVQ_ROWS_PER_WARP", ROWS_PER_WARP),
        ("MMVQ_WARPS", WARPS),
    )
    return Launch("grouped", "grouped.cu", defines, (min(tiles * row_blocks, _MAX_GRID_X), 1, 1), (32 * WARPS, 1, 1))
