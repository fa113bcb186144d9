// Types and keywords.
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
