// Loads and stores.
#include "ptx/language.cuh"

// Reads one T at `p`, which is aligned to sizeof(T).
template <typename T>
DEVICE T load(const uint8_t* p) {
#ifdef MMVQ_HOST
    assert(reinterpret_cast<uintptr_t>(p) % sizeof(T) == 0);
    T value;
    std::memcpy(&value, p, sizeof(T));
    return value;
#else
    return *reinterpret_cast<const T*>(p);
#endif
}

// Reads entry `index` of a codebook in global memory, through the read-only path: lanes gather at random.
template <typename T>
DEVICE T load_table(const T* table, uint32_t index) {
#ifdef MMVQ_HOST
    return table[index];
#else
    return __ldg(table + index);
#endif
}

DEVICE uint64_t address_of(const void* p) { return reinterpret_cast<uint64_t>(p); }

// Reads Bytes bytes (8, or a multiple of 16) at `from`, aligned to 8 or 16, into `to`.
template <int Bytes, typename T>
DEVICE void load_vectors(const T* from, T* to) {
    static_assert(Bytes == 8 || Bytes % 16 == 0, "whole vectors");
    if constexpr (Bytes == 8) {
        const uint2 vector = *reinterpret_cast<const uint2*>(from);
        memcpy(to, &vector, Bytes);
    } else {
        uint4 vectors[Bytes / 16];
#pragma unroll
        for (int i = 0; i < Bytes / 16; ++i) vectors[i] = reinterpret_cast<const uint4*>(from)[i];
        memcpy(to, vectors, Bytes);
    }
}

// Read once and written once: evicted from the caches first.
template <typename T>
DEVICE T load_streaming(const T* p) {
#ifdef MMVQ_HOST
    return *p;
#else
    return __ldcs(p);
#endif
}

template <typename T>
DEVICE void store_streaming(T* p, T value) {
#ifdef MMVQ_HOST
    *p = value;
#else
    __stcs(p, value);
#endif
}
