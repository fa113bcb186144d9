"""The canary on a CPU: numpy sums over slices of a buffer that the caches cannot hold, on one or all threads."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median

import numpy as np
from numpy.typing import NDArray

from mmvq_cli.measure.canary import Canary, CanaryBench, Pattern
from mmvq_cli.measure.stopping import SamplingSettings, sample_until
from mmvq_cli.measure.wall_timer import WallTimer

_MIN_BUFFER_BYTES, _MAX_BUFFER_BYTES = 256 * 2**20, 2**30
_BUFFER_X_CACHE = 4
_FALLBACK_CACHE_BYTES = 32 * 2**20
_CHECKED_SLICES = 16
_SAMPLING = SamplingSettings(warmup_window=1, warmup_min_s=0.0, warmup_max_s=0.02, max_samples=15, budget_s=0.1)


class CpuCanary(CanaryBench):
    """Canaries of this machine's memory; holds a buffer of 4x the last-level cache, from 256 MiB to 1 GiB."""

    def __init__(self, cache_bytes: int | None = None, n_threads: int | None = None) -> None:
        super().__init__()
        wanted_bytes = _BUFFER_X_CACHE * (cache_bytes or last_level_cache_bytes())
        self.stream_bytes = min(max(wanted_bytes, _MIN_BUFFER_BYTES), _MAX_BUFFER_BYTES) // 16 * 16
        self._n_threads = n_threads or usable_cores()
        self._pattern = Pattern()
        self._words = np.resize(self._pattern.chunk, self.stream_bytes // 8)

    def read(self, n_bytes: int) -> Canary:
        """Measure one size, by the faster of one thread and all."""
        n_bytes = min(n_bytes, self.stream_bytes)
        slices = self._words[: len(self._words) // (n_bytes // 8) * (n_bytes // 8)].reshape(-1, n_bytes // 8)
        with ThreadPoolExecutor(self._n_threads) as pool:
            sums: dict[int, Callable[[int], int]] = {1: lambda i: _sum(slices[i])}
            if self._n_threads > 1:
                sums[self._n_threads] = lambda i: (
                    sum(pool.map(_sum, np.array_split(slices[i], self._n_threads))) % 2**64
                )
            times_ns = {n: _median_ns(slice_sum, len(slices)) for n, slice_sum in sums.items()}
            n_threads = min(times_ns, key=lambda n: times_ns[n])
            checked = range(min(len(slices), _CHECKED_SLICES))
            checksum_ok = all(sums[n_threads](i) == self._expected(i, n_bytes) for i in checked)
        return Canary(n_bytes, times_ns[n_threads], (n_threads, 1), checksum_ok)

    def _expected(self, i: int, n_bytes: int) -> int:
        """Sum of slice i by the pattern."""
        before, after = (self._pattern.sum_words(n * n_bytes, np.uint64) for n in (i, i + 1))
        return (after - before) % 2**64


def usable_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def last_level_cache_bytes(folder: Path = Path("/sys/devices/system/cpu/cpu0/cache")) -> int:
    """Size of the largest CPU cache by the Linux kernel; 32 MiB where it does not say."""
    units = {"K": 2**10, "M": 2**20, "G": 2**30}
    texts = [path.read_text().strip() for path in folder.glob("index*/size")]
    return max((int(text[:-1]) * units[text[-1]] for text in texts), default=_FALLBACK_CACHE_BYTES)


def _sum(words: NDArray[np.uint64]) -> int:
    return int(words.sum())


def _median_ns(slice_sum: Callable[[int], int], n_slices: int) -> float:
    def run(i: int) -> None:
        slice_sum(i)

    return median(sample_until(WallTimer(run, n_slices).sample, _SAMPLING).samples_ns)
