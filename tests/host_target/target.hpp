// The parts of the host target, and what they know of each other.
//
// A job (main.cpp) is buffers and launches. A launch runs its blocks one after the other in a random order, the threads of
// a block as fibers (threads.cpp); the compiler's address instrumentation reports every access (memory.cpp), so that a
// race is found by the missing order between two accesses, whatever the schedule did.
#pragma once

#include <cstdint>
#include <random>
#include <string>
#include <vector>

struct Launch {
    std::string kernel;
    void (*entry)(void**);
    std::vector<void*> arguments;
    int32_t n_blocks, n_threads;
    char *shared_begin, *shared_end;  // its static shared memory
    uint64_t dynamic_bytes;
};

struct Buffer {
    enum Kind { INPUT, OUTPUT, SCRATCH } kind;
    std::string name;
    char *begin, *end;
};

// Reports what went wrong with the kernel, block and thread that run now, and ends the process.
[[noreturn]] void fail(const char* format, ...) __attribute__((format(printf, 1, 2)));

// ---- threads.cpp

extern std::mt19937_64 schedule;
extern uint32_t preempt_per_mille;  // accesses to shared and written memory after which another thread may run

void run(const Launch& launch);
void print_position();  // of the running thread, to stderr

namespace thread {
constexpr size_t STACK_BYTES = 256 << 10;
extern const char* running_stack;  // of the running thread; null while none runs
inline bool is_running() { return running_stack; }
inline bool owns_stack(uintptr_t address) { return address - reinterpret_cast<uintptr_t>(running_stack) < STACK_BYTES; }
int32_t index();
int32_t block();
bool is_atomic();
void may_switch();

// Vector clocks (Fidge 1988, Mattern 1989): what thread `of` did at `time` happened before what runs now.
uint32_t now();
bool happened(int32_t of, uint32_t time);
}  // namespace thread

// ---- memory.cpp

namespace memory {
void add(const Buffer& buffer);
void begin_launch();
void end_launch();
void begin_block(const Launch& launch);
char* dynamic_shared();

// Stores of the running thread that only show in the values: to be found before another thread runs (`settle`), known
// again when it goes on (`refresh`), and found for the last time before anything that orders accesses (`forget`).
void settle();
void refresh();
void forget();

void read(const void* from, uint64_t size, uintptr_t pc);
void write(void* to, uint64_t size, uintptr_t pc);

// A copy to shared memory on its way: until it lands, every access to the target is a race.
void take_off(void* to, const void* from, uint64_t size, uintptr_t pc);
void land(char* to, const char* from, uint64_t size);
}  // namespace memory
