// The threads of a block as fibers, switched at every operation that waits, by a seeded random choice.
#include "target.hpp"

#include <dlfcn.h>
#include <sanitizer/common_interface_defs.h>
#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>

#include <algorithm>
#include <csetjmp>
#include <cstdarg>
#include <cstdio>
#include <cstring>
#include <map>
#include <tuple>

std::mt19937_64 schedule;
uint32_t preempt_per_mille = 0;

namespace {

constexpr uint32_t MAX_EXCHANGED = 512;
constexpr int WARP = 32;

// Where a thread waits; `operation` is null while it can run.
struct Wait {
    const char* operation = nullptr;
    const char* file = nullptr;
    int line = 0;

    bool same_place(const Wait& other) const {
        return !strcmp(operation, other.operation) && !strcmp(file, other.file) && line == other.line;
    }
};

struct Fiber {
    jmp_buf here;  // where it goes on
    char* stack = nullptr;
    void* sanitizer_state = nullptr;
    bool is_started = false, is_finished = false, is_atomic = false;
    Wait wait;
    uint32_t sent_size = 0;
    char* received = nullptr;  // [32][sent_size], on its own stack
    char sent[MAX_EXCHANGED];
    std::vector<uint32_t> clock;
};

struct NamedBarrier {
    std::vector<int32_t> arrived;
    int32_t expected = 0;
};

// A barrier in shared memory (PTX mbarrier), known by its address.
struct PhaseBarrier {
    uint32_t n_arrivals = 0, pending = 0, phase = 0;
    int64_t bytes_to_come = 0;
    std::vector<uint32_t> arriving, ended;  // what those know who arrive in this phase, and who ended the last one
    std::vector<int32_t> waiting;
};

// A copy on its way, or (no bytes) an arrival at `barrier` behind its thread's copies without one.
struct Copy {
    char* to;
    const char* from;
    uint32_t n_bytes;
    uint64_t* barrier;
    int32_t thread;
    uint64_t number;  // those asked for before have smaller ones
    std::vector<uint32_t> clock;
    const char* file;
    int line;

    bool is_behind(const Copy& other) const {
        return !n_bytes && other.n_bytes && !other.barrier && other.thread == thread && other.number < number;
    }
};

std::vector<Fiber> fibers;
std::map<uint64_t*, PhaseBarrier> phase_barriers;
std::vector<Copy> copies;
uint64_t n_copies = 0;  // asked for so far
std::vector<int32_t> runnable, at_block_barrier;
std::vector<std::vector<int32_t>> at_warp;  // lanes that wait, for each warp
NamedBarrier named_barriers[16];
const Launch* launch = nullptr;
int32_t current = -1, current_block = -1, n_finished = 0;
jmp_buf scheduler;
void* scheduler_state = nullptr;
const void* scheduler_stack = nullptr;
size_t scheduler_stack_bytes = 0;

// The C library's own: the sanitizer's wrappers forget what it knows of the stack that is resumed. A jump asks the kernel
// for nothing; a context is only needed where a thread begins.
template <typename Function>
Function of_libc(const char* name) {
    return reinterpret_cast<Function>(dlsym(dlopen("libc.so.6", RTLD_LAZY), name));
}
void (*const jump)(jmp_buf, int) = of_libc<void (*)(jmp_buf, int)>("_longjmp");
int (*const begin_context)(const ucontext_t*) = of_libc<int (*)(const ucontext_t*)>("setcontext");

__attribute__((noinline)) void to_scheduler(bool is_last) {
    Fiber& self = fibers[current];
    memory::settle();
    __sanitizer_start_switch_fiber(is_last ? nullptr : &self.sanitizer_state, scheduler_stack, scheduler_stack_bytes);
    if (!_setjmp(self.here)) jump(scheduler, 1);
    __sanitizer_finish_switch_fiber(self.sanitizer_state, nullptr, nullptr);
    memory::refresh();
}

void start();

void begin(const Fiber& fiber) {
    ucontext_t context;
    getcontext(&context);
    context.uc_stack = {fiber.stack, 0, thread::STACK_BYTES};
    context.uc_link = nullptr;
    makecontext(&context, start, 0);
    begin_context(&context);
}

__attribute__((noinline)) void resume(int32_t thread) {
    Fiber& fiber = fibers[thread];
    current = thread;
    thread::running_stack = fiber.stack;
    __sanitizer_start_switch_fiber(&scheduler_state, fiber.stack, thread::STACK_BYTES);
    if (!_setjmp(scheduler)) {
        if (fiber.is_started) jump(fiber.here, 1);
        fiber.is_started = true;
        begin(fiber);
    }
    __sanitizer_finish_switch_fiber(scheduler_state, nullptr, nullptr);
    current = -1;
    thread::running_stack = nullptr;
}

void start() {
    __sanitizer_finish_switch_fiber(nullptr, &scheduler_stack, &scheduler_stack_bytes);
    launch->entry(const_cast<void**>(launch->arguments.data()));
    memory::forget();
    fibers[current].is_finished = true;
    ++n_finished;
    if (!at_block_barrier.empty()) {
        const Wait& wait = fibers[at_block_barrier[0]].wait;
        fail("divergence: the thread returned while thread %d waits at %s, %s:%d", at_block_barrier[0], wait.operation,
             wait.file, wait.line);
    }
    if (const auto& lanes = at_warp[current / WARP]; !lanes.empty()) {
        const Wait& wait = fibers[lanes[0]].wait;
        fail("divergence: the thread returned while lane %d of its warp waits at %s, %s:%d", lanes[0] % WARP,
             wait.operation, wait.file, wait.line);
    }
    to_scheduler(true);
}

void prepare(int32_t thread) {
    Fiber& fiber = fibers[thread];
    if (!fiber.stack) {
        void* memory = mmap(nullptr, thread::STACK_BYTES + 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        fiber.stack = static_cast<char*>(memory) + 4096;  // below it, a page that no overflow passes
        if (mprotect(fiber.stack, thread::STACK_BYTES, PROT_READ | PROT_WRITE)) fail("no memory for the stack of a thread");
    }
    fiber.is_started = fiber.is_finished = false;
    fiber.wait = {};
    fiber.clock.assign(launch->n_threads, 0);
    fiber.clock[thread] = 1;
}

// Gives all of `threads` what each of them knows, and a new time of its own.
void join_clocks(const std::vector<int32_t>& threads) {
    std::vector<uint32_t> all = fibers[threads[0]].clock;
    for (int32_t thread : threads)
        for (int32_t i = 0; i < launch->n_threads; ++i) all[i] = std::max(all[i], fibers[thread].clock[i]);
    for (int32_t thread : threads) {
        fibers[thread].clock = all;
        ++fibers[thread].clock[thread];
    }
}

void release(std::vector<int32_t>& threads) {
    for (int32_t thread : threads) {
        fibers[thread].wait.operation = nullptr;
        runnable.push_back(thread);
    }
    threads.clear();
}

void wait_at(Wait wait, std::vector<int32_t>& others) {
    Fiber& self = fibers[current];
    self.wait = wait;
    if (!others.empty() && !wait.same_place(fibers[others[0]].wait)) {
        const Wait& other = fibers[others[0]].wait;
        fail("divergence: the thread is at %s, %s:%d, but thread %d waits at %s, %s:%d", wait.operation, wait.file,
             wait.line, others[0], other.operation, other.file, other.line);
    }
    others.push_back(current);
}

[[noreturn]] void fail_deadlock() {
    std::map<std::tuple<std::string, std::string, int>, std::vector<int32_t>> places;
    for (int32_t i = 0; i < launch->n_threads; ++i)
        if (const Wait& wait = fibers[i].wait; wait.operation)
            places[{wait.operation, wait.file, wait.line}].push_back(i);
    std::string text;
    for (const auto& [place, threads] : places) {
        const auto& [operation, file, line] = place;
        text += "\n  " + std::to_string(threads.size()) + " threads, the first is " + std::to_string(threads[0]) +
                ", wait at " + operation + ", " + file + ":" + std::to_string(line);
    }
    fail("deadlock: no thread of the block can go on%s", text.c_str());
}

void merge(std::vector<uint32_t>& clock, const std::vector<uint32_t>& other) {
    for (size_t i = 0; i < clock.size(); ++i) clock[i] = std::max(clock[i], other[i]);
}

// What a thread saw of a counter happened after what was done before it was published.
struct Counter {
    int32_t value = 0;
    std::vector<uint32_t> clock;
    std::vector<int32_t> waiting;
};
std::map<const int32_t*, Counter> counters;

void end_phase_if_complete(PhaseBarrier& barrier) {
    if (barrier.pending || barrier.bytes_to_come) return;
    ++barrier.phase;
    barrier.pending = barrier.n_arrivals;
    barrier.ended = barrier.arriving;
    release(barrier.waiting);
}

void arrive(PhaseBarrier& barrier, const std::vector<uint32_t>& clock, const char* file, int line) {
    if (!barrier.pending) fail("barrier_arrive, %s:%d: more than %u arrivals in a phase", file, line, barrier.n_arrivals);
    merge(barrier.arriving, clock);
    --barrier.pending;
    end_phase_if_complete(barrier);
}

void finish_copy(size_t index) {
    for (size_t i = 0; i < copies.size(); ++i)
        if (copies[index].is_behind(copies[i])) index = i;
    std::swap(copies[index], copies.back());
    const Copy copy = copies.back();
    copies.pop_back();
    if (copy.n_bytes) memory::land(copy.to, copy.from, copy.n_bytes);
    if (!copy.barrier) return;
    PhaseBarrier& barrier = phase_barriers.at(copy.barrier);
    if (!copy.n_bytes) return arrive(barrier, copy.clock, copy.file, copy.line);
    barrier.bytes_to_come -= copy.n_bytes;
    merge(barrier.arriving, copy.clock);
    end_phase_if_complete(barrier);
}

void run_block() {
    phase_barriers.clear();
    counters.clear();
    copies.clear();
    for (NamedBarrier& barrier : named_barriers) barrier.arrived.clear();
    for (int32_t i = 0; i < launch->n_threads; ++i) prepare(i);
    n_finished = 0;
    at_block_barrier.clear();
    at_warp.assign((launch->n_threads + WARP - 1) / WARP, {});
    runnable.resize(launch->n_threads);
    for (int32_t i = 0; i < launch->n_threads; ++i) runnable[i] = i;
    while (n_finished < launch->n_threads) {
        if (!copies.empty() && (runnable.empty() || schedule() % 4 == 0)) {
            finish_copy(schedule() % copies.size());
            continue;
        }
        if (runnable.empty()) fail_deadlock();
        std::swap(runnable[schedule() % runnable.size()], runnable.back());
        const int32_t chosen = runnable.back();
        runnable.pop_back();
        resume(chosen);
    }
    if (!copies.empty()) fail("the block ended while %zu copies were on their way", copies.size());
}

}  // namespace

void run(const Launch& to_run) {
    launch = &to_run;
    if (fibers.size() < static_cast<size_t>(launch->n_threads)) fibers.resize(launch->n_threads);
    std::vector<int32_t> order(launch->n_blocks);
    for (int32_t i = 0; i < launch->n_blocks; ++i) order[i] = i;
    std::shuffle(order.begin(), order.end(), schedule);
    memory::begin_launch();
    for (int32_t block : order) {
        current_block = block;
        memory::begin_block(to_run);
        run_block();
    }
    memory::end_launch();
    launch = nullptr;
}

void print_position() {
    if (!launch) return;
    fprintf(stderr, "  in kernel %s, block %d of %d", launch->kernel.c_str(), current_block, launch->n_blocks);
    if (current >= 0) fprintf(stderr, ", thread %d of %d", current, launch->n_threads);
    fprintf(stderr, "\n");
}

void fail(const char* format, ...) {
    fprintf(stderr, "host target: ");
    va_list arguments;
    va_start(arguments, format);
    vfprintf(stderr, format, arguments);
    va_end(arguments);
    fprintf(stderr, "\n");
    print_position();
    if (current >= 0) __sanitizer_print_stack_trace();
    fflush(stderr);
    _exit(70);
}

namespace thread {
const char* running_stack = nullptr;
int32_t index() { return current; }
int32_t block() { return current_block; }
bool is_atomic() { return fibers[current].is_atomic; }

void may_switch() {
    if (!preempt_per_mille || is_atomic() || schedule() % 1000 >= preempt_per_mille) return;
    runnable.push_back(current);
    to_scheduler(false);
}

uint32_t now() { return fibers[current].clock[current]; }
bool happened(int32_t of, uint32_t time) { return of == current || fibers[current].clock[of] >= time; }
}  // namespace thread

// ---- What kernels/ptx/ calls.

extern "C" {

int32_t host_thread_index() { return current; }
int32_t host_block_size() { return launch->n_threads; }
int32_t host_block_index() { return current_block; }
int32_t host_block_count() { return launch->n_blocks; }

void host_block_barrier(const char* file, int line) {
    memory::forget();
    if (n_finished) fail("divergence: the thread is at block_barrier, %s:%d, but others have returned", file, line);
    wait_at({"block_barrier", file, line}, at_block_barrier);
    if (at_block_barrier.size() == static_cast<size_t>(launch->n_threads)) {
        join_clocks(at_block_barrier);
        release(at_block_barrier);
    }
    to_scheduler(false);
}

void host_named_barrier(uint32_t id, uint32_t n_threads, const char* file, int line) {
    memory::forget();
    if (id >= 16) fail("named_barrier %u, %s:%d: there are 16", id, file, line);
    NamedBarrier& barrier = named_barriers[id];
    fibers[current].wait = {"named_barrier", file, line};
    if (barrier.arrived.empty()) barrier.expected = n_threads;
    if (barrier.expected != static_cast<int32_t>(n_threads))
        fail("named_barrier %u, %s:%d: for %u threads, others wait for %d", id, file, line, n_threads,
             barrier.expected);
    barrier.arrived.push_back(current);
    if (barrier.arrived.size() == n_threads) {
        join_clocks(barrier.arrived);
        release(barrier.arrived);
    }
    to_scheduler(false);
}

static void arrive_in_warp(const char* operation, const char* file, int line) {
    memory::forget();
    std::vector<int32_t>& lanes = at_warp[current / WARP];
    const int32_t first = current / WARP * WARP;
    if (first + WARP > launch->n_threads) fail("%s, %s:%d: the warp has less than 32 threads", operation, file, line);
    for (int32_t lane = first; lane < first + WARP; ++lane)
        if (fibers[lane].is_finished)
            fail("divergence: the thread is at %s, %s:%d, but lane %d has returned", operation, file, line,
                 lane - first);
    wait_at({operation, file, line}, lanes);
}

void host_warp_barrier(const char* file, int line) {
    arrive_in_warp("warp_barrier", file, line);
    if (std::vector<int32_t>& lanes = at_warp[current / WARP]; lanes.size() == WARP) {
        join_clocks(lanes);
        release(lanes);
    }
    to_scheduler(false);
}

// No clock is joined: a shuffle does not order accesses to memory (CUDA C++ Programming Guide, warp shuffle functions).
void host_warp_exchange(const void* mine, uint32_t size, void* all, const char* file, int line) {
    if (size > MAX_EXCHANGED) fail("%u bytes exchanged at %s:%d", size, file, line);
    Fiber& self = fibers[current];
    memcpy(self.sent, mine, size);
    self.sent_size = size;
    self.received = static_cast<char*>(all);
    arrive_in_warp("a warp exchange", file, line);
    if (std::vector<int32_t>& lanes = at_warp[current / WARP]; lanes.size() == WARP) {
        char sent[WARP * MAX_EXCHANGED];
        for (int32_t from : lanes) {
            if (fibers[from].sent_size != size) fail("lanes exchange different sizes at %s:%d", file, line);
            memcpy(sent + from % WARP * size, fibers[from].sent, size);
        }
        for (int32_t to : lanes) memcpy(fibers[to].received, sent, WARP * size);
        release(lanes);
    }
    to_scheduler(false);
}

void host_atomic_begin() {
    thread::may_switch();
    memory::forget();
    fibers[current].is_atomic = true;
}

void host_atomic_end() {
    memory::forget();
    fibers[current].is_atomic = false;
}

void host_barrier_init(uint64_t* barrier, uint32_t n_arrivals, const char* file, int line) {
    memory::forget();
    memory::write(barrier, sizeof(*barrier), reinterpret_cast<uintptr_t>(__builtin_return_address(0)));
    if (!n_arrivals) fail("barrier_init, %s:%d: for no arrivals", file, line);
    PhaseBarrier& set_up = phase_barriers[barrier] = {};
    set_up.n_arrivals = set_up.pending = n_arrivals;
    set_up.arriving.assign(launch->n_threads, 0);
}

static PhaseBarrier& find_barrier(uint64_t* barrier, uintptr_t pc, const char* file, int line) {
    memory::forget();
    memory::read(barrier, sizeof(*barrier), pc);  // its set-up is before this, or a race
    memory::forget();
    const auto found = phase_barriers.find(barrier);
    if (found == phase_barriers.end())
        fail("uninitialized: no barrier was set up at the address used at %s:%d", file, line);
    return found->second;
}

void host_barrier_arrive(uint64_t* address, uint32_t expected_bytes, const char* file, int line) {
    const uintptr_t pc = reinterpret_cast<uintptr_t>(__builtin_return_address(0));
    PhaseBarrier& barrier = find_barrier(address, pc, file, line);
    barrier.bytes_to_come += expected_bytes;
    arrive(barrier, fibers[current].clock, file, line);
    ++fibers[current].clock[current];
    runnable.push_back(current);
    to_scheduler(false);
}

void host_barrier_expect(uint64_t* address, uint32_t expected_bytes, const char* file, int line) {
    const uintptr_t pc = reinterpret_cast<uintptr_t>(__builtin_return_address(0));
    find_barrier(address, pc, file, line).bytes_to_come += expected_bytes;
}

void host_barrier_wait(uint64_t* address, uint32_t parity, const char* file, int line) {
    const uintptr_t pc = reinterpret_cast<uintptr_t>(__builtin_return_address(0));
    PhaseBarrier& barrier = find_barrier(address, pc, file, line);
    while (barrier.phase % 2 == parity) {
        fibers[current].wait = {"barrier_wait", file, line};
        barrier.waiting.push_back(current);
        to_scheduler(false);
    }
    if (!barrier.ended.empty()) merge(fibers[current].clock, barrier.ended);
}

void host_publish(int32_t* address, int32_t value) {
    memory::forget();
    Counter& counter = counters[address];
    if (counter.clock.empty()) counter.clock.assign(launch->n_threads, 0);
    counter.value = value;
    merge(counter.clock, fibers[current].clock);
    ++fibers[current].clock[current];
    release(counter.waiting);
    runnable.push_back(current);
    to_scheduler(false);
}

int32_t host_await(const int32_t* address, int32_t at_least, const char* file, int line) {
    memory::forget();
    const auto found = counters.find(address);
    if (found == counters.end()) fail("uninitialized: nothing was published at the address awaited at %s:%d", file, line);
    Counter& counter = found->second;
    while (counter.value < at_least) {
        fibers[current].wait = {"await", file, line};
        counter.waiting.push_back(current);
        to_scheduler(false);
    }
    merge(fibers[current].clock, counter.clock);
    return counter.value;
}

void host_copy(void* to, const void* from, uint32_t n_bytes, uint32_t alignment, uint64_t* address, const char* file,
               int line) {
    const uintptr_t pc = reinterpret_cast<uintptr_t>(__builtin_return_address(0));
    memory::forget();
    if ((reinterpret_cast<uintptr_t>(to) | reinterpret_cast<uintptr_t>(from) | n_bytes) % alignment)
        fail("misaligned copy of %u bytes at %s:%d: addresses and size are multiples of %u", n_bytes, file, line,
             alignment);
    if (address) find_barrier(address, pc, file, line);
    memory::take_off(to, from, n_bytes, pc);
    copies.push_back({static_cast<char*>(to), static_cast<const char*>(from), n_bytes, address, current, n_copies++,
                      fibers[current].clock, file, line});
    ++fibers[current].clock[current];
    runnable.push_back(current);
    to_scheduler(false);
}

// The clock is that of the last copy: what the thread itself did since is not ordered by the arrival.
void host_barrier_arrive_behind_copies(uint64_t* address, const char* file, int line) {
    const uintptr_t pc = reinterpret_cast<uintptr_t>(__builtin_return_address(0));
    find_barrier(address, pc, file, line);
    copies.push_back({nullptr, nullptr, 0, address, current, n_copies++, fibers[current].clock, file,
                      line});
    --copies.back().clock[current];
    runnable.push_back(current);
    to_scheduler(false);
}

void* host_dynamic_shared() { return memory::dynamic_shared(); }

}
