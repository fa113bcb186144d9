// Every intrinsic and every line of inline PTX of this project, behind plain functions.
//
// The rest of kernels/ is C++17 that knows no architecture. With MMVQ_HOST defined the same functions are plain C++, so
// that every kernel runs without a GPU: loads also assert the alignment they promise, and what threads do together is
// left to the scheduler of tests/host_target, which is told each operation and the source line that asks for it.
// Compile device code without -ftz and with -fmad=false: decoding is bit-equal to ggml, subnormal scales included.

#ifdef MMVQ_HOST
#include <algorithm>
#include <cassert>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#define DEVICE static inline
#define DEVICE_TABLE static const
#define OFFSET_OF(type, field) offsetof(type, field)
#define SHARED static __attribute__((section("mmvq_shared")))  // blocks run one after the other
#define GRID_CONSTANT
#define KERNEL extern "C" void
#define KERNEL_BOUNDED(...) extern "C" void
struct alignas(8) uint2 {
    uint32_t x, y;
};
struct alignas(16) uint4 {
    uint32_t x, y, z, w;
};
struct alignas(8) float2 {
    float x, y;
};
struct alignas(16) float4 {
    float x, y, z, w;
};
static inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
using std::max;
using std::min;
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
#define KERNEL_BOUNDED(...) extern "C" __global__ void __launch_bounds__(__VA_ARGS__)  // threads, blocks
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

// As byte_permute, by the lower half of the selector; where the fourth bit of a nibble is set, the sign of the byte in all bits.
DEVICE uint32_t byte_or_sign_permute(uint32_t low, uint32_t high, uint32_t selector) {
#ifdef MMVQ_HOST
    const uint64_t bytes = static_cast<uint64_t>(high) << 32 | low;
    uint32_t result = 0;
    for (int i = 0; i < 4; ++i) {
        const uint32_t nibble = selector >> 4 * i & 15, byte = bytes >> 8 * (nibble & 7) & 0xFF;
        result |= (nibble < 8 ? byte : byte < 128 ? 0 : 0xFF) << 8 * i;
    }
    return result;
#else
    uint32_t result;
    asm("prmt.b32 %0, %1, %2, %3;" : "=r"(result) : "r"(low), "r"(high), "r"(selector));
    return result;
#endif
}

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

// word >> 8, before any mask: a compiler that masks first shifts again for every other mask.
DEVICE uint32_t shift_right_8(uint32_t word) {
#ifdef MMVQ_HOST
    return word >> 8;
#else
    uint32_t result;
    asm("shr.u32 %0, %1, 8;" : "=r"(result) : "r"(word));
    return result;
#endif
}

// (word & mask) | bits as one instruction; compilers turn the second step into an addition of its own.
DEVICE uint32_t and_or(uint32_t word, uint32_t mask, uint32_t bits) {
#ifdef MMVQ_HOST
    return (word & mask) | bits;
#else
    uint32_t result;
    asm("lop3.b32 %0, %1, %2, %3, 0xEA;" : "=r"(result) : "r"(word), "r"(mask), "r"(bits));
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

// The lowest bit that is set, of a word that has one.
DEVICE int32_t lowest_bit(uint32_t bits) {
#ifdef MMVQ_HOST
    return __builtin_ctz(bits);
#else
    return __ffs(static_cast<int32_t>(bits)) - 1;
#endif
}

// a / b for a >= 0, b > 0: a 64-bit division takes five times as long as the 32-bit one that nearly always does.
DEVICE int64_t quotient(int64_t a, int32_t b) {
    if (a >> 32 == 0) return static_cast<uint32_t>(a) / static_cast<uint32_t>(b);
    return a / b;
}

// The upper half of a product of 64 bits.
DEVICE uint32_t multiply_high(uint32_t a, uint32_t b) {
#ifdef MMVQ_HOST
    return static_cast<uint32_t>(static_cast<uint64_t>(a) * b >> 32);
#else
    return __umulhi(a, b);
#endif
}

constexpr int kBoxUnit = 8;  // bytes of an element of a box; op/boxes.py says so too

#ifdef MMVQ_HOST

// ---- What tests/host_target provides. Each call may switch to another thread of the block.

extern "C" {
int32_t host_thread_index();
int32_t host_block_size();
int32_t host_block_index();
int32_t host_block_count();
void host_block_barrier(const char* file, int line);
void host_warp_barrier(const char* file, int line);
// Waits for the 32 lanes and copies the `size` bytes at `mine` of every lane to all[lane].
void host_warp_exchange(const void* mine, uint32_t size, void* all, const char* file, int line);
void host_named_barrier(uint32_t id, uint32_t n_threads, const char* file, int line);
void host_barrier_init(uint64_t* barrier, uint32_t n_arrivals, const char* file, int line);
void host_barrier_arrive(uint64_t* barrier, uint32_t expected_bytes, const char* file, int line);
void host_barrier_expect(uint64_t* barrier, uint32_t bytes, const char* file, int line);
void host_barrier_wait(uint64_t* barrier, uint32_t parity, const char* file, int line);
void host_publish(int32_t* counter, int32_t value);
int32_t host_await(const int32_t* counter, int32_t at_least, const char* file, int line);
// Arrives some time later: at `barrier`, if there is one.
void host_copy(void* to, const void* from, uint32_t n_bytes, uint32_t alignment, uint64_t* barrier, const char* file,
               int line);
// Arrives when all copies that this thread asked for without a barrier are there.
void host_barrier_arrive_behind_copies(uint64_t* barrier, const char* file, int line);
void* host_dynamic_shared();
// Between the two, this thread's accesses are one indivisible operation.
void host_atomic_begin();
void host_atomic_end();
}

// The last parameters of an operation that the host reports on: the line that calls it.
#define CALLER const char *file = __builtin_FILE(), int line = __builtin_LINE()

// ---- Where a thread is. Grids and blocks are one-dimensional.

DEVICE int32_t thread_index() { return host_thread_index(); }
DEVICE int32_t block_size() { return host_block_size(); }
DEVICE int32_t block_index() { return host_block_index(); }
DEVICE int32_t block_count() { return host_block_count(); }
DEVICE int32_t lane_index() { return thread_index() % 32; }
DEVICE int32_t warp_index() { return thread_index() / 32; }
DEVICE int64_t thread_in_grid() { return static_cast<int64_t>(block_index()) * block_size() + thread_index(); }
DEVICE int64_t threads_in_grid() { return static_cast<int64_t>(block_count()) * block_size(); }

// ---- Threads together.

DEVICE void block_barrier(CALLER) { host_block_barrier(file, line); }

DEVICE void warp_barrier(CALLER) { host_warp_barrier(file, line); }

DEVICE void named_barrier(uint32_t id, uint32_t n_threads, CALLER) { host_named_barrier(id, n_threads, file, line); }

DEVICE int32_t shuffle(int32_t value, int lane, CALLER) {
    int32_t all[32];
    host_warp_exchange(&value, sizeof(value), all, file, line);
    return all[lane];
}

template <typename T>
DEVICE T shuffle_xor(T value, int mask, CALLER) {
    T all[32];
    host_warp_exchange(&value, sizeof(T), all, file, line);
    return all[(host_thread_index() % 32) ^ mask];
}

template <typename T>
DEVICE T warp_sum(T value, CALLER) {
    for (int mask = 16; mask > 0; mask /= 2) value += shuffle_xor(value, mask, file, line);
    return value;
}

DEVICE int32_t warp_prefix_sum(int32_t value, CALLER) {
    int32_t all[32];
    host_warp_exchange(&value, sizeof(value), all, file, line);
    int32_t sum = 0;
    for (int lane = 0; lane <= host_thread_index() % 32; ++lane) sum += all[lane];
    return sum;
}

DEVICE uint32_t warp_ballot(bool value, CALLER) {
    bool all[32];
    uint32_t result = 0;
    host_warp_exchange(&value, sizeof(value), all, file, line);
    for (int lane = 0; lane < 32; ++lane) result |= static_cast<uint32_t>(all[lane]) << lane;
    return result;
}

DEVICE uint32_t warp_max(uint32_t value, CALLER) {
    uint32_t all[32], result = 0;
    host_warp_exchange(&value, sizeof(value), all, file, line);
    for (int lane = 0; lane < 32; ++lane) result = all[lane] > result ? all[lane] : result;
    return result;
}

template <typename T>
DEVICE T atomic_load(const T* source) {
    host_atomic_begin();
    const T seen = *source;
    host_atomic_end();
    return seen;
}

template <typename T>
DEVICE T atomic_add(T* target, T value) {
    host_atomic_begin();
    const T before = *target;
    *target = before + value;
    host_atomic_end();
    return before;
}

template <typename T>
DEVICE T atomic_compare_and_swap(T* target, T expected, T desired) {
    host_atomic_begin();
    const T before = *target;
    if (before == expected) *target = desired;
    host_atomic_end();
    return before;
}

// ---- Copies that go on by themselves, and the barriers that they arrive at.

DEVICE uint8_t* dynamic_shared() { return static_cast<uint8_t*>(host_dynamic_shared()); }

DEVICE uint32_t shared_address(const void* p) { return static_cast<uint32_t>(reinterpret_cast<uintptr_t>(p)); }

DEVICE void barrier_init(uint64_t* barrier, uint32_t n_arrivals, CALLER) {
    host_barrier_init(barrier, n_arrivals, file, line);
}

DEVICE void barrier_init_done() {}

DEVICE uint8_t* keep_in_register(uint8_t* p) { return p; }

DEVICE void touch(int32_t) {}

DEVICE void barrier_arrive(uint64_t* barrier, CALLER) { host_barrier_arrive(barrier, 0, file, line); }

DEVICE void barrier_arrive_expect(uint64_t* barrier, uint32_t n_bytes, CALLER) {
    host_barrier_arrive(barrier, n_bytes, file, line);
}

DEVICE void barrier_expect(uint64_t* barrier, uint32_t n_bytes, CALLER) {
    host_barrier_expect(barrier, n_bytes, file, line);
}

DEVICE void barrier_wait(uint64_t* barrier, uint32_t parity, CALLER) { host_barrier_wait(barrier, parity, file, line); }

DEVICE void publish(int32_t* counter, int32_t value) { host_publish(counter, value); }
DEVICE int32_t await(const int32_t* counter, int32_t at_least, CALLER) {
    return host_await(counter, at_least, file, line);
}

// One arrival for all lanes: what each of them did before is done. (32 arrivals would come one after the other.)
DEVICE void arrive_as_warp(uint64_t* barrier, CALLER) {
    warp_barrier(file, line);
    if (lane_index() == 0) barrier_arrive(barrier, file, line);
}

DEVICE void copy_bulk(void* to, const void* from, uint32_t n_bytes, uint64_t* barrier, CALLER) {
    host_copy(to, from, n_bytes, 16, barrier, file, line);
}

// What stands for the driver's opaque 128 bytes: op/boxes.py has the fields.
struct TensorMap {
    const uint8_t* address;
    uint64_t width, height, box_width, box_height;
    uint64_t rest[11];
};

DEVICE void prefetch_map(const TensorMap&) {}

DEVICE void copy_box(void* to, const TensorMap& map, int32_t x, int32_t y, uint64_t* barrier, CALLER) {
    static const uint4 zeros[128] = {};
    assert(reinterpret_cast<uintptr_t>(to) % 128 == 0);
    const uint64_t n_bytes = map.box_width * kBoxUnit;
    assert(n_bytes % 16 == 0 && map.box_width <= 256 && map.box_height <= 256);
    assert(map.width * kBoxUnit % 16 == 0 && x * kBoxUnit % 16 == 0);
    for (uint64_t i = 0; i < map.box_height; ++i) {
        uint8_t* const line_in_box = static_cast<uint8_t*>(to) + i * n_bytes;
        const uint64_t inside = y + i >= map.height ? 0 : min(map.box_width, map.width - min(map.width, uint64_t(x)));
        const uint32_t n_inside = inside * kBoxUnit, n_outside = n_bytes - n_inside;
        const uint8_t* const from = map.address + ((y + i) * map.width + x) * kBoxUnit;
        if (n_inside) host_copy(line_in_box, from, n_inside, kBoxUnit, barrier, file, line);
        if (n_outside) host_copy(line_in_box + n_inside, zeros, n_outside, kBoxUnit, barrier, file, line);
    }
}

DEVICE void copy_line(void* to, const void* from, uint32_t n_bytes, CALLER) {
    static const uint4 zeros = {};
    assert(reinterpret_cast<uintptr_t>(to) % 16 == 0 && reinterpret_cast<uintptr_t>(from) % 16 == 0 && n_bytes <= 16);
    if (n_bytes) host_copy(to, from, n_bytes, 1, nullptr, file, line);
    if (n_bytes < 16) host_copy(static_cast<uint8_t*>(to) + n_bytes, &zeros, 16 - n_bytes, 1, nullptr, file, line);
}

DEVICE void barrier_arrive_behind_copies(uint64_t* barrier, CALLER) {
    host_barrier_arrive_behind_copies(barrier, file, line);
}

DEVICE void start_overlapped() {}  // grids run one after the other here

DEVICE void prefetch(const void*) {}

// ---- Tensor cores. Fragments as in the PTX manual; a sum is exact here and rounded once, a GPU's may differ from it.

DEVICE void load_matrices(uint32_t (&words)[4], const void* row, CALLER) {
    const void* rows[32];
    host_warp_exchange(&row, sizeof(row), rows, file, line);
    const int lane = lane_index();
    for (int i = 0; i < 4; ++i) {
        assert(reinterpret_cast<uintptr_t>(rows[8 * i + lane / 4]) % 16 == 0);
        words[i] = static_cast<const uint32_t*>(rows[8 * i + lane / 4])[lane % 4];
    }
}

// A subnormal bfloat16 counts as zero there (seen on an H200).
DEVICE float bfloat_to_float_or_zero(uint16_t bfloat) { return bfloat & 0x7F80u ? bfloat_to_float(bfloat) : 0.0f; }

template <float (*Widen)(uint16_t)>
DEVICE void mma_16bit(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], const float (&c)[4],
                      const char* file, int line) {
    const uint32_t mine[6] = {a[0], a[1], a[2], a[3], b[0], b[1]};
    uint32_t all[32][6];
    host_warp_exchange(mine, sizeof(mine), all, file, line);
    const int lane = lane_index();
    for (int i = 0; i < 4; ++i) {
        const int row = lane / 4 + 8 * (i / 2), column = 2 * (lane % 4) + i % 2;
        double sum = c[i];
        for (int k = 0; k < 16; ++k) {
            const uint32_t left = all[4 * (row % 8) + k % 8 / 2][row / 8 + 2 * (k / 8)] >> 16 * (k % 2);
            const uint32_t right = all[4 * column + k % 8 / 2][4 + k / 8] >> 16 * (k % 2);
            sum += static_cast<double>(Widen(static_cast<uint16_t>(left))) * Widen(static_cast<uint16_t>(right));
        }
        d[i] = static_cast<float>(sum);
    }
}

DEVICE void mma_f16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], const float (&c)[4], CALLER) {
    mma_16bit<half_to_float>(d, a, b, c, file, line);
}

DEVICE void mma_bf16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], const float (&c)[4], CALLER) {
    mma_16bit<bfloat_to_float_or_zero>(d, a, b, c, file, line);
}

// A holds AType (uint8_t or int8_t), B int8_t; rows of 16 * Half bytes of depth.
template <typename AType, int Half>
DEVICE void mma_8bit(int32_t (&d)[4], const uint32_t (&a)[2 * Half], const uint32_t (&b)[Half], const int32_t (&c)[4],
                     const char* file, int line) {
    uint32_t mine[3 * Half], all[32][3 * Half];
    memcpy(mine, a, sizeof(a));
    memcpy(mine + 2 * Half, b, sizeof(b));
    host_warp_exchange(mine, sizeof(mine), all, file, line);
    const int lane = lane_index();
    for (int i = 0; i < 4; ++i) {
        const int row = lane / 4 + 8 * (i / 2), column = 2 * (lane % 4) + i % 2;
        d[i] = c[i];
        for (int k = 0; k < 16 * Half; ++k) {
            const uint32_t left = all[4 * (row % 8) + k % 16 / 4][row / 8 + 2 * (k / 16)] >> 8 * (k % 4);
            const uint32_t right = all[4 * column + k % 16 / 4][2 * Half + k / 16] >> 8 * (k % 4);
            d[i] += static_cast<AType>(left) * static_cast<int8_t>(right);
        }
    }
}

template <typename AType>
DEVICE void mma_int8(int32_t (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], const int32_t (&c)[4], CALLER) {
    mma_8bit<AType, 2>(d, a, b, c, file, line);
}

template <typename AType>
DEVICE void mma_int8(int32_t (&d)[4], const uint32_t (&a)[2], const uint32_t (&b)[1], const int32_t (&c)[4], CALLER) {
    mma_8bit<AType, 1>(d, a, b, c, file, line);
}

#else

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

DEVICE void warp_barrier() { __syncwarp(); }

// Waits until `n_threads` threads, whole warps, have come to barrier `id` (1 to 15; 0 is block_barrier's).
DEVICE void named_barrier(uint32_t id, uint32_t n_threads) {
    asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(n_threads) : "memory");
}

// The value of lane `lane`.
DEVICE int32_t shuffle(int32_t value, int lane) { return __shfl_sync(0xFFFFFFFFu, value, lane); }

template <typename T>
DEVICE T shuffle_xor(T value, int mask) {
    return __shfl_xor_sync(0xFFFFFFFFu, value, mask);
}

// The sum over the 32 lanes of a warp, in every lane, by a butterfly: the order of additions is fixed.
template <typename T>
DEVICE T warp_sum(T value) {
#pragma unroll
    for (int mask = 16; mask > 0; mask /= 2) value += shuffle_xor(value, mask);
    return value;
}

// The sum over this lane and the lanes before it.
DEVICE int32_t warp_prefix_sum(int32_t value) {
#pragma unroll
    for (int distance = 1; distance < 32; distance *= 2) {
        const int32_t before = __shfl_up_sync(0xFFFFFFFFu, value, distance);
        if (lane_index() >= distance) value += before;
    }
    return value;
}

// Bit i: whether it is true of lane i.
DEVICE uint32_t warp_ballot(bool value) { return __ballot_sync(0xFFFFFFFFu, value); }

// The largest value of the warp's lanes.
DEVICE uint32_t warp_max(uint32_t value) { return __reduce_max_sync(0xFFFFFFFFu, value); }

// Reads what other threads change atomically.
template <typename T>
DEVICE T atomic_load(const T* source) {
    return *source;
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

// ---- Copies that go on by themselves, and the barriers that they arrive at. Bulk copies, boxes and bytes that a barrier expects
// came with sm_90, the rest with sm_80.

// The memory that the launch asked for, 128-byte aligned.
DEVICE uint8_t* dynamic_shared() {
    extern __shared__ __align__(128) uint8_t dynamic_shared_memory[];
    return dynamic_shared_memory;
}

DEVICE uint32_t shared_address(const void* p) { return static_cast<uint32_t>(__cvta_generic_to_shared(p)); }

// The same pointer, but one that the compiler does not compute again at every use.
DEVICE uint8_t* keep_in_register(uint8_t* p) {
    asm volatile("" : "+l"(p));
    return p;
}

// Reads `value` now.
DEVICE void touch(int32_t value) { asm volatile("" ::"r"(value)); }

// One thread sets barriers in shared memory up, each for `n_arrivals` arrivals a phase; then follow barrier_init_done and
// a block_barrier.
DEVICE void barrier_init(uint64_t* barrier, uint32_t n_arrivals) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(barrier)), "r"(n_arrivals) : "memory");
}

// Shows the barriers to bulk copies, which see memory in another way than threads do.
DEVICE void barrier_init_done() {
#if __CUDA_ARCH__ >= 900
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
#endif
}

DEVICE void barrier_arrive(uint64_t* barrier) {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(barrier)) : "memory");
}

// Arrives; the phase ends only when `n_bytes` more have been copied.
DEVICE void barrier_arrive_expect(uint64_t* barrier, uint32_t n_bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(barrier)), "r"(n_bytes)
                 : "memory");
}

// The phase ends only when `n_bytes` more have been copied.
DEVICE void barrier_expect(uint64_t* barrier, uint32_t n_bytes) {
    asm volatile("mbarrier.expect_tx.relaxed.cta.shared::cta.b64 [%0], %1;" ::"r"(shared_address(barrier)), "r"(n_bytes)
                 : "memory");
}

// Waits until the phase of this parity has ended; the first phase has parity 0.
#if __CUDA_ARCH__ >= 900
#define TEST_OR_TRY_WAIT "mbarrier.try_wait"
#else
#define TEST_OR_TRY_WAIT "mbarrier.test_wait"
#endif
DEVICE void barrier_wait(uint64_t* barrier, uint32_t parity) {
    asm volatile("{\n"
                 ".reg .pred ended;\n"
                 "again_%=: " TEST_OR_TRY_WAIT ".parity.shared::cta.b64 ended, [%0], %1;\n"
                 "@!ended bra again_%=;\n"
                 "}" ::"r"(shared_address(barrier)),
                 "r"(parity)
                 : "memory");
}

// A counter in shared memory that grows: whoever sees a value sees what was done before it was published.
DEVICE void publish(int32_t* counter, int32_t value) {
    asm volatile("st.release.cta.shared::cta.b32 [%0], %1;" ::"r"(shared_address(counter)), "r"(value) : "memory");
}

// Waits until the counter is at least this; what it is.
DEVICE int32_t await(const int32_t* counter, int32_t at_least) {
    for (;;) {
        int32_t value;
        asm volatile("ld.acquire.cta.shared::cta.b32 %0, [%1];"
                     : "=r"(value)
                     : "r"(shared_address(counter))
                     : "memory");
        if (value >= at_least) return value;
        __nanosleep(20);
    }
}

// One arrival for all lanes: what each of them did before is done. (32 arrivals would come one after the other.)
DEVICE void arrive_as_warp(uint64_t* barrier) {
    warp_barrier();
    if (lane_index() == 0) barrier_arrive(barrier);
}

// Copies from global to shared memory; addresses and size are multiples of 16.
DEVICE void copy_bulk(void* to, const void* from, uint32_t n_bytes, uint64_t* barrier) {
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(
                     shared_address(to)),
                 "l"(from), "r"(n_bytes), "r"(shared_address(barrier))
                 : "memory");
}

// The driver's description of a tensor in global memory, two-dimensional here, and of the boxes that are copied from it.
struct alignas(64) TensorMap {
    uint64_t opaque[16];
};

DEVICE void prefetch_map(const TensorMap& map) { asm volatile("prefetch.tensormap [%0];" ::"l"(&map) : "memory"); }

// Copies the box whose first element is element x of line y to a multiple of 128 bytes of shared memory, line after line;
// elements outside the tensor become zero. Arrives with all bytes of the box.
DEVICE void copy_box(void* to, const TensorMap& map, int32_t x, int32_t y, uint64_t* barrier) {
    asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%2, "
                 "%3}], [%4];" ::"r"(shared_address(to)),
                 "l"(&map), "r"(x), "r"(y), "r"(shared_address(barrier))
                 : "memory");
}

// Copies a 16-byte line from global to shared memory, past L1; only its first `n_bytes` are read, the others become zero.
DEVICE void copy_line(void* to, const void* from, uint32_t n_bytes) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(to)), "l"(from), "r"(n_bytes)
                 : "memory");
}

// One of the arrivals that the barrier was set up for, when all lines that this thread copied before are there. What it stored
// itself is not said to be.
DEVICE void barrier_arrive_behind_copies(uint64_t* barrier) {
    asm volatile("cp.async.mbarrier.arrive.noinc.shared::cta.b64 [%0];" ::"r"(shared_address(barrier)) : "memory");
}

// Every kernel that a plan launches as overlapping (Launch.overlaps) calls this before it touches global memory: the next
// kernel of the stream may be set up from now on, and all that the kernels before this one wrote is there afterwards.
// Without the launch attribute, and before sm_90, it does nothing.
DEVICE void start_overlapped() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;\n"
                 "griddepcontrol.wait;" ::
                     : "memory");
#endif
}

// Brings the line that holds `p` into the L2 cache.
DEVICE void prefetch(const void* p) { asm volatile("prefetch.global.L2 [%0];" ::"l"(p)); }

// ---- Tensor cores.

// Four 8x8 matrices of 16-bit elements from shared memory; lane 8 * i + j gives row j of matrix i, 16-byte aligned.
DEVICE void load_matrices(uint32_t (&words)[4], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(words[0]), "=r"(words[1]), "=r"(words[2]), "=r"(words[3])
                 : "r"(shared_address(row))
                 : "memory");
}

// d[16, 8] = a[16, 16] * b[16, 8] + c; a by rows, b by columns, c and d in float, and they may be the same.
DEVICE void mma_f16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], const float (&c)[4]) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%10, %11, %12, %13};"
        : "=f"(d[0]), "=f"(d[1]), "=f"(d[2]), "=f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]), "f"(c[0]), "f"(c[1]), "f"(c[2]), "f"(c[3]));
}

DEVICE void mma_bf16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], const float (&c)[4]) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%10, %11, %12, %13};"
        : "=f"(d[0]), "=f"(d[1]), "=f"(d[2]), "=f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]), "f"(c[0]), "f"(c[1]), "f"(c[2]), "f"(c[3]));
}

// d = a b + c for 16 rows by 32 bytes (uint8_t or int8_t) times 32 int8_t by 8 columns: lane 4g + t holds bytes 4t to 4t + 3 of
// rows g and g + 8, then 16 + 4t to 16 + 4t + 3 of both; the same of column g; and sums as above.
template <typename AType>
DEVICE void mma_int8(int32_t (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], const int32_t (&c)[4]) {
    if constexpr (AType(-1) < AType(0)) {
        asm("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
            "{%10, %11, %12, %13};"
            : "=r"(d[0]), "=r"(d[1]), "=r"(d[2]), "=r"(d[3])
            : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]), "r"(c[0]), "r"(c[1]), "r"(c[2]),
              "r"(c[3]));
    } else {
        asm("mma.sync.aligned.m16n8k32.row.col.s32.u8.s8.s32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
            "{%10, %11, %12, %13};"
            : "=r"(d[0]), "=r"(d[1]), "=r"(d[2]), "=r"(d[3])
            : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]), "r"(c[0]), "r"(c[1]), "r"(c[2]),
              "r"(c[3]));
    }
}

// The same of half the depth: the first two words of a, the first of b.
template <typename AType>
DEVICE void mma_int8(int32_t (&d)[4], const uint32_t (&a)[2], const uint32_t (&b)[1], const int32_t (&c)[4]) {
    if constexpr (AType(-1) < AType(0)) {
        asm("mma.sync.aligned.m16n8k16.row.col.s32.s8.s8.s32 {%0, %1, %2, %3}, {%4, %5}, {%6}, {%7, %8, %9, %10};"
            : "=r"(d[0]), "=r"(d[1]), "=r"(d[2]), "=r"(d[3])
            : "r"(a[0]), "r"(a[1]), "r"(b[0]), "r"(c[0]), "r"(c[1]), "r"(c[2]), "r"(c[3]));
    } else {
        asm("mma.sync.aligned.m16n8k16.row.col.s32.u8.s8.s32 {%0, %1, %2, %3}, {%4, %5}, {%6}, {%7, %8, %9, %10};"
            : "=r"(d[0]), "=r"(d[1]), "=r"(d[2]), "=r"(d[3])
            : "r"(a[0]), "r"(a[1]), "r"(b[0]), "r"(c[0]), "r"(c[1]), "r"(c[2]), "r"(c[3]));
    }
}

#endif

// ---- Arithmetic.

// a * b + c, rounded once; everything else is compiled without contraction.
DEVICE float fused_multiply_add(float a, float b, float c) {
#ifdef MMVQ_HOST
    return std::fma(a, b, c);
#else
    return __fmaf_rn(a, b, c);
#endif
}

// Rounded to nearest even.
DEVICE float int_to_float(int32_t value) {
#ifdef MMVQ_HOST
    return static_cast<float>(value);
#else
    return __int2float_rn(value);
#endif
}

// Rounds to the nearest integer, ties to even; beyond int32 its nearer end, NaN is 0.
DEVICE int32_t float_to_int(float value) {
#ifdef MMVQ_HOST
    if (!(value > -2147483648.0f)) return value != value ? 0 : INT32_MIN;
    return value < 2147483648.0f ? static_cast<int32_t>(std::nearbyint(value)) : INT32_MAX;
#else
    return __float2int_rn(value);
#endif
}

// Round to nearest even, NaN stays NaN.
DEVICE uint16_t float_to_half(float value) {
#ifdef MMVQ_HOST
    const uint32_t sign = float_to_bits(value) >> 16 & 0x8000u, magnitude = float_to_bits(value) & 0x7FFFFFFFu;
    if (magnitude > 0x7F800000u) return 0x7FFF;
    if (magnitude >= 0x477FF000u) return static_cast<uint16_t>(sign | 0x7C00u);  // from 65520 on
    if (magnitude < 0x38800000u)                                                 // subnormal: a multiple of 2^-24
        return static_cast<uint16_t>(sign | static_cast<uint32_t>(std::nearbyint(std::ldexp(std::fabs(value), 24))));
    return static_cast<uint16_t>(sign | (magnitude + 0xFFFu + (magnitude >> 13 & 1) - 0x38000000u) >> 13);
#else
    uint16_t half;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(half) : "f"(value));
    return half;
#endif
}

// Round to nearest even, NaN stays NaN; an instruction of sm_80 and later.
DEVICE uint16_t float_to_bfloat(float value) {
#ifdef MMVQ_HOST
    const uint32_t bits = float_to_bits(value);
    if ((bits & 0x7FFFFFFFu) > 0x7F800000u) return 0x7FFF;
    return static_cast<uint16_t>((bits + 0x7FFFu + (bits >> 16 & 1)) >> 16);
#else
    uint16_t bfloat;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(bfloat) : "f"(value));
    return bfloat;
#endif
}

// Two floats as f16 in a word, rounded to nearest.
DEVICE uint32_t floats_to_half2(float low, float high) {
#ifdef MMVQ_HOST
    return float_to_half(low) | static_cast<uint32_t>(float_to_half(high)) << 16;
#else
    uint32_t result;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(result) : "f"(high), "f"(low));
    return result;
#endif
}

DEVICE float magnitude(float value) { return bits_to_float(float_to_bits(value) & 0x7FFFFFFFu); }

// a - b for two 16-bit floats in a word; exact where the kernels use it.
DEVICE uint32_t half2_subtract(uint32_t a, uint32_t b) {
#ifdef MMVQ_HOST
    const auto part = [&](int shift) {
        const float x = half_to_float(static_cast<uint16_t>(a >> shift)),
                    y = half_to_float(static_cast<uint16_t>(b >> shift));
        return static_cast<uint32_t>(float_to_half(x - y)) << shift;
    };
    return part(0) | part(16);
#else
    uint32_t result;
    asm("sub.rn.f16x2 %0, %1, %2;" : "=r"(result) : "r"(a), "r"(b));
    return result;
#endif
}

// a * b + c for two f16 in a word, rounded once; exact where the kernels use it.
DEVICE uint32_t half2_multiply_add(uint32_t a, uint32_t b, uint32_t c) {
#ifdef MMVQ_HOST
    const auto part = [&](int shift) {
        const auto widen = [&](uint32_t word) { return half_to_float(static_cast<uint16_t>(word >> shift)); };
        return static_cast<uint32_t>(float_to_half(std::fma(widen(a), widen(b), widen(c)))) << shift;
    };
    return part(0) | part(16);
#else
    uint32_t result;
    asm("fma.rn.f16x2 %0, %1, %2, %3;" : "=r"(result) : "r"(a), "r"(b), "r"(c));
    return result;
#endif
}

DEVICE uint32_t half2_multiply(uint32_t a, uint32_t b) {
#ifdef MMVQ_HOST
    return half2_multiply_add(a, b, 0x80008000u);
#else
    uint32_t result;
    asm("mul.rn.f16x2 %0, %1, %2;" : "=r"(result) : "r"(a), "r"(b));
    return result;
#endif
}

DEVICE uint32_t bfloat2_subtract(uint32_t a, uint32_t b) {
#ifdef MMVQ_HOST
    const auto part = [&](int shift) {
        const float x = bfloat_to_float(static_cast<uint16_t>(a >> shift)),
                    y = bfloat_to_float(static_cast<uint16_t>(b >> shift));
        return static_cast<uint32_t>(float_to_bfloat(x - y)) << shift;
    };
    return part(0) | part(16);
#else
    uint32_t result;  // b * -1 + a: the plain subtraction came with sm_90
    asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(result) : "r"(b), "r"(0xBF80BF80u), "r"(a));
    return result;
#endif
}

// Atomic sums of 16-bit floats: added in binary32, rounded once per addition. A loop, because the bfloat16 instruction
// needs sm_90 and both instructions round the addend first.
template <float (*Widen)(uint16_t), uint16_t (*Narrow)(float)>
DEVICE void atomic_add_16bit(uint16_t* target, float value) {
    uint16_t seen = atomic_load(target), expected;
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
