// Offsets that are small integers times one float for each block.
#include "stream/activations.cuh"

// The offsets of a chunk: the mins, as a matrix of 16 rows, times the sums of the groups' activations.
template <typename Head, int N>
DEVICE void subtract_mins(const Head& upper, const Head& lower, const Columns& columns, int32_t offset,
                          float (&sums)[N][4]) {
    constexpr int last = MIN_PAIRS - 1;
    const uint32_t mins[4] = {upper.mins[0], lower.mins[0], upper.mins[last], lower.mins[last]};
    const float factors[2] = {-upper.dmin, -lower.dmin};
#pragma unroll
    for (int n = 0; n < N; ++n) {
        const uint4 x = load<uint4>(columns.starts[n] + offset + SUMS_AT);
        float total[4];
        if constexpr (MIN_PAIRS == 1) {
            mma_bf16(total, mins, {x.x, x.y}, {0.0f, 0.0f, 0.0f, 0.0f});
            mma_bf16(total, mins, {x.z, 0}, total);
        } else {
            const uint4 rest = load<uint4>(columns.starts[n] + offset + SUMS_AT + 64);
            mma_bf16(total, mins, {x.x, rest.x}, {0.0f, 0.0f, 0.0f, 0.0f});
            mma_bf16(total, mins, {x.y, rest.y}, total);
            mma_bf16(total, mins, {x.z, rest.z}, total);
        }
#pragma unroll
        for (int c = 0; c < 4; ++c) sums[n][c] = fused_multiply_add(factors[c / 2], total[c], sums[n][c]);
    }
}
