// Weights and activations as exact operands of the tensor cores: 16-bit floats, f16 with f16 activations, else bfloat16.
//
// Byte codes become integers (code - bias), which both types hold exactly. Codes of formats with an offset are unsigned and
// small; in f16 they are left as they are: the bits of a subnormal, the 2^-24 multiple of the integer, so that no conversion
// is needed and `mma_unit` puts the factor back at the end.
#include "activation.cuh"
#include "format.cuh"

// Byte pairs (0, 1), (2, 3) of both words, each byte under a copy of `high`.
DEVICE void spread_bytes(Bytes8 codes, uint32_t high, uint32_t (&pairs)[4]) {
    pairs[0] = byte_permute(codes.lo, high, 0x4140);
    pairs[1] = byte_permute(codes.lo, high, 0x4342);
    pairs[2] = byte_permute(codes.hi, high, 0x4140);
    pairs[3] = byte_permute(codes.hi, high, 0x4342);
}

#if MMVQ_ACTIVATION == 1

constexpr uint32_t kMmaOne = 0x00010001u;  // what `to_mma_weights` makes of codes of 1

DEVICE void mma_activation(float (&sums)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) { mma_f16(sums, a, b); }

DEVICE void to_mma_weights(OffsetOctet octet, uint32_t (&pairs)[4]) { spread_bytes(octet.codes, 0, pairs); }

// 0x64 above a code is the f16 1024 + code.
DEVICE void to_mma_weights(Octet octet, uint32_t (&pairs)[4]) {
    spread_bytes(octet.codes, 0x64646464u, pairs);
    const uint32_t bias = (0x6400u + static_cast<uint32_t>(octet.bias)) * 0x00010001u;
#pragma unroll
    for (int i = 0; i < 4; ++i) pairs[i] = half2_subtract(pairs[i], bias);
}

template <bool HasOffset>
DEVICE constexpr float mma_unit() {
    return HasOffset ? 16777216.0f : 1.0f;
}

#else

constexpr uint32_t kMmaOne = 0x3F803F80u;

DEVICE void mma_activation(float (&sums)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) { mma_bf16(sums, a, b); }

// 0x43 above a code below 128 is the bfloat16 128 + code.
DEVICE void to_mma_weights(OffsetOctet octet, uint32_t (&pairs)[4]) {
    spread_bytes(octet.codes, 0x43434343u, pairs);
#pragma unroll
    for (int i = 0; i < 4; ++i) pairs[i] = bfloat2_subtract(pairs[i], 0x43004300u);
}

// A bias of 128 means codes of eight bits: their low seven above 128, less 128, and 128 less where the eighth is not set.
DEVICE void to_mma_weights(Octet octet, uint32_t (&pairs)[4]) {
    uint32_t less[4];
    if (octet.bias == kBias) {
        spread_bytes({octet.codes.lo & 0x7F7F7F7Fu, octet.codes.hi & 0x7F7F7F7Fu}, 0x43434343u, pairs);
        spread_bytes({~octet.codes.lo & 0x80808080u, ~octet.codes.hi & 0x80808080u}, 0x43434343u, less);
    } else {
        spread_bytes(octet.codes, 0x43434343u, pairs);
#pragma unroll
        for (int i = 0; i < 4; ++i) less[i] = (0x4300u + static_cast<uint32_t>(octet.bias)) * 0x00010001u;
    }
#pragma unroll
    for (int i = 0; i < 4; ++i) pairs[i] = bfloat2_subtract(pairs[i], less[i]);
}

template <bool HasOffset>
DEVICE constexpr float mma_unit() {
    return 1.0f;
}

#endif

// Eight activations of a row as mma operands: as they are, or an f32 cut into three bfloat16 whose sum it is.
template <int PARTS>
DEVICE void load_mma_columns(const Element* row, int octet, int n_cols, bool whole_vectors, uint4 (&parts)[PARTS]) {
    uint32_t words[PARTS][4];
#if MMVQ_ACTIVATION == 0
    float x[8];
    load_activations(row, octet, n_cols, whole_vectors, x);
#pragma unroll
    for (int part = 0; part < PARTS; ++part) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            const uint32_t first = float_to_bits(x[2 * i]), second = float_to_bits(x[2 * i + 1]);
            words[part][i] = first >> 16 | (second & 0xFFFF0000u);
            x[2 * i] -= bits_to_float(first & 0xFFFF0000u);
            x[2 * i + 1] -= bits_to_float(second & 0xFFFF0000u);
        }
    }
#else
    const Element* source = row + 8 * static_cast<int64_t>(octet);
    if (whole_vectors) {
        load_vectors<16>(reinterpret_cast<const uint32_t*>(source), words[0]);
    } else {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            words[0][i] = source[2 * i].bits | static_cast<uint32_t>(source[2 * i + 1].bits) << 16;
        }
    }
#endif
#pragma unroll
    for (int part = 0; part < PARTS; ++part) {
        parts[part] = {words[part][0], words[part][1], words[part][2], words[part][3]};
    }
}
