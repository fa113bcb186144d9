// Products of matrices by a warpgroup, four warps whose first one's index is a multiple of four: sm_90 only (compiled for sm_90a).
//
// One matrix is in registers, fragments as mma_f16's: 16 rows for each warp. The other one is read from shared memory. Products
// go on by themselves: between gmma_fence and the gmma_wait that they are behind, nobody may touch their registers.
#include "ptx/copies.cuh"

constexpr int kCoreBytes = 128;  // eight columns of 16 bytes

#ifdef MMVQ_HOST
#include <vector>

// Columns in shared memory, eight to a group; two cores, one behind the other, are a group's columns of a product 16 deep.
struct SharedMatrix {
    const uint8_t* first;
    uint32_t group_bytes;  // from group to group

    DEVICE SharedMatrix of(const uint8_t* first, uint32_t group_bytes) {
        assert(reinterpret_cast<uintptr_t>(first) % 16 == 0 && group_bytes % 16 == 0);
        return {first, group_bytes};
    }

    DEVICE SharedMatrix at(const SharedMatrix& matrix, uint32_t n_bytes) {
        return {matrix.first + n_bytes, matrix.group_bytes};
    }

    DEVICE void advance(SharedMatrix& matrix) { matrix.first += 2 * kCoreBytes; }
};

// A product that a thread has asked for: it is made when the thread waits for it, as late as a GPU may.
struct HostProduct {
    float (*sums)[4];
    int n_groups;
    uint32_t a[32][4];
    SharedMatrix b;
    bool adds, is_bfloat;
    uint32_t commit;  // how often the thread had committed before
};

static std::vector<HostProduct> host_products[1024];
static uint32_t host_commits[1024];

DEVICE void gmma_fence(CALLER) { host_named_barrier(8 + thread_index() / 128, 128, file, line); }

DEVICE void gmma_commit() { ++host_commits[thread_index()]; }

DEVICE void host_multiply(const HostProduct& product) {
    const int lane = lane_index();
    for (int n = 0; n < product.n_groups; ++n) {
        for (int i = 0; i < 4; ++i) {
            const int row = lane / 4 + 8 * (i / 2), column = 2 * (lane % 4) + i % 2;
            const uint8_t* const core = product.b.first + n * product.b.group_bytes + 16 * column;
            double sum = product.adds ? product.sums[n][i] : 0.0;
            for (int k = 0; k < 16; ++k) {
                const uint32_t left = product.a[4 * (row % 8) + k % 8 / 2][row / 8 + 2 * (k / 8)] >> 16 * (k % 2);
                const uint16_t x = reinterpret_cast<const uint16_t*>(core + k / 8 * kCoreBytes)[k % 8];
                const auto w = static_cast<uint16_t>(left);
                sum += product.is_bfloat ? static_cast<double>(bfloat_to_float_or_zero(w)) * bfloat_to_float_or_zero(x)
                                         : static_cast<double>(half_to_float(w)) * half_to_float(x);
            }
            product.sums[n][i] = static_cast<float>(sum);
        }
    }
}

template <int Left>
DEVICE void gmma_wait() {
    std::vector<HostProduct>& products = host_products[thread_index()];
    size_t done = 0;
    for (; done < products.size() && products[done].commit + Left < host_commits[thread_index()]; ++done) {
        host_multiply(products[done]);
    }
    products.erase(products.begin(), products.begin() + done);
}

template <int N>
DEVICE void gmma_settle(float (&)[N][4]) {}

template <int N>
DEVICE void host_start(float (&sums)[N][4], const uint32_t (&a)[4], SharedMatrix b, bool adds, bool is_bfloat,
                       const char* file, int line) {
    HostProduct product = {sums, N, {}, b, adds, is_bfloat, host_commits[thread_index()]};
    host_warp_exchange(a, sizeof(a), product.a, file, line);
    for (int i = 0; i < 4 * N && !adds; ++i) sums[i / 4][i % 4] = NAN;  // until they are there
    host_products[thread_index()].push_back(product);
}

template <bool Adds, int N>
DEVICE void gmma_f16(float (&sums)[N][4], const uint32_t (&a)[4], SharedMatrix b, CALLER) {
    host_start(sums, a, b, Adds, false, file, line);
}

template <bool Adds, int N>
DEVICE void gmma_bf16(float (&sums)[N][4], const uint32_t (&a)[4], SharedMatrix b, CALLER) {
    host_start(sums, a, b, Adds, true, file, line);
}

#else

// Columns in shared memory, eight to a group; two cores, one behind the other, are a group's columns of a product 16 deep.
// The descriptor of the PTX manual (wgmma, matrix descriptor), not swizzled: address, from core to core, from group to group. It is
// the same in all lanes; the shuffle tells the compiler so, which then keeps it in registers that a warp shares.
struct SharedMatrix {
    uint32_t low, high;

    DEVICE SharedMatrix of(const uint8_t* first, uint32_t group_bytes) {
        const uint32_t low = shared_address(first) / 16 | static_cast<uint32_t>(kCoreBytes / 16) << 16;
        return {static_cast<uint32_t>(shuffle(static_cast<int32_t>(low), 0)), group_bytes / 16};
    }

    DEVICE SharedMatrix at(const SharedMatrix& matrix, uint32_t n_bytes) {
        return {matrix.low + n_bytes / 16, matrix.high};
    }

    // On to the next product 16 deep.
    DEVICE void advance(SharedMatrix& matrix) { matrix.low += 2 * kCoreBytes / 16; }
};

// Registers that were written before are there for the products that follow.
DEVICE void gmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }

// The products since the last commit are a group.
DEVICE void gmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }

// Waits until all but the last `Left` groups are done.
template <int Left>
DEVICE void gmma_wait() {
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(Left) : "memory");
}

// Behind gmma_wait: the sums are used from here on, not earlier.
template <int N>
DEVICE void gmma_settle(float (&sums)[N][4]) {
#pragma unroll
    for (int i = 0; i < 4 * N; ++i) asm volatile("" : "+f"(sums[i / 4][i % 4])::"memory");
}

// clang-format off
#define GMMA_SUMS_1(s) "+f"(s[0][0]), "+f"(s[0][1]), "+f"(s[0][2]), "+f"(s[0][3])
#define GMMA_SUMS_2(s) GMMA_SUMS_1(s), "+f"(s[1][0]), "+f"(s[1][1]), "+f"(s[1][2]), "+f"(s[1][3])
#define GMMA_SUMS_3(s) GMMA_SUMS_2(s), "+f"(s[2][0]), "+f"(s[2][1]), "+f"(s[2][2]), "+f"(s[2][3])
#define GMMA_SUMS_4(s) GMMA_SUMS_3(s), "+f"(s[3][0]), "+f"(s[3][1]), "+f"(s[3][2]), "+f"(s[3][3])
#define GMMA_SUMS_6(s) GMMA_SUMS_4(s), "+f"(s[4][0]), "+f"(s[4][1]), "+f"(s[4][2]), "+f"(s[4][3]), \
                                       "+f"(s[5][0]), "+f"(s[5][1]), "+f"(s[5][2]), "+f"(s[5][3])
#define GMMA_SUMS_8(s) GMMA_SUMS_6(s), "+f"(s[6][0]), "+f"(s[6][1]), "+f"(s[6][2]), "+f"(s[6][3]), \
                                       "+f"(s[7][0]), "+f"(s[7][1]), "+f"(s[7][2]), "+f"(s[7][3])
#define GMMA_NAMES_1 "%0, %1, %2, %3"
#define GMMA_NAMES_2 GMMA_NAMES_1 ", %4, %5, %6, %7"
#define GMMA_NAMES_3 GMMA_NAMES_2 ", %8, %9, %10, %11"
#define GMMA_NAMES_4 GMMA_NAMES_3 ", %12, %13, %14, %15"
#define GMMA_NAMES_6 GMMA_NAMES_4 ", %16, %17, %18, %19, %20, %21, %22, %23"
#define GMMA_NAMES_8 GMMA_NAMES_6 ", %24, %25, %26, %27, %28, %29, %30, %31"

// Columns, groups; then the operands' numbers behind the sums: weights, matrix, whether sums are added to.
#define GMMA(TYPE, COLUMNS, N, A0, A1, A2, A3, LOW, HIGH, ADDS)                                                            \
    if constexpr (Groups == N) {                                                                                     \
        asm volatile("{\n"                                                                                           \
                     ".reg .pred adds;\n"                                                                            \
                     ".reg .b64 matrix;\n"                                                                           \
                     "mov.b64 matrix, {" LOW ", " HIGH "};\n"                                                        \
                     "setp.ne.b32 adds, " ADDS ", 0;\n"                                                              \
                     "wgmma.mma_async.sync.aligned.m64n" COLUMNS "k16.f32." TYPE "." TYPE " {" GMMA_NAMES_##N "}, "  \
                     "{" A0 ", " A1 ", " A2 ", " A3 "}, matrix, adds, 1, 1, 0;\n"                                    \
                     "}"                                                                                             \
                     : GMMA_SUMS_##N(sums)                                                                           \
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b.low), "r"(b.high), "n"(Adds)                \
                     : "memory");                                                                                    \
    }
#define GMMA_OF_ANY_GROUPS(TYPE)                                                                                     \
    GMMA(TYPE, "8", 1, "%4", "%5", "%6", "%7", "%8", "%9", "%10")                                                           \
    GMMA(TYPE, "16", 2, "%8", "%9", "%10", "%11", "%12", "%13", "%14")                                                      \
    GMMA(TYPE, "24", 3, "%12", "%13", "%14", "%15", "%16", "%17", "%18")                                                    \
    GMMA(TYPE, "32", 4, "%16", "%17", "%18", "%19", "%20", "%21", "%22")                                                    \
    GMMA(TYPE, "48", 6, "%24", "%25", "%26", "%27", "%28", "%29", "%30")                                                    \
    GMMA(TYPE, "64", 8, "%32", "%33", "%34", "%35", "%36", "%37", "%38")
// clang-format on

// sums[64 rows, 8 * Groups columns] = a[64, 16] * b[16, 8 * Groups], or += that; a by rows, in the warps' registers, b by columns.
template <bool Adds, int Groups>
DEVICE void gmma_f16(float (&sums)[Groups][4], const uint32_t (&a)[4], SharedMatrix b) {
    GMMA_OF_ANY_GROUPS("f16")
}

// The same in bfloat16.
template <bool Adds, int Groups>
DEVICE void gmma_bf16(float (&sums)[Groups][4], const uint32_t (&a)[4], SharedMatrix b) {
    GMMA_OF_ANY_GROUPS("bf16")
}

#endif
