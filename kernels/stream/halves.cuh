// Products of f16: codes whose scales go on the sums, or strips that have them folded in.
#include "stream/mins.cuh"

// 32 weights of rows g and g + 8 (g = lane / 4) times the tile's columns, added to `sums`; each lane has unpacked one octet
// of each row. `x` lies `offset` bytes from the start of its columns.
template <typename AnyOctet, int N>
DEVICE void multiply_step(AnyOctet upper, AnyOctet lower, const Columns& columns, int32_t offset, float (&sums)[N][4]) {
    constexpr int N_SCALES = AnyOctet::n_scales;
    uint32_t high[4], low[4];
    to_mma_weights(upper, high);
    to_mma_weights(lower, low);
    const uint32_t weights[2][4] = {{high[0], low[0], high[1], low[1]}, {high[2], low[2], high[3], low[3]}};
#pragma unroll
    for (int n = 0; n < N; ++n) {
        const uint4 x = load<uint4>(columns.starts[n] + offset);
        const uint32_t words[2][2] = {{x.x, x.y}, {x.z, x.w}};
        const auto add = [&](const float (&part)[4], float upper_factor, float lower_factor) {
#pragma unroll
            for (int c = 0; c < 4; ++c) {
                sums[n][c] = fused_multiply_add(c < 2 ? upper_factor : lower_factor, part[c], sums[n][c]);
            }
        };
#pragma unroll
        for (int group = 0; group < N_SCALES; ++group) {
            float part[4];
            multiply(part, weights[group], words[group]);
            if constexpr (N_SCALES == 1) multiply_add(part, weights[1], words[1]);
            add(part, upper.scale[group], lower.scale[group]);
            if constexpr (AnyOctet::has_offset) {
                const uint32_t ones[4] = {kMmaOne, kMmaOne, kMmaOne, kMmaOne};
                float total[4];
                multiply(total, ones, words[group]);
                if constexpr (N_SCALES == 1) multiply_add(total, ones, words[1]);
                add(total, upper.offset[group], lower.offset[group]);
            }
        }
    }
}

// Up to 256 weights of both rows, a strip for each lane.
template <int N, typename F = WeightFormat>
DEVICE void multiply_strips(const uint8_t* upper, const uint8_t* lower, const Grid& grid, int32_t n_weights,
                            const Columns& columns, int32_t offset, float (&sums)[N][4]) {
    static_assert(MIN_PAIRS == min_pairs<typename F::Strip>(0), "MMVQ_MIN_GROUPS is not the format's");
    const uint32_t t = lane_index() & 3;
    uint32_t at = 0;
    if constexpr (F::block_size < CHUNK) {  // lanes past the end repeat the last block, times zero
        static_assert(F::block_size == CHUNK / 4, "a strip is a block");
        at = min(static_cast<int32_t>(t), n_weights / F::block_size - 1) * MMVQ_TYPE_SIZE;
    }
    const auto first = F::strip(upper + at, t, grid), second = F::strip(lower + at, t, grid);
    constexpr bool ARE_TWO = N_TILES <= 2;  // chains of dependent sums: every second product goes to others
    float others[N][4] = {};
#pragma unroll
    for (int32_t i = 0; i < 8; ++i) {
        uint32_t high[4], low[4];
        F::fold(first, i, high);
        F::fold(second, i, low);
#pragma unroll
        for (int n = 0; n < N; ++n) {
            const uint4 x = load<uint4>(columns.starts[n] + offset + 64 * i);
            multiply_add(sums[n], {high[0], low[0], high[1], low[1]}, {x.x, x.y});
            multiply_add(ARE_TWO ? others[n] : sums[n], {high[2], low[2], high[3], low[3]}, {x.z, x.w});
        }
    }
#pragma unroll
    for (int n = 0; n < N; ++n) {
#pragma unroll
        for (int c = 0; c < 4; ++c) {
            const float sum = ARE_TWO ? sums[n][c] + others[n][c] : sums[n][c];
            sums[n][c] = sum * (c < 2 ? first.d : second.d);
        }
    }
    if constexpr (MIN_PAIRS > 0) subtract_mins(first, second, columns, offset, sums);
}
