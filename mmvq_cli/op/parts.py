"""Long rows in parts, a launch for each: activations of a part leave room for wider tiles than those of whole rows."""

from __future__ import annotations

from dataclasses import replace

from mmvq_cli.op.boxes import can_box
from mmvq_cli.op.descriptor import Descriptor
from mmvq_cli.op.device import Device
from mmvq_cli.op.operands import operands_of
from mmvq_cli.op.part import Part
from mmvq_cli.op.shape import StreamShape
from mmvq_cli.op.stream import CHUNK, MAX_COLUMN_TILES, can_stream, fill, sizes_of, stream_shape
from mmvq_cli.op.tiles import wanted_widths

_MOST_PARTS = 8  # of a row


def part_shapes(d: Descriptor, device: Device) -> tuple[StreamShape, ...]:
    """Shapes of launches that multiply a part of the rows each, in the widest tiles, in order.

    Empty where fewer dispatches share a tile or whole rows are as good. Where rows are long, activations of whole rows
    leave room for narrow tiles only: an expert with more dispatches is read again for each tile.
    """
    if d.format.is_float or not can_stream(d, device):
        return ()
    operands, whole = operands_of(d), stream_shape(d, device)
    widest = 8 * MAX_COLUMN_TILES // operands.slots
    if wanted_widths(d)[-1] < widest or (whole is not None and 2 * whole.columns > widest):
        return ()
    for n_parts in range(2, _MOST_PARTS + 1):
        parts = _cut(d, n_parts)
        shapes = [fill(sizes_of(replace(d, n_cols=n)), operands, widest, device, part) for part, n in parts]
        fitting = tuple(shape for shape in shapes if shape is not None)
        if len(fitting) == len(parts) > 1:
            return fitting
    return ()


def _cut(d: Descriptor, n_parts: int) -> list[tuple[Part, int]]:
    """Up to so many parts of a row, and their weights."""
    step = _part_step(d, n_parts)
    return [(Part(first, d.n_cols), min(step, d.n_cols - first)) for first in range(0, d.n_cols, step)]


def _part_step(d: Descriptor, n_parts: int) -> int:
    """Weights of each of so many parts but the last: whole chunks, and starts that boxes may have where rows have."""
    chunks = -(-d.n_cols // (n_parts * CHUNK))
    if can_box(d, Part.whole(d)):
        while not can_box(d, Part(chunks * CHUNK, d.n_cols)):
            chunks += 1
    return chunks * CHUNK
