"""The canary: a checksummed streaming read, the time that the machine itself needs for a number of bytes."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
from numpy.typing import DTypeLike, NDArray

_CHUNK_BYTES = 16 * 2**20
_VECTOR_BYTES = 16
_SIZE_RATIO = 1.02


@dataclass(frozen=True, slots=True)
class Canary:
    """The best time found for one read of `n_bytes`, cold; a size above the memory's is cut, so trust `n_bytes`.

    launch_shape: blocks and threads per block on a GPU, threads and 1 on a CPU. `checksum_ok` is False when the words
    read do not add up to what was written: then the time means nothing.
    """

    n_bytes: int
    time_ns: float
    launch_shape: tuple[int, int]
    checksum_ok: bool

    @property
    def gb_s(self) -> float:
        """Bandwidth in 1e9 bytes per second."""
        return self.n_bytes / self.time_ns


class CanaryBench(ABC):
    """Canaries of one device. `stream_bytes` is the size at which the memory's own bandwidth shows."""

    stream_bytes: int

    def __init__(self) -> None:
        self._matched: dict[int, Canary] = {}

    def stream(self) -> Canary:
        """Read `stream_bytes`, measured anew at every call, so that drift shows."""
        return self.read(self.stream_bytes)

    def size_matched(self, n_bytes: int) -> Canary:
        """Return the canary of a case that reads `n_bytes`; one measurement serves all sizes within 2 %."""
        size = rounded_size(n_bytes)
        if size not in self._matched:
            self._matched[size] = self.read(size)
        return self._matched[size]

    @abstractmethod
    def read(self, n_bytes: int) -> Canary:
        """Measure one size; n_bytes is a multiple of 16."""


def rounded_size(n_bytes: int) -> int:
    """Round to the nearest size on a grid of 2 % steps, in whole 16-byte vectors, at least one."""
    step = round(math.log(max(n_bytes, _VECTOR_BYTES), _SIZE_RATIO))
    return max(1, round(_SIZE_RATIO**step / _VECTOR_BYTES)) * _VECTOR_BYTES


class Pattern:
    """Known content: 16 MiB of seeded random words, repeated without end, whose sums are known."""

    def __init__(self, seed: int = 0) -> None:
        words = np.random.default_rng(seed).integers(0, 2**64, _CHUNK_BYTES // 8, dtype=np.uint64)
        self.chunk: NDArray[np.uint64] = words

    def sum_words(self, n_bytes: int, word: DTypeLike) -> int:
        """Sum modulo 2^64 of the first `n_bytes`, read as unsigned words of type `word`."""
        turns, rest = divmod(n_bytes, _CHUNK_BYTES)
        words = self.chunk.view(word)
        whole = int(words.sum(dtype=np.uint64))
        part = int(words[: rest // words.itemsize].sum(dtype=np.uint64))
        return (turns * whole + part) % 2**64
