// Every intrinsic and every line of inline PTX of this project, behind plain functions.
//
// The rest of kernels/ is C++17 that knows no architecture. With MMVQ_HOST defined the same functions are plain C++, so
// that every kernel runs without a GPU: loads also assert the alignment they promise, and what threads do together is
// left to the scheduler of tests/host_target, which is told each operation and the source line that asks for it.
// Compile device code without -ftz and with -fmad=false: decoding is bit-equal to ggml, subnormal scales included.
#include "ptx/bits.cuh"
#include "ptx/copies.cuh"
#include "ptx/memory.cuh"
#include "ptx/tensor_cores.cuh"
