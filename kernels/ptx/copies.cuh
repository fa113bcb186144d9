// Shared memory, copies into it that go on by themselves, and the barriers that they arrive at. Bulk copies, boxes and bytes that
// a barrier expects came with sm_90, the rest with sm_80.
#include "ptx/threads.cuh"

constexpr int kBoxUnit = 8;  // bytes of an element of a box; op/boxes.py says so too

#ifdef MMVQ_HOST

// What tests/host_target provides.
extern "C" {
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
}

DEVICE uint8_t* dynamic_shared() { return static_cast<uint8_t*>(host_dynamic_shared()); }

DEVICE uint32_t shared_address(const void* p) { return static_cast<uint32_t>(reinterpret_cast<uintptr_t>(p)); }

DEVICE const uint8_t* shared_word(const uint8_t* byte) { return byte - shared_address(byte) % 4; }

DEVICE void barrier_init(uint64_t* barrier, uint32_t n_arrivals, CALLER) {
    host_barrier_init(barrier, n_arrivals, file, line);
}

DEVICE void barrier_init_done() {}

template <typename T>
DEVICE T keep_in_register(T value) {
    return value;
}

DEVICE void touch(int32_t) {}

DEVICE void barrier_arrive(uint64_t* barrier, CALLER) { host_barrier_arrive(barrier, 0, file, line); }

DEVICE void barrier_arrive_expect(uint64_t* barrier, uint32_t n_bytes, CALLER) {
    host_barrier_arrive(barrier, n_bytes, file, line);
}

DEVICE void barrier_expect(uint64_t* barrier, uint32_t n_bytes, CALLER) {
    host_barrier_expect(barrier, n_bytes, file, line);
}

DEVICE void barrier_wait(uint64_t* barrier, uint32_t parity, CALLER) { host_barrier_wait(barrier, parity, file, line); }

DEVICE void counter_init(int32_t* counter, int32_t value) { host_publish(counter, value); }
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

DEVICE void stores_before_copies() {}

DEVICE void start_overlapped() {}  // grids run one after the other here

DEVICE void prefetch(const void*) {}

#else

// The memory that the launch asked for, 128-byte aligned.
DEVICE uint8_t* dynamic_shared() {
    extern __shared__ __align__(128) uint8_t dynamic_shared_memory[];
    return dynamic_shared_memory;
}

DEVICE uint32_t shared_address(const void* p) { return static_cast<uint32_t>(__cvta_generic_to_shared(p)); }

// Where the word of shared memory begins that a byte is in. A compiler masks no generic pointer: it subtracts what it masked.
DEVICE const uint8_t* shared_word(const uint8_t* byte) {
    return static_cast<const uint8_t*>(__cvta_shared_to_generic(shared_address(byte) & ~3u));
}

// The same, but something that the compiler does not compute again at every use.
DEVICE uint8_t* keep_in_register(uint8_t* p) {
    asm volatile("" : "+l"(p));
    return p;
}

DEVICE uint32_t keep_in_register(uint32_t value) {
    asm volatile("" : "+r"(value));
    return value;
}

// Reads `value` now.
DEVICE void touch(int32_t value) { asm volatile("" ::"r"(value)); }

// One thread sets a barrier in shared memory up, for `n_arrivals` arrivals a phase; then follow its barrier_init_done and
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

// Nanoseconds that a thread may be suspended for when it waits: if it asks again and again, it takes the slots of those that work.
constexpr uint32_t kLongestSuspension = 1000000;

// Waits until the phase of this parity has ended; the first phase has parity 0.
DEVICE void barrier_wait(uint64_t* barrier, uint32_t parity) {
#if __CUDA_ARCH__ >= 900
    asm volatile("{\n"
                 ".reg .pred ended;\n"
                 "again_%=: mbarrier.try_wait.parity.shared::cta.b64 ended, [%0], %1, %2;\n"
                 "@!ended bra again_%=;\n"
                 "}" ::"r"(shared_address(barrier)),
                 "r"(parity), "r"(kLongestSuspension)
                 : "memory");
#else
    // Nothing suspends a thread that waits, which would take the slots of those that work.
    for (;;) {
        uint32_t has_ended;
        asm volatile("{\n"
                     ".reg .pred ended;\n"
                     "mbarrier.test_wait.parity.shared::cta.b64 ended, [%1], %2;\n"
                     "selp.u32 %0, 1, 0, ended;\n"
                     "}"
                     : "=r"(has_ended)
                     : "r"(shared_address(barrier)), "r"(parity)
                     : "memory");
        if (has_ended) return;
        __nanosleep(20);
    }
#endif
}

// The first value of a counter in shared memory; a block_barrier follows.
DEVICE void counter_init(int32_t* counter, int32_t value) { *counter = value; }

// A counter that grows: whoever sees a value sees what was done before it was published.
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

// What this thread stored in shared memory stays before bulk copies to the same place, which see memory in another way than threads
// do; a block_barrier follows.
DEVICE void stores_before_copies() {
#if __CUDA_ARCH__ >= 900
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
#endif
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

#endif
