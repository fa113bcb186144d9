// Every access of a kernel: bounds by the address sanitizer, then order and initialization.
//
// The kernels are compiled with --param asan-instrumentation-with-call-threshold=0: each access calls one of the
// functions at the end, which stand in front of the sanitizer's own. A byte of shared or written memory remembers its last
// write and the reads since; two accesses by different threads, one of them a write, not both atomic, and neither before
// the other by a barrier, are a race. A store to what the same basic block has loaded is not reported (one check of the
// bounds is enough for the compiler): such a store shows in the value, before any other thread may run.
#include "target.hpp"

#include <dlfcn.h>
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>

namespace {

struct Access {
    int32_t block = -1, thread = -1;  // -1: none
    uint32_t time = 0;
    bool is_atomic = false;

    // Whether the access that runs now may touch the same byte.
    bool agrees(bool with_atomic) const {
        if (thread < 0 || (is_atomic && with_atomic)) return true;
        return block == thread::block() && thread::happened(thread, time);
    }
};

struct Byte {
    uint32_t epoch = 0;  // launch or block that the accesses belong to
    bool is_initialized = false, is_in_flight = false;
    Access write;
    uintptr_t write_pc = 0;
    std::vector<Access> reads;
};

struct Region {
    Buffer buffer;
    std::vector<Byte> bytes;
};

// What a thread has loaded from tracked memory.
struct Loaded {
    Region* region;
    uint64_t offset, size;
    uintptr_t pc;
    char value[16];

    char* address() const { return region->buffer.begin + offset; }
    void refresh() { memcpy(value, address(), size); }
};

constexpr size_t MAX_LOADED = 64;
std::vector<std::vector<Loaded>> loaded;  // of each thread, the latest last
std::vector<std::string> inputs;          // their bytes

std::vector<Region> buffers;
Region shared_static{{Buffer::SCRATCH, "shared memory", nullptr, nullptr}, {}};
Region shared_dynamic{{Buffer::SCRATCH, "dynamic shared memory", nullptr, nullptr}, {}};
uint32_t epoch = 0;

std::string line_of(uintptr_t pc) {
    char text[512] = "";
    __sanitizer_symbolize_pc(reinterpret_cast<void*>(pc - 1), "%s:%l", text, sizeof(text));
    const char* from_root = strstr(text, "kernels/");
    return from_root ? from_root : text;
}

[[noreturn]] void fail_race(const Region& region, uint64_t offset, uintptr_t pc, const char* what, const Access& other,
                            const char* was, uintptr_t other_pc) {
    fail("race: byte %llu of %s is %s at %s, but block %d, thread %d %s%s%s without a barrier between",
         static_cast<unsigned long long>(offset), region.buffer.name.c_str(), what, line_of(pc).c_str(), other.block,
         other.thread, was, other_pc ? " at " : "", other_pc ? line_of(other_pc).c_str() : "");
}

void track(Region& region, uint64_t offset, bool is_write, uintptr_t pc) {
    Byte& byte = region.bytes[offset];
    if (byte.epoch != epoch) {
        byte.epoch = epoch;
        byte.write = {};
        byte.reads.clear();
    }
    const bool is_atomic = thread::is_atomic();
    const Access mine{thread::block(), thread::index(), thread::now(), is_atomic};
    if (byte.is_in_flight)
        fail("race: byte %llu of %s is %s at %s before the copy started at %s is complete",
             static_cast<unsigned long long>(offset), region.buffer.name.c_str(), is_write ? "written" : "read",
             line_of(pc).c_str(), line_of(byte.write_pc).c_str());
    if (!byte.write.agrees(is_atomic))
        fail_race(region, offset, pc, is_write ? "written" : "read", byte.write, "wrote it", byte.write_pc);
    if (!is_write) {
        if (!byte.is_initialized)
            fail("uninitialized: byte %llu of %s is read at %s before anything was written there",
                 static_cast<unsigned long long>(offset), region.buffer.name.c_str(), line_of(pc).c_str());
        for (Access& read : byte.reads)
            if (read.thread == mine.thread && read.block == mine.block && read.is_atomic == mine.is_atomic) {
                read.time = mine.time;
                return;
            }
        byte.reads.push_back(mine);
        return;
    }
    for (const Access& read : byte.reads)
        if (!read.agrees(is_atomic)) fail_race(region, offset, pc, "written", read, "read it", 0);
    byte.reads.clear();
    byte.is_initialized = true;
    byte.write = mine;
    byte.write_pc = pc;
}

Region* region_at(uintptr_t address) {
    const auto holds = [address](const Region& region) {
        const uintptr_t begin = reinterpret_cast<uintptr_t>(region.buffer.begin);
        return address - begin < static_cast<uintptr_t>(region.buffer.end - region.buffer.begin);
    };
    if (holds(shared_static)) return &shared_static;
    if (holds(shared_dynamic)) return &shared_dynamic;
    const auto found = std::find_if(buffers.begin(), buffers.end(), holds);
    return found == buffers.end() ? nullptr : &*found;
}

void poison(Region& region) {
    // Byte by byte: the red zones between variables may not be set by memset.
    for (volatile char* byte = region.buffer.begin; byte != region.buffer.end; ++byte) *byte = static_cast<char>(0xA5);
    region.bytes.assign(region.buffer.end - region.buffer.begin, {});
}

void on_access(uintptr_t address, uint64_t size, bool is_write, uintptr_t pc) {
    if (!thread::is_running() || thread::owns_stack(address)) return;
    Region* region = region_at(address);
    if (!region) return;  // constants, and arguments
    const uint64_t offset = address - reinterpret_cast<uintptr_t>(region->buffer.begin);
    if (region->buffer.kind == Buffer::INPUT) {
        if (is_write) fail("%s, an input, is written at %s", region->buffer.name.c_str(), line_of(pc).c_str());
        return;
    }
    thread::may_switch();
    for (uint64_t i = 0; i < size; ++i) track(*region, offset + i, is_write, pc);
    if (is_write || size > sizeof(Loaded::value)) return;
    std::vector<Loaded>& mine = loaded[thread::index()];
    if (mine.size() == MAX_LOADED) {
        memory::settle();
        mine.erase(mine.begin(), mine.begin() + MAX_LOADED / 2);
    }
    mine.push_back({region, offset, size, pc, {}});
    mine.back().refresh();
}

}  // namespace

namespace memory {

void add(const Buffer& buffer) {
    buffers.push_back({buffer, {}});
    if (buffer.kind == Buffer::INPUT) {
        inputs.emplace_back(buffer.begin, buffer.end);
        return;
    }
    buffers.back().bytes.resize(buffer.end - buffer.begin);
    for (Byte& byte : buffers.back().bytes) byte.is_initialized = buffer.kind == Buffer::OUTPUT;
}

void begin_launch() {
    ++epoch;
    loaded.assign(1024, {});
}

void end_launch() {
    size_t input = 0;
    for (const Region& region : buffers) {
        if (region.buffer.kind != Buffer::INPUT) continue;
        const std::string& before = inputs[input++];
        if (memcmp(region.buffer.begin, before.data(), before.size()))
            fail("%s, an input, was changed", region.buffer.name.c_str());
    }
}

void settle() {
    for (Loaded& load : loaded[thread::index()]) {
        if (!memcmp(load.value, load.address(), load.size)) continue;
        for (uint64_t i = 0; i < load.size; ++i) track(*load.region, load.offset + i, true, load.pc);
        load.refresh();
    }
}

void refresh() {
    for (Loaded& load : loaded[thread::index()]) load.refresh();
}

void forget() {
    settle();
    loaded[thread::index()].clear();
}

void begin_block(const Launch& launch) {
    shared_static.buffer.begin = launch.shared_begin;
    shared_static.buffer.end = launch.shared_end;
    poison(shared_static);
    free(shared_dynamic.buffer.begin);
    void* dynamic = nullptr;
    if (posix_memalign(&dynamic, 128, launch.dynamic_bytes)) fail("no dynamic shared memory");
    shared_dynamic.buffer.begin = static_cast<char*>(dynamic);
    shared_dynamic.buffer.end = shared_dynamic.buffer.begin + launch.dynamic_bytes;
    poison(shared_dynamic);
}

char* dynamic_shared() { return shared_dynamic.buffer.begin; }

}  // namespace memory

// What instrumented code calls, in place of the sanitizer's functions of the same names; the report is the sanitizer's.
static void check_bounds(uintptr_t address, uint64_t size, bool is_write, uintptr_t pc, void* frame) {
    if (!size || !__asan_region_is_poisoned(reinterpret_cast<void*>(address), size)) return;
    __asan_report_error(reinterpret_cast<void*>(pc), frame, frame, reinterpret_cast<void*>(address), is_write, size);
    abort();
}

static const uintptr_t shadow_offset = [] {
    size_t scale, offset;
    __asan_get_shadow_mapping(&scale, &offset);
    return offset;
}();

// A shadow byte says how many of its eight bytes may be accessed: 0 for all, n for the first n, negative for none.
static inline bool is_all_clean(uintptr_t address, uint64_t size) {
    const auto shadow = [](uintptr_t at) { return *reinterpret_cast<const int8_t*>((at >> 3) + shadow_offset); };
    const uintptr_t last = address + size - 1;
    if (size > 16 || (address >> 3 != last >> 3 && (shadow(address) || shadow(address + size / 2)))) return false;
    return shadow(last) == 0 || static_cast<int>(last & 7) < shadow(last);
}

#define ACCESS(function, is_write)                                                                                     \
    extern "C" void function(uintptr_t address, uint64_t size) {                                                       \
        const uintptr_t pc = reinterpret_cast<uintptr_t>(__builtin_return_address(0));                                 \
        if (!is_all_clean(address, size)) check_bounds(address, size, is_write, pc, __builtin_frame_address(0));       \
        on_access(address, size, is_write, pc);                                                                        \
    }
#define ACCESS_OF_SIZE(function, size, is_write)                                                                       \
    extern "C" void function##size(uintptr_t address) {                                                                \
        const uintptr_t pc = reinterpret_cast<uintptr_t>(__builtin_return_address(0));                                 \
        if (!is_all_clean(address, size)) check_bounds(address, size, is_write, pc, __builtin_frame_address(0));       \
        on_access(address, size, is_write, pc);                                                                        \
    }
#define ACCESSES(function, is_write)                                                                                   \
    ACCESS(function##N, is_write)                                                                                      \
    ACCESS_OF_SIZE(function, 1, is_write)                                                                              \
    ACCESS_OF_SIZE(function, 2, is_write)                                                                              \
    ACCESS_OF_SIZE(function, 4, is_write)                                                                              \
    ACCESS_OF_SIZE(function, 8, is_write)                                                                              \
    ACCESS_OF_SIZE(function, 16, is_write)

ACCESSES(__asan_load, false)
ACCESSES(__asan_store, true)

namespace memory {

void read(const void* from, uint64_t size, uintptr_t pc) {
    const uintptr_t address = reinterpret_cast<uintptr_t>(from);
    check_bounds(address, size, false, pc, __builtin_frame_address(0));
    on_access(address, size, false, pc);
}

void write(void* to, uint64_t size, uintptr_t pc) {
    const uintptr_t address = reinterpret_cast<uintptr_t>(to);
    check_bounds(address, size, true, pc, __builtin_frame_address(0));
    on_access(address, size, true, pc);
}

static void set_in_flight(char* to, uint64_t size, bool is_in_flight) {
    Region* region = region_at(reinterpret_cast<uintptr_t>(to));
    if (region != &shared_static && region != &shared_dynamic) fail("a copy that does not go to shared memory");
    for (uint64_t i = 0; i < size; ++i) region->bytes[to - region->buffer.begin + i].is_in_flight = is_in_flight;
}

void take_off(void* to, const void* from, uint64_t size, uintptr_t pc) {
    read(from, size, pc);
    write(to, size, pc);
    memset(to, 0xA5, size);
    set_in_flight(static_cast<char*>(to), size, true);
}

void land(char* to, const char* from, uint64_t size) {
    set_in_flight(to, size, false);
    memcpy(to, from, size);
}

}  // namespace memory
