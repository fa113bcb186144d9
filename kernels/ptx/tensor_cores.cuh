// Products of small matrices. Fragments as in the PTX manual; on the host a sum is exact and rounded once, a GPU's may differ.
#include "ptx/threads.cuh"

#ifdef MMVQ_HOST

DEVICE void load_matrices(uint32_t (&words)[4], const void* row, CALLER) {
    const void* rows[32];
    host_warp_exchange(&row, sizeof(row), rows, file, line);
    const int lane = lane_index();
    for (int i = 0; i < 4; ++i) {
        assert(reinterpret_cast<uintptr_t>(rows[8 * i + lane / 4]) % 16 == 0);
        words[i] = static_cast<const uint32_t*>(rows[8 * i + lane / 4])[lane % 4];
    }
}

// A subnormal bfloat16 counts as zero there (seen on an H200).
DEVICE float bfloat_to_float_or_zero(uint16_t bfloat) { return bfloat & 0x7F80u ? bfloat_to_float(bfloat) : 0.0f; }

template <float (*Widen)(uint16_t)>
DEVICE void mma_16bit(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], const float (&c)[4],
                      const char* file, int line) {
    const uint32_t mine[6] = {a[0], a[1], a[2], a[3], b[0], b[1]};
    uint32_t all[32][6];
    host_warp_exchange(mine, sizeof(mine), all, file, line);
    const int lane = lane_index();
    for (int i = 0; i < 4; ++i) {
        const int row = lane / 4 + 8 * (i / 2), column = 2 * (lane % 4) + i % 2;
        double sum = c[i];
        for (int k = 0; k < 16; ++k) {
            const uint32_t left = all[4 * (row % 8) + k % 8 / 2][row / 8 + 2 * (k / 8)] >> 16 * (k % 2);
            const uint32_t right = all[4 * column + k % 8 / 2][4 + k / 8] >> 16 * (k % 2);
            sum += static_cast<double>(Widen(static_cast<uint16_t>(left))) * Widen(static_cast<uint16_t>(right));
        }
        d[i] = static_cast<float>(sum);
    }
}

DEVICE void mma_f16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], const float (&c)[4], CALLER) {
    mma_16bit<half_to_float>(d, a, b, c, file, line);
}

DEVICE void mma_bf16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], const float (&c)[4], CALLER) {
    mma_16bit<bfloat_to_float_or_zero>(d, a, b, c, file, line);
}

// A holds AType (uint8_t or int8_t), B int8_t; rows of 16 * Half bytes of depth.
template <typename AType, int Half>
DEVICE void mma_8bit(int32_t (&d)[4], const uint32_t (&a)[2 * Half], const uint32_t (&b)[Half], const int32_t (&c)[4],
                     const char* file, int line) {
    uint32_t mine[3 * Half], all[32][3 * Half];
    memcpy(mine, a, sizeof(a));
    memcpy(mine + 2 * Half, b, sizeof(b));
    host_warp_exchange(mine, sizeof(mine), all, file, line);
    const int lane = lane_index();
    for (int i = 0; i < 4; ++i) {
        const int row = lane / 4 + 8 * (i / 2), column = 2 * (lane % 4) + i % 2;
        d[i] = c[i];
        for (int k = 0; k < 16 * Half; ++k) {
            const uint32_t left = all[4 * (row % 8) + k % 16 / 4][row / 8 + 2 * (k / 16)] >> 8 * (k % 4);
            const uint32_t right = all[4 * column + k % 16 / 4][2 * Half + k / 16] >> 8 * (k % 4);
            d[i] += static_cast<AType>(left) * static_cast<int8_t>(right);
        }
    }
}

template <typename AType>
DEVICE void mma_int8(int32_t (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], const int32_t (&c)[4], CALLER) {
    mma_8bit<AType, 2>(d, a, b, c, file, line);
}

template <typename AType>
DEVICE void mma_int8(int32_t (&d)[4], const uint32_t (&a)[2], const uint32_t (&b)[1], const int32_t (&c)[4], CALLER) {
    mma_8bit<AType, 1>(d, a, b, c, file, line);
}

#else

// Four 8x8 matrices of 16-bit elements from shared memory; lane 8 * i + j gives row j of matrix i, 16-byte aligned.
DEVICE void load_matrices(uint32_t (&words)[4], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(words[0]), "=r"(words[1]), "=r"(words[2]), "=r"(words[3])
                 : "r"(shared_address(row))
                 : "memory");
}

// d[16, 8] = a[16, 16] * b[16, 8] + c; a by rows, b by columns, c and d in float, and they may be the same.
DEVICE void mma_f16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], const float (&c)[4]) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%10, %11, %12, %13};"
        : "=f"(d[0]), "=f"(d[1]), "=f"(d[2]), "=f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]), "f"(c[0]), "f"(c[1]), "f"(c[2]), "f"(c[3]));
}

DEVICE void mma_bf16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], const float (&c)[4]) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%10, %11, %12, %13};"
        : "=f"(d[0]), "=f"(d[1]), "=f"(d[2]), "=f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]), "f"(c[0]), "f"(c[1]), "f"(c[2]), "f"(c[3]));
}

// d = a b + c for 16 rows by 32 bytes (uint8_t or int8_t) times 32 int8_t by 8 columns: lane 4g + t holds bytes 4t to 4t + 3 of
// rows g and g + 8, then 16 + 4t to 16 + 4t + 3 of both; the same of column g; and sums as above.
template <typename AType>
DEVICE void mma_int8(int32_t (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], const int32_t (&c)[4]) {
    if constexpr (AType(-1) < AType(0)) {
        asm("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
            "{%10, %11, %12, %13};"
            : "=r"(d[0]), "=r"(d[1]), "=r"(d[2]), "=r"(d[3])
            : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]), "r"(c[0]), "r"(c[1]), "r"(c[2]),
              "r"(c[3]));
    } else {
        asm("mma.sync.aligned.m16n8k32.row.col.s32.u8.s8.s32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
            "{%10, %11, %12, %13};"
            : "=r"(d[0]), "=r"(d[1]), "=r"(d[2]), "=r"(d[3])
            : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]), "r"(c[0]), "r"(c[1]), "r"(c[2]),
              "r"(c[3]));
    }
}

// The same of half the depth: the first two words of a, the first of b.
template <typename AType>
DEVICE void mma_int8(int32_t (&d)[4], const uint32_t (&a)[2], const uint32_t (&b)[1], const int32_t (&c)[4]) {
    if constexpr (AType(-1) < AType(0)) {
        asm("mma.sync.aligned.m16n8k16.row.col.s32.s8.s8.s32 {%0, %1, %2, %3}, {%4, %5}, {%6}, {%7, %8, %9, %10};"
            : "=r"(d[0]), "=r"(d[1]), "=r"(d[2]), "=r"(d[3])
            : "r"(a[0]), "r"(a[1]), "r"(b[0]), "r"(c[0]), "r"(c[1]), "r"(c[2]), "r"(c[3]));
    } else {
        asm("mma.sync.aligned.m16n8k16.row.col.s32.u8.s8.s32 {%0, %1, %2, %3}, {%4, %5}, {%6}, {%7, %8, %9, %10};"
            : "=r"(d[0]), "=r"(d[1]), "=r"(d[2]), "=r"(d[3])
            : "r"(a[0]), "r"(a[1]), "r"(b[0]), "r"(c[0]), "r"(c[1]), "r"(c[2]), "r"(c[3]));
    }
}

#endif
