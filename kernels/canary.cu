// The canary: a streaming read that sums every 32-bit word, so that nothing can be left out. Its time at a case's size is
// the floor that the case is measured against. Bytes: n_vectors * 16, once. Four independent 16-byte loads per thread.
#include "ptx.cuh"

KERNEL canary_read(const uint4* data, int64_t n_vectors, uint64_t* sum) {
    uint64_t total = 0;
    const int64_t step = threads_in_grid();
    int64_t i = thread_in_grid();
    for (; i + 3 * step < n_vectors; i += 4 * step) {
        uint4 loaded[4];
#pragma unroll
        for (int j = 0; j < 4; ++j) loaded[j] = load_streaming(data + i + j * step);
#pragma unroll
        for (int j = 0; j < 4; ++j)
            total += static_cast<uint64_t>(loaded[j].x) + loaded[j].y + loaded[j].z + loaded[j].w;
    }
    for (; i < n_vectors; i += step) {
        const uint4 loaded = load_streaming(data + i);
        total += static_cast<uint64_t>(loaded.x) + loaded.y + loaded.z + loaded.w;
    }
    total = warp_sum(total);
    if (lane_index() == 0) atomic_add(sum, total);
}
