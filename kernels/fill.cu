// Random valid weights of any size, made on the device: every block is a copy of one of a pool's, chosen by a hash of the
// seed and its index. Bytes: n_blocks * type_size written; the pool stays in the cache.
#include "ptx.cuh"

// SplitMix64's finalizer (Steele, Lea, Flood, OOPSLA 2014).
DEVICE uint64_t mix(uint64_t x) {
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9ull;
    x = (x ^ (x >> 27)) * 0x94D049BB133111EBull;
    return x ^ (x >> 31);
}

KERNEL fill_blocks(uint8_t* out, const uint8_t* pool, int64_t n_blocks, int32_t n_pool_blocks, int32_t type_size,
                   uint64_t seed) {
    for (int64_t i = thread_in_grid(); i < n_blocks * type_size; i += threads_in_grid()) {
        const int64_t block = i / type_size;
        const uint64_t choice = mix(seed + 0x9E3779B97F4A7C15ull * (block + 1)) % n_pool_blocks;
        out[i] = pool[choice * type_size + i % type_size];
    }
}
