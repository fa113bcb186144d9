// Products of plain floats as f16, on the tensor cores.
#include "stream/activations.cuh"

constexpr int FLOAT_PARTS = MMVQ_TYPE_SIZE == 4 ? 2 : 1;  // f16 that make a weight; the second counts 1 / kLowFloat
constexpr int FLOAT_OCTETS = 2;  // of a row that a lane keeps at once
constexpr float kLowFloat = 2048.0f;

// What weights of a row are multiplied by, so that the largest is from 2^14 to 2^15, and their sums by, one factor after the other.
struct RowPowers {
    float up[2], down[2];

    // Infinity counts as 2^128.
    DEVICE RowPowers of(float largest) {
        const int32_t exponent = max(static_cast<int32_t>(float_to_bits(largest) >> 23), 1) - 127;
        const int32_t up = 14 - exponent, first_up = min(up, 127), half = -up >> 1;
        return {{power_of_two(first_up), power_of_two(up - first_up)}, {power_of_two(half), power_of_two(-up - half)}};
    }
};

// An octet of a row that has `n_weights` left; zeros behind its end.
template <bool Whole, typename F>
DEVICE void load_floats(const uint8_t* row, uint32_t octet, int32_t n_weights, float (&w)[8]) {
    const bool has_weights = Whole || static_cast<int32_t>(8 * octet) < n_weights;
    F::decode_octet(row + (has_weights ? octet : 0) * (8 * MMVQ_TYPE_SIZE), w);
#pragma unroll
    for (int i = 0; i < 8; ++i) {
        if (!has_weights) w[i] = 0.0f;
    }
}

// The largest magnitude of the four lanes that share a row; NaN does not count.
DEVICE float largest_of_row(float largest) {
    largest = max(largest, shuffle_xor(largest, 1));
    return max(largest, shuffle_xor(largest, 2));
}

// The largest magnitude among FLOAT_OCTETS octets of each lane of a row, from octet 4 * first + t on.
template <bool Whole, typename F>
DEVICE float largest_weight(const uint8_t* row, int32_t first, uint32_t t, int32_t n_weights) {
    float largest = 0.0f;
#pragma unroll
    for (int i = 0; i < FLOAT_OCTETS; ++i) {
        float w[8];
        load_floats<Whole, F>(row, 4 * (first + i) + t, n_weights, w);
#pragma unroll
        for (int e = 0; e < 8; ++e) largest = max(largest, magnitude(w[e]));
    }
    return largest_of_row(largest);
}

// Weights times `up` as f16 parts, in the order of activations: (0, 2), (1, 3), (4, 6), (5, 7).
DEVICE void to_half_parts(const float (&w)[8], const float (&up)[2], uint32_t (&parts)[FLOAT_PARTS][4]) {
#pragma unroll
    for (int word = 0; word < 4; ++word) {
        const int first = 4 * (word / 2) + word % 2;
        float low = w[first] * up[0] * up[1], high = w[first + 2] * up[0] * up[1];
#pragma unroll
        for (int part = 0; part < FLOAT_PARTS; ++part) {
            parts[part][word] = floats_to_half2(low, high);
            low = (low - half_to_float(static_cast<uint16_t>(parts[part][word]))) * kLowFloat;
            high = (high - half_to_float(static_cast<uint16_t>(parts[part][word] >> 16))) * kLowFloat;
        }
    }
}

// Up to 256 weights of both rows, FLOAT_OCTETS octets of each lane and row at a time, added to `sums`. 16-bit weights lose what is
// below 2^-39 of the largest of them, F32 2^-23 of each.
template <bool Whole, int N, typename F = WeightFormat>
DEVICE void multiply_floats(const uint8_t* upper, const uint8_t* lower, int32_t n_weights, const Columns& columns,
                            int32_t offset, float (&sums)[N][4]) {
    const uint8_t* const rows[2] = {upper, lower};
    const uint32_t t = lane_index() & 3;
#pragma unroll 1
    for (int32_t first = 0; first < 8; first += FLOAT_OCTETS) {
        RowPowers powers[2];
#pragma unroll
        for (int row = 0; row < 2; ++row) {
            powers[row] = RowPowers::of(largest_weight<Whole, F>(rows[row], first, t, n_weights));
        }
        float totals[FLOAT_PARTS][N][4] = {};
#pragma unroll
        for (int i = 0; i < FLOAT_OCTETS; ++i) {
            uint32_t a[2][FLOAT_PARTS][4];
#pragma unroll
            for (int row = 0; row < 2; ++row) {
                float w[8];
                load_floats<Whole, F>(rows[row], 4 * (first + i) + t, n_weights, w);
                to_half_parts(w, powers[row].up, a[row]);
            }
#pragma unroll
            for (int n = 0; n < N; ++n) {
                const uint4 x = load<uint4>(columns.starts[n] + offset + 64 * (first + i));
#pragma unroll
                for (int part = 0; part < FLOAT_PARTS; ++part) {
                    multiply_add(totals[part][n], {a[0][part][0], a[1][part][0], a[0][part][1], a[1][part][1]},
                                 {x.x, x.y});
                    multiply_add(totals[part][n], {a[0][part][2], a[1][part][2], a[0][part][3], a[1][part][3]},
                                 {x.z, x.w});
                }
            }
        }
#pragma unroll
        for (int n = 0; n < N; ++n) {
#pragma unroll
            for (int c = 0; c < 4; ++c) {
                float total = totals[0][n][c];
                if constexpr (FLOAT_PARTS == 2) {
                    total = fused_multiply_add(totals[FLOAT_PARTS - 1][n][c], 1.0f / kLowFloat, total);
                }
                const float2 of_column = Columns::powers(columns, n, c % 2, offset);
                const RowPowers& of_row = powers[c / 2];
                sums[n][c] = fused_multiply_add(total * (of_row.down[0] * of_column.x), of_row.down[1] * of_column.y,
                                                sums[n][c]);
            }
        }
    }
}
