"""The first pass over the bytes: what is needed to judge every expert, gathered in bounded pieces."""

from __future__ import annotations

import threading
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from math import gcd

import numpy as np
from numpy.typing import NDArray

from mmvq_cli.engine.cpu.dequantize import Dequantizer, fastest_dequantizer
from mmvq_cli.model import ExpertTensor
from mmvq_cli.op.formats import Format
from mmvq_cli.validate.facts import Facts, Gather, facts_of
from mmvq_cli.validate.scales import Bytes, Scales, scales_of

PIECE_BYTES = 4 * 2**20  # a few of them fit into the cache of one core
_SAMPLE_WEIGHTS = 32768  # of each expert, for the norm and the histogram

_buffers = threading.local()


@dataclass(frozen=True, slots=True)
class Scan:
    """What one pass over experts `first` to `first + n` of a tensor gathered; arrays start with [n].

    rms: of all scales, [n_fields, n], of plain formats [0, n]; medians: of a sample's scales, [n_fields, n], NaN where
    all are zero;
    fingerprints: of the sample and all scales: identical experts have equal ones; histogram: [n, 32] shares of low and
    of high nibbles in the sample.
    """

    first: int
    facts: Facts
    rms: NDArray[np.float64]
    medians: NDArray[np.float64]
    fingerprints: tuple[int, ...]
    sample_rms: NDArray[np.float64]
    histogram: NDArray[np.float64]
    holds_minus_128: NDArray[np.bool_]
    n_bytes: int


@dataclass(frozen=True, slots=True)
class Run:
    """A unit of work: experts `first` to `first + count` of a tensor; several small ones, or one of any size."""

    tensor: ExpertTensor
    first: int
    count: int

    def pieces(self) -> Iterator[Bytes]:
        """Read the blocks, u8 [count, n_blocks, type_size], valid until the next one. Raises `OpenError`."""
        size = self.tensor.format.type_size
        step = PIECE_BYTES // size * size
        total = self.tensor.expert_bytes
        for offset in range(0, total, step):
            n_bytes = min(step, total - offset) * self.count
            piece = _buffer(n_bytes)
            self.tensor.read_into(self.first * total + offset, piece.data)
            yield piece.reshape(self.count, -1, size)


def plan_runs(tensor: ExpertTensor) -> Iterator[Run]:
    """Cut a tensor into runs of at most `PIECE_BYTES`, or of one expert."""
    step = max(1, PIECE_BYTES // tensor.expert_bytes)
    for first in range(0, tensor.n_experts, step):
        yield Run(tensor, first, min(step, tensor.n_experts - first))


def _buffer(n_bytes: int) -> Bytes:
    """Memory of this thread, used again and again: fresh pages for every read would cost a tenth of the time."""
    piece: Bytes | None = getattr(_buffers, "piece", None)
    if piece is None or len(piece) < n_bytes:
        piece = _buffers.piece = np.empty(n_bytes, np.uint8)
    return piece[:n_bytes]


def scan(run: Run, gather: Gather = facts_of) -> Scan:
    """Read all blocks of `run` once; `gather` says where they are looked at. Raises `OpenError`."""
    weight_format = run.tensor.format
    n_blocks = run.tensor.expert_bytes // weight_format.type_size
    stride = _stride(n_blocks, run.tensor.cols // weight_format.block_size, weight_format)
    facts, samples = None, []
    for blocks in run.pieces():
        samples.append(blocks[:, ::stride].copy())
        more = gather(blocks, weight_format)
        if facts is None:
            facts = more
        else:
            facts.add(more)
    assert facts is not None, "an expert without bytes"
    sample, fields = np.concatenate(samples, axis=1), scales_of(weight_format)
    sample_rms, histogram, holds = _look_at(sample, weight_format)
    return Scan(
        first=run.first,
        facts=facts,
        rms=_scale_rms(fields, facts, n_blocks),
        medians=np.stack([_medians(scales, sample) for scales in fields]),
        fingerprints=tuple(_fingerprint(facts, sample, index) for index in range(run.count)),
        sample_rms=sample_rms,
        histogram=histogram,
        holds_minus_128=holds,
        n_bytes=run.count * run.tensor.expert_bytes,
    )


def _scale_rms(fields: tuple[Scales, ...], facts: Facts, n_blocks: int) -> NDArray[np.float64]:
    """The root mean square of each expert's scales, [n_fields, n]; plain formats have none, [0, n]."""
    rows = [
        scales.root_mean_squares(field.powers, n_blocks * scales.encoding.lanes)
        for scales, field in zip(fields, facts.fields, strict=True)
        if field.powers.size
    ]
    return np.array(rows).reshape(len(rows), len(facts.is_any))


def _fingerprint(facts: Facts, sample: Bytes, index: int) -> int:
    """Of one expert's sample and of the exact sums over all its scales."""
    checksum = zlib.crc32(sample[index].data)
    for field in facts.fields:
        checksum = zlib.crc32(field.powers[index].data, checksum)
    return checksum


def _stride(n_blocks: int, row_blocks: int, weight_format: Format) -> int:
    """Every how many blocks one is sampled; without a common divisor with the row, so that all columns take part."""
    stride = max(1, n_blocks * weight_format.block_size // _SAMPLE_WEIGHTS)
    while gcd(stride, row_blocks) > 1:
        stride += 1
    return stride


def _medians(scales: Scales, sample: Bytes) -> NDArray[np.float64]:
    """The median of each expert's sampled scales that are neither zero nor NaN nor Inf; NaN without any."""
    values = scales.values(scales.magnitudes(scales.read(sample)))
    medians = np.full(len(values), np.nan)
    for expert, row in enumerate(values):
        usable = row[(row > 0) & np.isfinite(row)]
        if len(usable):
            medians[expert] = np.median(usable)
    return medians


def _look_at(
    sample: Bytes, weight_format: Format
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.bool_]]:
    """The norm, the nibble histogram [n, 32] and whether a Q8_0 code is -128, of each expert's sampled blocks."""
    n_experts, n_blocks, _ = sample.shape
    values = decode(sample.reshape(n_experts * n_blocks, -1), weight_format).reshape(n_experts, -1)
    with np.errstate(over="ignore", invalid="ignore"):
        rms = np.sqrt(np.square(values, dtype=np.float64).mean(axis=1))
    if weight_format.is_float:
        return rms, np.zeros((n_experts, 32)), np.zeros(n_experts, bool)
    taken = {byte for field in weight_format.scales for byte in range(field.offset, field.offset + _WIDTHS[field.kind])}
    codes = sample[..., [byte for byte in range(weight_format.type_size) if byte not in taken]].reshape(n_experts, -1)
    shares = [np.bincount(row & 15, minlength=16) for row in codes]
    high = [np.bincount(row >> 4, minlength=16) for row in codes]
    histogram = np.hstack([shares, high]) / codes.shape[1]
    holds = (codes == 0x80).any(axis=1) if weight_format.name == "Q8_0" else np.zeros(n_experts, bool)
    return rms, histogram, holds


_WIDTHS = {"f16": 2, "f32": 4, "e8m0": 1, "ue4m3": 1, "iq1m": 0}


def decode(blocks: Bytes, weight_format: Format) -> NDArray[np.float32]:
    """Dequantize blocks u8 [n_blocks, type_size] to f32 [n_blocks, block_size]."""
    values = np.empty((len(blocks), weight_format.block_size), np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        _dequantizer().decode(weight_format, np.ascontiguousarray(blocks), values)
    return values


@cache
def _dequantizer() -> Dequantizer:
    """Found once: finding it reads the versions of packages."""
    return fastest_dequantizer()
