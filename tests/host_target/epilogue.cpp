#line 1 "tests/host_target/epilogue.cpp"
// Appended to each kernel source, before one `host_entry_<kernel>` for each kernel in it.
#include <utility>

extern "C" {
__attribute__((weak, visibility("hidden"))) extern char __start_mmvq_shared[], __stop_mmvq_shared[];

void host_shared_memory(char** begin, char** end) {
    *begin = __start_mmvq_shared;
    *end = __stop_mmvq_shared;
}
}

template <typename... Parameters, size_t... I>
static void host_call(void (*kernel)(Parameters...), void** values, std::index_sequence<I...>) {
    kernel(*static_cast<std::remove_const_t<Parameters>*>(values[I])...);
}

template <typename... Parameters>
static void host_call(void (*kernel)(Parameters...), void** values) {
    host_call(kernel, values, std::index_sequence_for<Parameters...>());
}
