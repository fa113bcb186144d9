// 256 weights of 16 rows times a tile's columns, by a warp.
#include "stream/floats.cuh"
#include "stream/halves.cuh"
#include "stream/integers.cuh"

// One step: 32 weights of both rows; `offset` is where the chunk starts in the columns.
template <typename AnyOctet, typename Sum, int N>
DEVICE void multiply_one_step(const AnyOctet& upper, const AnyOctet& lower, const Columns& columns, int32_t offset,
                              int32_t step, Sum (&sums)[N][4]) {
    if constexpr (IS_INTEGER) multiply_integers(upper, lower, columns, offset + step_place(step), sums);
    else multiply_step(upper, lower, columns, offset + step_place(step), sums);
}

// Up to 256 weights of both rows in such steps, without the factor of a block of 256.
template <typename F, typename Sum, int N>
DEVICE void multiply_all_steps(const uint8_t* upper, const uint8_t* lower, const Grid& grid, int32_t n_weights,
                               const Columns& columns, int32_t offset, Sum (&sums)[N][4]) {
    const uint32_t t = lane_index() & 3;
    if (F::block_size == CHUNK || n_weights >= CHUNK) {
        const auto first = Run<F>::of(upper, t, grid), second = Run<F>::of(lower, t, grid);
#pragma unroll N_TILES == 1 ? 8 : N_TILES == 2 ? 4 : 1  // wide tiles have no registers for more
        for (int32_t step = 0; step < CHUNK / 32; ++step) {
            const uint32_t octet = 4 * step | t;
            multiply_one_step(Run<F>::unpack(first, octet), Run<F>::unpack(second, octet), columns, offset, step, sums);
        }
    } else if constexpr (F::block_size < CHUNK) {
#pragma unroll 1
        for (int32_t step = 0; 32 * step < n_weights; ++step) {
            const uint32_t octet = 4 * step | t;
            multiply_one_step(unpack_operands<F>(upper, octet), unpack_operands<F>(lower, octet), columns, offset, step,
                              sums);
        }
    }
}

// The same with that factor.
template <int N, typename F = WeightFormat>
DEVICE void multiply_steps(const uint8_t* upper, const uint8_t* lower, const Grid& grid, int32_t n_weights,
                           const Columns& columns, int32_t offset, float (&sums)[N][4]) {
    using AnyOctet = OctetOf<F>;
    static_assert(CHUNK % F::block_size == 0 && F::scale_group * AnyOctet::n_scales >= 32,
                  "a step's octets share its scales");
    if constexpr (has_integer_scales<AnyOctet>()) {
        int32_t totals[N][4] = {};
        multiply_all_steps<F>(upper, lower, grid, n_weights, columns, offset, totals);
#pragma unroll
        for (int n = 0; n < N; ++n) {
#pragma unroll
            for (int c = 0; c < 4; ++c) sums[n][c] = int_to_float(totals[n][c]);
        }
    } else {
        multiply_all_steps<F>(upper, lower, grid, n_weights, columns, offset, sums);
    }
    if constexpr (F::block_size == CHUNK) {
        static_assert(!AnyOctet::has_offset, "offsets have no factor of the block");
        const uint32_t t = lane_index() & 3;
        const float factors[2] = {Run<F>::unpack(Run<F>::of(upper, t, grid), t).d,
                                  Run<F>::unpack(Run<F>::of(lower, t, grid), t).d};
#pragma unroll
        for (int n = 0; n < N; ++n) {
#pragma unroll
            for (int c = 0; c < 4; ++c) sums[n][c] *= factors[c / 2];
        }
    }
}

// What the lane's digits of mma column 2 * (lane % 4) + c count in the first digit of their dispatch.
DEVICE float digit_unit(int c) {
    if (c == 1) return 1.0f / kLowPart;
    return lane_index() % 2 == 0 ? 1.0f : 1.0f / (kLowPart * kLowPart);
}

// Up to 256 weights of both rows times the first 8 * N mma columns, added to `sums`.
template <int N>
DEVICE void multiply_chunk(const uint8_t* upper, const uint8_t* lower, const Grid& grid, int32_t n_weights,
                           const Columns& columns, int32_t offset, float (&sums)[N][4]) {
    if constexpr (IS_FLOAT) {
        if (n_weights >= CHUNK) return multiply_floats<true>(upper, lower, n_weights, columns, offset, sums);
        return multiply_floats<false>(upper, lower, n_weights, columns, offset, sums);
    }
    float of_chunk[N][4] = {};
    if constexpr (IS_FOLDED) multiply_strips(upper, lower, grid, n_weights, columns, offset, of_chunk);
    else if constexpr (HAS_QUARTERS) multiply_quarters(upper, lower, columns, offset, of_chunk);
    else if constexpr (!IS_PLAIN && !IS_FLOAT) multiply_steps(upper, lower, grid, n_weights, columns, offset, of_chunk);
#pragma unroll
    for (int n = 0; n < N; ++n) {
#pragma unroll
        for (int c = 0; c < 2; ++c) {
            float2 powers = {are_halves() ? kHalfUnit : 1.0f, 1.0f};
            if constexpr (IS_SCALED) powers = Columns::powers(columns, n, c, offset);
            if constexpr (IS_INTEGER) powers.x *= digit_unit(c);
#pragma unroll
            for (int row = 0; row < 4; row += 2) {
                sums[n][row + c] = fused_multiply_add(of_chunk[n][row + c] * powers.x, powers.y, sums[n][row + c]);
            }
        }
    }
}
