// Where a thread is, what threads of a warp or a block do together, atomics.
#include "ptx/floats.cuh"

#ifdef MMVQ_HOST

// What tests/host_target provides. Each call may switch to another thread of the block.
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

DEVICE float shuffle_in_four(float value, int lane, CALLER) {
    float all[32];
    host_warp_exchange(&value, sizeof(value), all, file, line);
    return all[host_thread_index() % 32 / 4 * 4 + lane];
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

// The value of lane `lane` of this lane's four.
DEVICE float shuffle_in_four(float value, int lane) { return __shfl_sync(0xFFFFFFFFu, value, lane, 4); }

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

#endif

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
