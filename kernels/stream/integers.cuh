// Products of integers of 8 bits: codes times the digits of activations.
#include "stream/mins.cuh"

// Added to an integer below 2^22, the bits of a float: `magic_float` + the integer, times 2^UnitLog2 where that is below zero.
template <typename AnyOctet>
DEVICE constexpr int32_t magic() {
    constexpr int32_t unit = unit_log2<AnyOctet>();
    return 0x4B400000 + (unit < 0 ? unit * 0x00800000 : 0);
}

template <typename AnyOctet>
DEVICE float magic_float() {
    return bits_to_float(magic<AnyOctet>());
}

template <int SCALES>
DEVICE uint32_t bias_of(const BiasedOctet<SCALES>& octet) {
    return static_cast<uint32_t>(octet.bias);
}

template <typename AnyOctet>
DEVICE uint32_t bias_of(const AnyOctet&) {
    return 0;
}

// What is added to an octet's codes, if they are sums.
template <typename AnyOctet>
DEVICE constexpr auto has_rest(int) -> decltype(sizeof(AnyOctet::rest) > 0) {
    return true;
}

template <typename AnyOctet>
DEVICE constexpr bool has_rest(...) {
    return false;
}

// Half an octet or a whole one of both rows, Words words of each that share a scale, times the digits `x` of eight columns: the
// integers, added to `total`. A bias is a product of its own: subtracting it from each byte takes longer.
template <typename AnyOctet, int Words>
DEVICE void multiply_codes(const AnyOctet& upper, const AnyOctet& lower, int group, const uint32_t (&x)[Words],
                           int32_t (&total)[4]) {
    const uint32_t all[4] = {upper.codes.lo, lower.codes.lo, upper.codes.hi, lower.codes.hi};
    uint32_t words[2 * Words];
#pragma unroll
    for (int i = 0; i < 2 * Words; ++i) words[i] = all[2 * group + i];
    if constexpr (has_rest<AnyOctet>(0)) {
        mma_int8<int8_t>(total, {upper.rest.lo, lower.rest.lo, upper.rest.hi, lower.rest.hi}, x, total);
    }
    if constexpr (is_signed<AnyOctet>(0)) return mma_int8<int8_t>(total, words, x, total);
    mma_int8<uint8_t>(total, words, x, total);
    const uint32_t bias = bias_of(upper);
    if (bias == 0) return;
#pragma unroll
    for (int i = 0; i < 2 * Words; ++i) words[i] = (-bias & 0xFF) * 0x01010101u;
    mma_int8<int8_t>(total, words, x, total);
}

// Adds integers above the magic one, times a factor for each row.
template <typename AnyOctet>
DEVICE void add_scaled(const int32_t (&total)[4], float upper_factor, float lower_factor, float (&sums)[4]) {
#pragma unroll
    for (int c = 0; c < 4; ++c) {
        const float part = bits_to_float(static_cast<uint32_t>(total[c])) - magic_float<AnyOctet>();
        sums[c] = fused_multiply_add(c < 2 ? upper_factor : lower_factor, part, sums[c]);
    }
}

// The same with their scales, which are integers or floats, added to `sums`.
template <typename AnyOctet, int Words>
DEVICE void multiply_group(const AnyOctet& upper, const AnyOctet& lower, int group, const uint32_t (&x)[Words],
                           int32_t (&sums)[4]) {
    int32_t total[4] = {};
    multiply_codes<AnyOctet, Words>(upper, lower, group, x, total);
#pragma unroll
    for (int c = 0; c < 4; ++c) sums[c] += (c < 2 ? upper : lower).scale[group] * total[c];
}

template <typename AnyOctet, int Words>
DEVICE void multiply_group(const AnyOctet& upper, const AnyOctet& lower, int group, const uint32_t (&x)[Words],
                           float (&sums)[4]) {
    constexpr int32_t begin = magic<AnyOctet>();
    int32_t total[4] = {begin, begin, begin, begin};
    multiply_codes<AnyOctet, Words>(upper, lower, group, x, total);
    add_scaled<AnyOctet>(total, upper.scale[group], lower.scale[group], sums);
    if constexpr (AnyOctet::has_offset) {
        uint32_t ones[2 * Words];
        int32_t sum_of_x[4] = {begin, begin, begin, begin};
#pragma unroll
        for (int i = 0; i < 2 * Words; ++i) ones[i] = 0x01010101u;
        mma_int8<int8_t>(sum_of_x, ones, x, sum_of_x);
        add_scaled<AnyOctet>(sum_of_x, upper.offset[group], lower.offset[group], sums);
    }
}

// Octets of both rows whose scales are those of two lanes each: products with the activations of either two.
template <typename AnyOctet>
DEVICE void multiply_pairs(const AnyOctet& upper, const AnyOctet& lower, uint2 x, int32_t (&sums)[4]) {
    const uint32_t is_second = lane_index() & 2 ? 0xFFFFFFFFu : 0;
#pragma unroll
    for (int pair = 0; pair < 2; ++pair) {
        const uint32_t mask = pair == 0 ? ~is_second : is_second;
        int32_t total[4] = {};
        multiply_codes<AnyOctet, 2>(upper, lower, 0, {x.x & mask, x.y & mask}, total);
#pragma unroll
        for (int c = 0; c < 4; ++c) sums[c] += (c < 2 ? upper : lower).scale[pair] * total[c];
    }
}

// As multiply_step, with integers.
template <typename AnyOctet, typename Sum>
DEVICE void multiply_integers(const AnyOctet& upper, const AnyOctet& lower, const Columns& columns, int32_t offset,
                              Sum (&sums)[N_TILES][4]) {
    constexpr int WORDS = 2 / AnyOctet::n_scales;  // of a row that share a scale
#pragma unroll
    for (int n = 0; n < N_TILES; ++n) {
        const uint2 x = load<uint2>(columns.starts[n] + offset);
        if constexpr (is_paired<AnyOctet>()) {
            multiply_pairs(upper, lower, x, sums[n]);
        } else if constexpr (WORDS == 2) {
            multiply_group<AnyOctet, WORDS>(upper, lower, 0, {x.x, x.y}, sums[n]);
        } else {
            multiply_group<AnyOctet, WORDS>(upper, lower, 0, {x.x}, sums[n]);
            multiply_group<AnyOctet, WORDS>(upper, lower, 1, {x.y}, sums[n]);
        }
    }
}

// Up to 256 weights of both rows, quarter by quarter, in groups of 32 that have an integer scale.
template <typename F = WeightFormat>
DEVICE void multiply_quarters(const uint8_t* upper, const uint8_t* lower, const Columns& columns, int32_t offset,
                              float (&sums)[N_TILES][4]) {
    const uint32_t t = lane_index() & 3;
    const auto first = F::quarters(upper, t), second = F::quarters(lower, t);
    int32_t totals[2][N_TILES][4] = {};  // of even and odd groups
#pragma unroll
    for (int q = 0; q < 4; ++q) {
        uint32_t above[2][2], below[2][2];
        F::quarter(first, upper, t, q, above);
        F::quarter(second, lower, t, q, below);
#pragma unroll
        for (int n = 0; n < N_TILES; ++n) {
            const uint4 x = load<uint4>(columns.starts[n] + offset + step_place(2 * q));
            const uint32_t digits[2][2] = {{x.x, x.y}, {x.z, x.w}};
#pragma unroll
            for (int odd = 0; odd < 2; ++odd) {
                int32_t total[4];
                mma_int8<uint8_t>(total, {above[odd][0], below[odd][0], above[odd][1], below[odd][1]}, digits[odd],
                                  {0, 0, 0, 0});
#pragma unroll
                for (int c = 0; c < 4; ++c) {
                    const uint32_t scales = (c < 2 ? first : second).scales[q / 2];
                    totals[odd][n][c] += byte_at(scales, (2 * q + odd) % 4) * total[c];
                }
            }
        }
    }
#pragma unroll
    for (int n = 0; n < N_TILES; ++n) {
#pragma unroll
        for (int c = 0; c < 4; ++c) {
            const int32_t total = totals[0][n][c] * (1 << F::Quarters::odd_shift) + totals[1][n][c];
            sums[n][c] = int_to_float(total) * (c < 2 ? first.d : second.d);
        }
    }
    subtract_mins(first, second, columns, offset, sums);
}
