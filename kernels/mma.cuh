// Weights and activations as exact operands of the tensor cores: 16-bit floats, f16 with f16 activations, else bfloat16.
//
// Byte codes become integers (code - bias), which both types hold exactly. An octet is four words: weights (0, 2), (1, 3),
// (4, 6), (5, 7), the order in which masks take bytes out of words. The tensor cores read subnormal f16 exactly but take
// subnormal bfloat16 for zero: columns of tiny activations are scaled by a power of two (kTiny).
#include "octets.cuh"

// Each code in a 16-bit half of its own, with `above` in the bits over it.
DEVICE void spread_codes(Bytes8 codes, uint32_t above, uint32_t (&pairs)[4]) {
    const uint32_t mask = codes.mask & 0x00FF00FFu;  // a mask is the same for all bytes
    pairs[0] = and_or(codes.lo, mask, above);
    pairs[1] = and_or(shift_right_8(codes.lo), mask, above);
    pairs[2] = and_or(codes.hi, mask, above);
    pairs[3] = and_or(shift_right_8(codes.hi), mask, above);
}

#if MMVQ_ACTIVATION == 1

constexpr uint32_t kMmaOne = 0x3C003C00u;

DEVICE void multiply_add(float (&sums)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    mma_f16(sums, a, b, sums);
}

DEVICE void multiply(float (&sums)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    mma_f16(sums, a, b, {0.0f, 0.0f, 0.0f, 0.0f});
}

// 0x64 above a code is the f16 1024 + code. A code alone would be a subnormal, its 2^-24 multiple, without any conversion, but
// then the tensor cores line products up by its exponent, not its first bit, and lose the bits between.
template <int SCALES>
DEVICE void to_mma_weights(ShiftedOctet<SCALES> octet, uint32_t (&pairs)[4]) {
    spread_codes(octet.codes, 0x64006400u, pairs);
#pragma unroll
    for (int i = 0; i < 4; ++i) pairs[i] = half2_subtract(pairs[i], 0x64006400u);
}

template <int SCALES>
DEVICE void to_mma_weights(BiasedOctet<SCALES> octet, uint32_t (&pairs)[4]) {
    spread_codes(octet.codes, 0x64006400u, pairs);
    const uint32_t bias = (0x6400u + static_cast<uint32_t>(octet.bias)) * 0x00010001u;
#pragma unroll
    for (int i = 0; i < 4; ++i) pairs[i] = half2_subtract(pairs[i], bias);
}

template <int SCALES>
DEVICE void to_mma_weights(HalfOctet<SCALES> octet, uint32_t (&pairs)[4]) {
#pragma unroll
    for (int i = 0; i < 4; ++i) pairs[i] = octet.pairs[i];
}

// An octet of a row, as f16 where its format has a short way to them.
template <typename F = WeightFormat>
DEVICE auto unpack_operands(const uint8_t* row, uint32_t octet) -> decltype(F::unpack_halves(row, octet)) {
    constexpr uint32_t octets = F::block_size / 8;
    return F::unpack_halves(row + static_cast<int64_t>(octet / octets) * MMVQ_TYPE_SIZE, octet % octets);
}

template <typename F = WeightFormat, typename... Unused>
DEVICE auto unpack_operands(const uint8_t* row, uint32_t octet, Unused...) {
    return unpack_octet<F>(row, octet);
}

// What the operands of this type of octet are multiples of, the other way round.
template <typename AnyOctet>
DEVICE constexpr float mma_unit() {
    return AnyOctet::are_halves ? kHalfUnit : 1.0f;
}

#else

constexpr uint32_t kMmaOne = 0x3F803F80u;

DEVICE void multiply_add(float (&sums)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    mma_bf16(sums, a, b, sums);
}

DEVICE void multiply(float (&sums)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    mma_bf16(sums, a, b, {0.0f, 0.0f, 0.0f, 0.0f});
}

// 0x43 above a code below 128 is the bfloat16 128 + code.
template <int SCALES>
DEVICE void to_mma_weights(ShiftedOctet<SCALES> octet, uint32_t (&pairs)[4]) {
    spread_codes(octet.codes, 0x43004300u, pairs);
#pragma unroll
    for (int i = 0; i < 4; ++i) pairs[i] = bfloat2_subtract(pairs[i], 0x43004300u);
}

// A bias of 128 means codes of eight bits: their low seven above 128, less 128, and 128 less where the eighth is not set.
template <int SCALES>
DEVICE void to_mma_weights(BiasedOctet<SCALES> octet, uint32_t (&pairs)[4]) {
    if (octet.bias == kBias) {
        uint32_t inverted[4];
        spread_codes({octet.codes.lo, octet.codes.hi, octet.codes.mask & 0x7F7F7F7Fu}, 0x43004300u, pairs);
        spread_codes({~octet.codes.lo, ~octet.codes.hi, 0x80808080u}, 0x43004300u, inverted);
#pragma unroll
        for (int i = 0; i < 4; ++i) pairs[i] = bfloat2_subtract(pairs[i], inverted[i]);
    } else {
        spread_codes(octet.codes, 0x43004300u, pairs);
        const uint32_t bias = (0x4300u + static_cast<uint32_t>(octet.bias)) * 0x00010001u;
#pragma unroll
        for (int i = 0; i < 4; ++i) pairs[i] = bfloat2_subtract(pairs[i], bias);
    }
}

template <typename F = WeightFormat>
DEVICE auto unpack_operands(const uint8_t* row, uint32_t octet) {
    return unpack_octet<F>(row, octet);
}

template <typename AnyOctet>
DEVICE constexpr float mma_unit() {
    return 1.0f;
}

#endif

// A float as three bfloat16 whose sum it is: its upper half, that of the rest, and what is left.
struct BfloatParts {
    uint32_t part[3];  // each in the upper half of the word

    DEVICE BfloatParts of(float x) {
        BfloatParts parts;
#pragma unroll
        for (int i = 0; i < 3; ++i) {
            parts.part[i] = float_to_bits(x) & 0xFFFF0000u;
            x -= bits_to_float(parts.part[i]);
        }
        return parts;
    }
};

// A column without an activation of kTiny or more is multiplied by kTinyScale, and its sums are divided by it.
constexpr float kTiny = 8.6736174e-19f;      // 2^-60
constexpr float kTinyScale = 1.8446744e19f;  // 2^64
constexpr bool SCALES_TINY = MMVQ_ACTIVATION != 1;

// NaN is not tiny.
DEVICE bool is_tiny(float x) { return (float_to_bits(x) & 0x7FFFFFFFu) < float_to_bits(kTiny); }

// The activations of an octet times `scale` (of f32 and bfloat16) as mma operands, in the order of its weights: as they are,
// or an f32 cut into three parts. `halves` are the sums of the first and the last four; true when all are tiny.
template <int PARTS>
DEVICE bool load_mma_columns(const Element* row, uint32_t octet, int n_cols, bool whole_vectors, float scale,
                             uint4 (&parts)[PARTS], float (&halves)[2]) {
    Element x[8];
    load_elements(row, octet, n_cols, whole_vectors, x);
    bool are_tiny = true;
    if constexpr (SCALES_TINY) {
#pragma unroll
        for (int i = 0; i < 8; ++i) {
            are_tiny = are_tiny && is_tiny(to_float(x[i]));
            x[i] = from_float(to_float(x[i]) * scale);
        }
    }
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        const Element* y = x + 4 * half;
        halves[half] = to_float(y[0]) + to_float(y[1]) + (to_float(y[2]) + to_float(y[3]));
    }
    uint32_t words[PARTS][4];
#pragma unroll
    for (int word = 0; word < 4; ++word) {
        const int first = 4 * (word / 2) + word % 2;
#if MMVQ_ACTIVATION == 0
        const BfloatParts low = BfloatParts::of(x[first]), high = BfloatParts::of(x[first + 2]);
#pragma unroll
        for (int part = 0; part < PARTS; ++part) words[part][word] = low.part[part] >> 16 | high.part[part];
#else
        words[0][word] = x[first].bits | static_cast<uint32_t>(x[first + 2].bits) << 16;
#endif
    }
#pragma unroll
    for (int part = 0; part < PARTS; ++part) {
        parts[part] = {words[part][0], words[part][1], words[part][2], words[part][3]};
    }
    return are_tiny;
}
