import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmvq_cli.measure import Canary, CanaryBench, CpuCanary, last_level_cache_bytes
from mmvq_cli.measure.canary import Pattern, rounded_size


@pytest.fixture(scope="module")
def pattern():
    return Pattern()


@pytest.fixture(scope="module")
def cpu_canary():
    return CpuCanary(cache_bytes=2**20, n_threads=2)


class CountingBench(CanaryBench):
    stream_bytes = 4096

    def __init__(self):
        super().__init__()
        self.sizes = []

    def read(self, n_bytes):
        self.sizes.append(n_bytes)
        return Canary(n_bytes, 100.0, (1, 1), True)


def test_bandwidth():
    assert Canary(4 * 2**30, 1e6, (132, 512), True).gb_s == pytest.approx(4294.967296)


@given(st.integers(0, 2**40))
def test_rounded_sizes_are_vectors_within_two_percent(n_bytes):
    size = rounded_size(n_bytes)
    assert size % 16 == 0
    assert size >= 16
    assert abs(size - n_bytes) <= max(0.01 * n_bytes + 8, 16)
    assert rounded_size(size) == size or size < 1600  # small sizes are coarser than the grid


def test_one_measurement_serves_sizes_that_are_close():
    bench = CountingBench()
    first = bench.size_matched(7_000_000)
    assert bench.size_matched(7_010_000) is first
    assert bench.size_matched(8_000_000) is not first
    assert len(bench.sizes) == 2


def test_the_stream_is_measured_each_time():
    bench = CountingBench()
    bench.stream()
    bench.stream()
    assert bench.sizes == [4096, 4096]


@pytest.mark.parametrize("word", [np.uint32, np.uint64])
@pytest.mark.parametrize("n_bytes", [0, 16, 4096, 16 * 2**20, 40 * 2**20 + 48])
def test_pattern_sums_are_those_of_the_repeated_words(pattern, n_bytes, word):
    words = np.resize(pattern.chunk, n_bytes // 8).view(word)
    assert pattern.sum_words(n_bytes, word) == int(words.sum(dtype=np.uint64))


def test_cpu_stream(cpu_canary):
    canary = cpu_canary.stream()
    assert canary.n_bytes == 256 * 2**20
    assert canary.checksum_ok
    assert 0.1 < canary.gb_s < 10_000
    assert canary.launch_shape in ((1, 1), (2, 1))


@pytest.mark.parametrize("n_bytes", [16, 1000, 3_000_000, 2**33])
def test_cpu_size_matched(cpu_canary, n_bytes):
    canary = cpu_canary.size_matched(n_bytes)
    assert canary.checksum_ok
    assert canary.n_bytes == min(rounded_size(n_bytes), cpu_canary.stream_bytes)


def test_a_wrong_word_is_seen():
    bench = CpuCanary(cache_bytes=2**20, n_threads=1)
    bench._words[123] ^= 1
    assert not bench.stream().checksum_ok
    assert not bench.size_matched(4096).checksum_ok


def test_cache_size_from_the_kernels_files(tmp_path):
    for i, text in enumerate(("32K\n", "1024K\n", "36M\n")):
        (tmp_path / f"index{i}").mkdir()
        (tmp_path / f"index{i}" / "size").write_text(text)
    assert last_level_cache_bytes(tmp_path) == 36 * 2**20
    assert last_level_cache_bytes(tmp_path / "absent") == 32 * 2**20
