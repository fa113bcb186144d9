// Weights as exact f16 operands of the tensor cores, with their integer scale folded in.
//
// A lane multiplies a strip: a quarter (64 weights) of a run of 256, eight octets, chosen so that few groups meet in it. A
// code at bit P under the exponent of 1024 is the f16 1024 + code * 2^P; one fused multiply-add takes the 1024 away, brings
// the code to units and applies the scale. code * scale has at most 11 bits, so every step is exact.
#include "formats/unpack.cuh"

constexpr uint32_t kAbove1024 = 0x64006400u;  // the exponent of 1024 in both halves

// m * 2^e as f16 in both halves of a word: a normal number, |m| at most 2047.
DEVICE constexpr uint32_t half2_constant(int m, int e) {
    uint32_t mantissa = static_cast<uint32_t>(m < 0 ? -m : m);
    int exponent = e + 10;
    for (; mantissa < 1024; mantissa *= 2) --exponent;
    return ((m < 0 ? 0x8000u : 0u) | static_cast<uint32_t>(exponent + 15) << 10 | (mantissa - 1024)) * 0x00010001u;
}

// A codebook in shared memory, as a lane reads it: several copies of each entry lie side by side, one for each of the lanes that
// would meet in a bank.
struct Grid {
    const uint8_t* entries;  // this lane's copy of the first
    int32_t stride;          // bytes from entry to entry

    template <typename T>
    DEVICE T at(const Grid& grid, uint32_t index) {
        return load<T>(grid.entries + index * grid.stride);
    }

    // The same from entry `first` on.
    DEVICE Grid from(const Grid& grid, int32_t first) { return {grid.entries + first * grid.stride, grid.stride}; }
};

// Brings 1024 + code * 2^P to (code - bias) * scale.
struct Fold {
    uint32_t factor, addend;
};

DEVICE uint32_t folded(Fold fold, uint32_t pair) { return half2_multiply_add(pair, fold.factor, fold.addend); }

// The fold of codes at bit P, less Bias; the scale is byte `index` of `scales`, less Less.
template <int P, int Bias = 0, int Less = 0>
DEVICE Fold fold_by(uint32_t scales, uint32_t index) {
    const uint32_t above_1024 = byte_permute(scales, 0x64646464u, 0x4040u | index * 0x0101u);
    const uint32_t factor = half2_multiply_add(above_1024, half2_constant(1, -P), half2_constant(-(1024 + Less), -P));
    return {factor, half2_multiply(factor, half2_constant(-(1024 + (Bias << P)), 0))};
}

// The four bytes of a word above 1024: bytes 0 and 2, bytes 1 and 3.
DEVICE void spread_bytes(uint32_t bytes, uint32_t (&pairs)[2]) {
    pairs[0] = and_or(bytes, 0x00FF00FFu, kAbove1024);
    pairs[1] = byte_permute(bytes, 0x64646464u, 0x4341);
}

// Bytes `low` and `high` (below 128) of a word as bfloat16 in a word's halves: exact, 128 + byte less 128.
DEVICE uint32_t bytes_to_bfloat2(uint32_t bytes, uint32_t low, uint32_t high) {
    return bfloat2_subtract(byte_permute(bytes, 0x43434343u, 0x4040u | low | high << 8), 0x43004300u);
}

// Negates weight i of an octet where bit i of `signs` (eight of them) is set: a product brings the bits of a pair to the
// signs of its halves.
DEVICE void negate_halves(uint32_t (&pairs)[4], uint32_t signs) {
    pairs[0] ^= signs * 0x20008000u & 0x80008000u;  // weights 0 and 2
    pairs[1] ^= signs * 0x10004000u & 0x80008000u;  // 1 and 3
    pairs[2] ^= signs * 0x02000800u & 0x80008000u;  // 4 and 6
    pairs[3] ^= signs * 0x01000400u & 0x80008000u;  // 5 and 7
}
