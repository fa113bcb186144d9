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
from mmvq_cli.validate.scales import Bytes, Scales, scales_of

PIECE_BYTES = 4 * 2**20  # a few of them fit into the cache of one core
_SAMPLE_WEIGHTS = 32768  # of each expert, for the norm and the histogram
_LOWEST_EXPONENT = 64  # MXFP4 code below which no quantizer writes weights that are not zero
_HIGHEST_EXPONENT = 160

_buffers = threading.local()


@dataclass(frozen=True, slots=True)
class FieldScan:
    """One scale field of a run of experts, arrays [n_experts]: magnitudes are bits without sign."""

    largest: NDArray[np.int64]
    negative: NDArray[np.bool_]
    rms: NDArray[np.float64]
    median: NDArray[np.float64]  # value, of a sample; NaN when all are zero


@dataclass(frozen=True, slots=True)
class Scan:
    """What one pass over experts `first` to `first + n` of a tensor gathered; arrays start with [n]."""

    first: int
    checksums: tuple[int, ...]  # crc32; equal ones are compared byte by byte
    is_zero: NDArray[np.bool_]
    fields: tuple[FieldScan, ...]
    odd_exponents: NDArray[np.bool_]
    sample_rms: NDArray[np.float64]
    histogram: NDArray[np.float64]  # [n, 32]: shares of low and of high nibbles
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


def scan(run: Run) -> Scan:
    """Read all blocks of `run` once. Raises `OpenError` when the file cannot be read."""
    gathering = _Gathering(run)
    for blocks in run.pieces():
        gathering.add(blocks)
    return gathering.result()


class _Gathering:
    """Sums, extremes, checksums and a sample over the pieces of one run."""

    def __init__(self, run: Run) -> None:
        self._run, self._format = run, run.tensor.format
        self._scales = scales_of(self._format)
        n, n_fields = run.count, len(self._scales)
        self._checksums = [0] * n
        self._largest = np.zeros((n_fields, n), np.int64)
        self._negative = np.zeros((n_fields, n), bool)
        self._squares = np.zeros((n_fields, n))
        self._odd = np.zeros(n, bool)
        self._any = np.zeros(n, bool)
        self._n_blocks = run.tensor.expert_bytes // self._format.type_size
        self._stride = _stride(self._n_blocks, run.tensor.cols // self._format.block_size, self._format)
        self._samples: list[Bytes] = []

    def add(self, blocks: Bytes) -> None:
        """Take in a piece: u8 [count, n_blocks, type_size]."""
        for expert in range(len(blocks)):
            self._checksums[expert] = zlib.crc32(blocks[expert].reshape(-1).data, self._checksums[expert])
        self._samples.append(blocks[:, :: self._stride].copy())
        for number, scales in enumerate(self._scales):
            self._add_scales(number, scales, blocks)

    def _add_scales(self, number: int, scales: Scales, blocks: Bytes) -> None:
        bits = scales.read(blocks)
        magnitudes = scales.magnitudes(bits)
        largest = magnitudes.max(axis=1).astype(np.int64)
        np.maximum(self._largest[number], largest, out=self._largest[number])
        if scales.encoding.sign and not self._format.is_float:
            self._negative[number] |= bits.max(axis=1) > scales.encoding.sign
        if not self._format.is_float:
            self._squares[number] += scales.squares(magnitudes)
        if scales.stored == "e8m0":
            self._odd |= odd_exponents(blocks).any(axis=1)
            self._any |= blocks.reshape(len(blocks), -1).any(axis=1)
        else:
            self._any |= largest > 0

    def result(self) -> Scan:
        """Close the sums. The sample of each expert is decoded here."""
        sample = np.concatenate(self._samples, axis=1)
        rms, histogram, holds = _look_at(sample, self._format)
        fields = tuple(
            FieldScan(
                self._largest[number],
                self._negative[number],
                np.sqrt(self._squares[number] / (self._n_blocks * scales.encoding.lanes)),
                _medians(scales, sample),
            )
            for number, scales in enumerate(self._scales)
        )
        return Scan(
            first=self._run.first,
            checksums=tuple(self._checksums),
            is_zero=~self._any,
            fields=fields,
            odd_exponents=self._odd,
            sample_rms=rms,
            histogram=histogram,
            holds_minus_128=holds,
            n_bytes=self._run.count * self._run.tensor.expert_bytes,
        )


def _stride(n_blocks: int, row_blocks: int, weight_format: Format) -> int:
    """Every how many blocks one is sampled; without a common divisor with the row, so that all columns take part."""
    stride = max(1, n_blocks * weight_format.block_size // _SAMPLE_WEIGHTS)
    while gcd(stride, row_blocks) > 1:
        stride += 1
    return stride


def odd_exponents(blocks: Bytes) -> NDArray[np.bool_]:
    """Which MXFP4 blocks [..., 17] have an exponent that no quantizer writes: above 160, or below 64 with weights."""
    exponents = blocks[..., 0]
    odd: NDArray[np.bool_] = exponents > _HIGHEST_EXPONENT
    low = exponents < _LOWEST_EXPONENT
    if low.any():
        odd[low] = (blocks[low][:, 1:] & 0x77).any(axis=1)  # without the signs: -0 is 0
    return odd


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
