// Every intrinsic and every line of inline PTX of this project, behind plain functions.
//
// The rest of kernels/ is C++17 that knows no architecture. With MMVQ_HOST defined the same functions are plain C++,
// so that the format structs compile and run on the host; there, loads also assert the alignment they promise.
// Compile device code without -ftz and with -fmad=false: decoding is bit-equal to ggml, subnormal scales included.

#ifdef MMVQ_HOST
#include <cassert>
#include <cmath>
#include <cstdint>
#include <cstring>
#define DEVICE static inline
#define DEVICE_TABLE static const
struct uint2 {
    uint32_t x, y;
};
struct uint4 {
    uint32_t x, y, z, w;
};
#else
using int8_t = signed char;
using uint8_t = unsigned char;
using int16_t = short;
using uint16_t = unsigned short;
using int32_t = int;
using uint32_t = unsigned int;
using int64_t = long long;
using uint64_t = unsigned long long;
#define DEVICE static __device__ __forceinline__
#define DEVICE_TABLE static __device__ const
// NVRTC has no <cstddef>, and its builtin came with 13.5; this intrinsic of its front end is older than CUDA 12.
#define OFFSET_OF(type, field) static_cast<uint64_t>(__INTADDR__(&static_cast<type*>(nullptr)->field))
#define SHARED __shared__
#define GRID_CONSTANT __grid_constant__  // a parameter that stays in constant memory even when its address is taken
#define KERNEL extern "C" __global__ void
#define KERNEL_BOUNDED(threads) extern "C" __global__ void __launch_bounds__(threads)
#endif

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

DEVICE float bits_to_float(uint32_t bits) {
#ifdef MMVQ_HOST
    float value;
    std::memcpy(&value, &bits, sizeof(value));
    return value;
#else
    return __uint_as_float(bits);
#endif
}

DEVICE uint32_t float_to_bits(float value) {
#ifdef MMVQ_HOST
    uint32_t bits;
    std::memcpy(&bits, &value, sizeof(bits));
    return bits;
#else
    return __float_as_uint(value);
#endif
}

// IEEE binary16 to binary32: exact, subnormals included.
DEVICE float half_to_float(uint16_t half) {
#ifdef MMVQ_HOST
    const uint32_t sign = (half & 0x8000u) << 16, exponent = (half >> 10) & 31, mantissa = half & 0x3FFu;
    if (exponent == 0) return std::copysign(std::ldexp(static_cast<float>(mantissa), -24), bits_to_float(sign | 1));
    return bits_to_float(sign | (exponent == 31 ? 255u : exponent + 112) << 23 | mantissa << 13);
#else
    float value;
    asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(half));
    return value;
#endif
}

// bfloat16 is the upper half of binary32.
DEVICE float bfloat_to_float(uint16_t bfloat) { return bits_to_float(static_cast<uint32_t>(bfloat) << 16); }

// Byte i of the result is byte `selector >> 4i & 7` of the eight bytes low, high. No selector nibble exceeds 7.
DEVICE uint32_t byte_permute(uint32_t low, uint32_t high, uint32_t selector) {
#ifdef MMVQ_HOST
    const uint64_t bytes = static_cast<uint64_t>(high) << 32 | low;
    uint32_t result = 0;
    for (int i = 0; i < 4; ++i) {
        assert((selector >> 4 * i & 15) < 8);
        result |= static_cast<uint32_t>(bytes >> 8 * (selector >> 4 * i & 7) & 0xFF) << 8 * i;
    }
    return result;
#else
    uint32_t result;  // __byte_perm would mask the selector once more
    asm("prmt.b32 %0, %1, %2, %3;" : "=r"(result) : "r"(low), "r"(high), "r"(selector));
    return result;
#endif
}

DEVICE uint32_t count_ones(uint32_t bits) {
#ifdef MMVQ_HOST
    return static_cast<uint32_t>(__builtin_popcount(bits));
#else
    return static_cast<uint32_t>(__popc(bits));
#endif
}

#ifndef MMVQ_HOST

// ---- Where a thread is. Grids and blocks are one-dimensional.

DEVICE int32_t thread_index() { return threadIdx.x; }
DEVICE int32_t block_size() { return blockDim.x; }
DEVICE int32_t block_index() { return blockIdx.x; }
DEVICE int32_t block_count() { return gridDim.x; }
DEVICE int32_t lane_index() { return threadIdx.x % 32; }
DEVICE int32_t warp_index() { return threadIdx.x / 32; }
DEVICE int64_t thread_in_grid() { return static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; }
DEVICE int64_t threads_in_grid() { return static_cast<int64_t>(gridDim.x) * blockDim.x; }

// ---- Threads together.

DEVICE void block_barrier() { __syncthreads(); }

// The sum over the 32 lanes of a warp, in every lane, by a butterfly: the order of additions is fixed.
template <typename T>
DEVICE T warp_sum(T value) {
#pragma unroll
    for (int mask = 16; mask > 0; mask /= 2) value += __shfl_xor_sync(0xFFFFFFFFu, value, mask);
    return value;
}

// All return the value before the change.
template <typename T>
DEVICE T atomic_add(T* target, T value) {
    return atomicAdd(target, value);
}

template <typename T>
DEVICE T atomic_compare_and_swap(T* target, T expected, T desired) {
    return atomicCAS(target, expected, desired);
}

// ---- Arithmetic.

// a * b + c, rounded once; everything else is compiled without contraction.
DEVICE float fused_multiply_add(float a, float b, float c) { return __fmaf_rn(a, b, c); }

// Round to nearest even, NaN stays NaN.
DEVICE uint16_t float_to_half(float value) {
    uint16_t half;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(half) : "f"(value));
    return half;
}

// Round to nearest even, NaN stays NaN; an instruction of sm_80 and later.
DEVICE uint16_t float_to_bfloat(float value) {
    uint16_t bfloat;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(bfloat) : "f"(value));
    return bfloat;
}

// Atomic sums of 16-bit floats: added in binary32, rounded once per addition. A loop, because the bfloat16 instruction
// needs sm_90 and both instructions round the addend first.
template <float (*Widen)(uint16_t), uint16_t (*Narrow)(float)>
DEVICE void atomic_add_16bit(uint16_t* target, float value) {
    uint16_t seen = *target, expected;
    do {
        expected = seen;
        seen = atomic_compare_and_swap(target, expected, Narrow(Widen(expected) + value));
    } while (seen != expected);
}

DEVICE void atomic_add_half(uint16_t* target, float value) {
    atomic_add_16bit<half_to_float, float_to_half>(target, value);
}

DEVICE void atomic_add_bfloat(uint16_t* target, float value) {
    atomic_add_16bit<bfloat_to_float, float_to_bfloat>(target, value);
}

// ---- Memory.

DEVICE uint64_t address_of(const void* p) { return reinterpret_cast<uint64_t>(p); }

// Reads Bytes bytes at `from`, aligned to 16 and a multiple of 16, into `to`.
template <int Bytes, typename T>
DEVICE void load_vectors(const T* from, T* to) {
    static_assert(Bytes % 16 == 0, "whole vectors");
    uint4 vectors[Bytes / 16];
#pragma unroll
    for (int i = 0; i < Bytes / 16; ++i) vectors[i] = reinterpret_cast<const uint4*>(from)[i];
    memcpy(to, vectors, Bytes);
}

// Read once and written once: evicted from the caches first.
template <typename T>
DEVICE T load_streaming(const T* p) {
    return __ldcs(p);
}

template <typename T>
DEVICE void store_streaming(T* p, T value) {
    __stcs(p, value);
}

#endif
