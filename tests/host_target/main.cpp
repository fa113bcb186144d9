// Runs one job: reads it from stdin, writes the buffers that are no inputs to stdout, in order.
//
//   seed preempt_per_mille timeout_s
//   n_buffers   each: kind(0 input, 1 output, 2 scratch) name phase n_bytes
//   n_launches  each: library kernel n_blocks n_threads dynamic_bytes
//     n_arguments each: n_pointers offsets.. n_bytes hexadecimal; a pointer holds (buffer + 1) << 40 | byte, or 0 for null
//   a line feed, then the bytes of the inputs and outputs, in order
//
// Each buffer is an allocation of its own, exactly as large as it is, `phase` bytes after a multiple of 16.
// Exit status: 0 done, 70 what `fail` reports, 71 what a sanitizer or an assertion reports, 72 out of time, 73 a bad job.
#include "target.hpp"

#include <dlfcn.h>
#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <iostream>

namespace {

template <typename T>
T next() {
    T value;
    if (!(std::cin >> value)) {
        fprintf(stderr, "host target: the job ends early\n");
        exit(73);
    }
    return value;
}

std::vector<Buffer> read_buffers() {
    std::vector<Buffer> buffers(next<size_t>());
    for (Buffer& buffer : buffers) {
        buffer.kind = static_cast<Buffer::Kind>(next<int>());
        buffer.name = next<std::string>();
        const size_t phase = next<size_t>(), n_bytes = next<size_t>();
        buffer.begin = static_cast<char*>(malloc(phase + n_bytes)) + phase;
        buffer.end = buffer.begin + n_bytes;
        memset(buffer.begin, 0xA5, n_bytes);
    }
    return buffers;
}

char* read_argument(const std::vector<Buffer>& buffers) {
    std::vector<size_t> pointers(next<size_t>());
    for (size_t& offset : pointers) offset = next<size_t>();
    const size_t n_bytes = next<size_t>();
    const std::string hexadecimal = next<std::string>();
    char* bytes = static_cast<char*>(aligned_alloc(16, (n_bytes + 15) / 16 * 16));
    for (size_t i = 0; i < n_bytes; ++i)
        bytes[i] = static_cast<char>(std::stoi(hexadecimal.substr(2 * i, 2), nullptr, 16));
    for (size_t offset : pointers) {
        uint64_t token;
        memcpy(&token, bytes + offset, sizeof(token));
        const char* pointer = token ? buffers.at((token >> 40) - 1).begin + (token & ((1ull << 40) - 1)) : nullptr;
        memcpy(bytes + offset, &pointer, sizeof(pointer));
    }
    return bytes;
}

template <typename T>
T symbol(void* library, const std::string& name) {
    if (void* found = dlsym(library, name.c_str())) return reinterpret_cast<T>(found);
    fprintf(stderr, "host target: %s\n", dlerror());
    exit(73);
}

Launch read_launch(const std::vector<Buffer>& buffers) {
    Launch launch;
    const std::string path = next<std::string>();
    void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (!library) {
        fprintf(stderr, "host target: %s\n", dlerror());
        exit(73);
    }
    launch.kernel = next<std::string>();
    launch.entry = symbol<void (*)(void**)>(library, "host_entry_" + launch.kernel);
    symbol<void (*)(char**, char**)>(library, "host_shared_memory")(&launch.shared_begin, &launch.shared_end);
    launch.n_blocks = next<int32_t>();
    launch.n_threads = next<int32_t>();
    launch.dynamic_bytes = next<uint64_t>();
    launch.arguments.resize(next<size_t>());
    for (void*& argument : launch.arguments) argument = read_argument(buffers);
    return launch;
}

void on_abort(int) {
    print_position();
    _exit(71);
}

void on_alarm(int) {
    fprintf(stderr, "host target: out of time\n");
    print_position();
    _exit(72);
}

}  // namespace

int main() {
    signal(SIGABRT, on_abort);
    signal(SIGALRM, on_alarm);
    schedule.seed(next<uint64_t>());
    preempt_per_mille = next<uint32_t>();
    alarm(next<unsigned>());
    std::vector<Buffer> buffers = read_buffers();
    std::vector<Launch> launches(next<size_t>());
    for (Launch& launch : launches) launch = read_launch(buffers);
    std::cin.get();
    for (const Buffer& buffer : buffers) {
        if (buffer.kind != Buffer::SCRATCH) std::cin.read(buffer.begin, buffer.end - buffer.begin);
        memory::add(buffer);
    }
    for (const Launch& launch : launches) run(launch);
    for (const Buffer& buffer : buffers)
        if (buffer.kind != Buffer::INPUT) fwrite(buffer.begin, 1, buffer.end - buffer.begin, stdout);
    fflush(stdout);
    _exit(0);  // nothing is freed, and nothing needs to be
}
