"""What empties a cache."""

import numpy as np

from mmvq_cli.measure import CpuFlush, CudaFlush
from mmvq_cli.op import Device

DEVICE = Device(name="fake", backend="cuda", sm_count=4, l2_bytes=2**20)


def test_a_gpu_flush_writes_and_then_reads_twice_the_cache(gpu):
    launches = []

    def load(entry, source, defines):
        assert (entry, source, defines) == ("canary_read", "canary.cu", ())
        return lambda grid, block, args, stream: launches.append((grid, block, [a.value for a in args], stream))

    flush = CudaFlush(load, DEVICE)
    flush._data.data[:] = 7
    flush("stream")
    ((grid, block, (address, n_vectors, _), stream),) = launches
    assert not flush._data.data.any()
    assert (address, n_vectors * 16, stream) == (flush._data.ptr, 2 * 2**20, "stream")
    assert (grid, block) == ((8, 1, 1), (512, 1, 1))


def test_a_cpu_flush_touches_twice_the_cache():
    flush = CpuFlush(1 << 16)
    flush._words[:] = 1
    flush()
    assert flush._words.nbytes == 2 << 16
    assert not np.any(flush._words)
