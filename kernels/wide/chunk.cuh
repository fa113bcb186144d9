// 256 weights of 64 rows times a tile's columns, by a warpgroup: each warp unpacks 16 rows, and its sums are of those.
#include "stream/floats.cuh"
#include "wide/columns.cuh"

// Adds products times a factor for each row.
template <int N>
DEVICE void add_products(const float (&products)[N][4], float upper, float lower, float (&sums)[N][4]) {
#pragma unroll
    for (int n = 0; n < N; ++n) {
#pragma unroll
        for (int c = 0; c < 4; ++c) {
            sums[n][c] = fused_multiply_add(c < 2 ? upper : lower, products[n][c], sums[n][c]);
        }
    }
}

// Adds a chunk's sums times the powers of two of its columns.
template <int N>
DEVICE void add_powered(const float (&of_chunk)[N][4], const WideColumns& columns, float (&sums)[N][4]) {
#pragma unroll
    for (int n = 0; n < N; ++n) {
#pragma unroll
        for (int c = 0; c < 2; ++c) {
            const float2 powers = WideColumns::powers(columns, n, c);
#pragma unroll
            for (int row = 0; row < 4; row += 2) {
                sums[n][row + c] = fused_multiply_add(of_chunk[n][row + c] * powers.x, powers.y, sums[n][row + c]);
            }
        }
    }
}

// ---- Codes whose scales go on the sums.

// 32 weights of each row on their way: the products of the parts that have a scale of their own.
template <typename AnyOctet, int N>
struct Step {
    static constexpr int N_SCALES = AnyOctet::n_scales;
    static constexpr bool HAS_OFFSET = AnyOctet::has_offset;
    float products[N_SCALES][N][4], totals[HAS_OFFSET ? N_SCALES : 1][N][4];  // with weights, with ones
    float upper[N_SCALES], lower[N_SCALES], upper_offset[N_SCALES], lower_offset[N_SCALES];

    // `x`: the columns from these weights on.
    DEVICE void start(Step& s, const AnyOctet& upper, const AnyOctet& lower, SharedMatrix& x) {
        constexpr float unit = !IS_SCALED && AnyOctet::are_halves ? kHalfUnit : 1.0f;
        uint32_t high[4], low[4], ones[4];
        to_mma_weights(upper, high);
        to_mma_weights(lower, low);
#pragma unroll
        for (int group = 0; group < N_SCALES; ++group) {
            s.upper[group] = upper.scale[group] * upper.d * unit, s.lower[group] = lower.scale[group] * lower.d * unit;
            if constexpr (HAS_OFFSET) {
                s.upper_offset[group] = upper.offset[group], s.lower_offset[group] = lower.offset[group];
            }
        }
        if constexpr (HAS_OFFSET) {
#pragma unroll
            for (int i = 0; i < 4; ++i)
                ones[i] = keep_in_register(kMmaOne);  // constants would be written behind the fence
        }
        gmma_fence();
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            constexpr int last = N_SCALES - 1;
            const int group = half * last;
            const uint32_t weights[4] = {high[2 * half], low[2 * half], high[2 * half + 1], low[2 * half + 1]};
            if (half == 0 || N_SCALES == 2) gmma_f16<false>(s.products[group], weights, x);
            else gmma_f16<true>(s.products[group], weights, x);
            if constexpr (HAS_OFFSET) {
                if (half == 0 || N_SCALES == 2) gmma_f16<false>(s.totals[group], ones, x);
                else gmma_f16<true>(s.totals[group], ones, x);
            }
            SharedMatrix::advance(x);
        }
        gmma_commit();
    }

    DEVICE void add_to(Step& s, float (&sums)[N][4]) {
#pragma unroll
        for (int group = 0; group < N_SCALES; ++group) {
            gmma_settle(s.products[group]);
            add_products(s.products[group], s.upper[group], s.lower[group], sums);
            if constexpr (HAS_OFFSET) {
                gmma_settle(s.totals[group]);
                add_products(s.totals[group], s.upper_offset[group], s.lower_offset[group], sums);
            }
        }
    }
};

// Up to 256 weights of both rows in steps of 32. Where there are registers for two, a step's products are made while the next one's
// weights are unpacked.
template <int N, typename F = WeightFormat>
DEVICE void multiply_wide_steps(const uint8_t* upper, const uint8_t* lower, const Grid& grid, int32_t n_weights,
                                const WideColumns& columns, float (&sums)[N][4]) {
    using AnyOctet = OctetOf<F>;
    static_assert(F::scale_group * AnyOctet::n_scales >= 32, "a step's octets share its scales");
    static_assert(F::block_size < CHUNK || !AnyOctet::has_offset, "offsets have no factor of the block");
    constexpr int AT_ONCE = N * AnyOctet::n_scales * (1 + 2 * AnyOctet::has_offset) * (1 + IS_SCALED) <= 8 ? 2 : 1;
    const uint32_t t = lane_index() & 3;
    Step<AnyOctet, N> steps[AT_ONCE];
    SharedMatrix x = columns.matrix;
    if (F::block_size == CHUNK || n_weights >= CHUNK) {
        const auto first = Run<F>::of(upper, t, grid), second = Run<F>::of(lower, t, grid);
#pragma unroll
        for (int32_t number = 0; number < CHUNK / 32; ++number) {
            const uint32_t octet = 4 * number | t;
            Step<AnyOctet, N>::start(steps[number % AT_ONCE], Run<F>::unpack(first, octet),
                                     Run<F>::unpack(second, octet), x);
            gmma_wait<AT_ONCE - 1>();
            if (number >= AT_ONCE - 1) Step<AnyOctet, N>::add_to(steps[(number + 1) % AT_ONCE], sums);
        }
        gmma_wait<0>();
        if constexpr (AT_ONCE == 2) Step<AnyOctet, N>::add_to(steps[1], sums);
    } else if constexpr (F::block_size < CHUNK) {
#pragma unroll 1
        for (int32_t number = 0; 32 * number < n_weights; ++number) {
            const uint32_t octet = 4 * number | t;
            Step<AnyOctet, N>::start(steps[0], unpack_operands<F>(upper, octet), unpack_operands<F>(lower, octet), x);
            gmma_wait<0>();
            Step<AnyOctet, N>::add_to(steps[0], sums);
        }
    }
}

// ---- Strips, which have scales folded in.

template <int N, typename F = WeightFormat>
DEVICE void multiply_wide_strips(const uint8_t* upper, const uint8_t* lower, const Grid& grid, int32_t n_weights,
                                 const WideColumns& columns, float (&sums)[N][4]) {
    static_assert(MIN_PAIRS == min_pairs<typename F::Strip>(0), "MMVQ_MIN_GROUPS is not the format's");
    const uint32_t t = lane_index() & 3;
    uint32_t at = 0;
    if constexpr (F::block_size < CHUNK) {  // lanes past the end repeat the last block, times zero
        static_assert(F::block_size == CHUNK / 4, "a strip is a block");
        at = min(static_cast<int32_t>(t), n_weights / F::block_size - 1) * MMVQ_TYPE_SIZE;
    }
    const auto first = F::strip(upper + at, t, grid), second = F::strip(lower + at, t, grid);
    float products[N][4];
    if constexpr (MIN_PAIRS > 0) {
        constexpr int last = MIN_PAIRS - 1;
        const uint32_t mins[4] = {first.mins[0], second.mins[0], first.mins[last], second.mins[last]};
        SharedMatrix sums_of_x = SharedMatrix::at(columns.matrix, GROUP_SUMS_AT);
        gmma_fence();
        gmma_bf16<false>(products, mins, sums_of_x);
        SharedMatrix::advance(sums_of_x);
        gmma_bf16<true>(products, mins, sums_of_x);
        SharedMatrix::advance(sums_of_x);
        if constexpr (MIN_PAIRS == 2) gmma_bf16<true>(products, mins, sums_of_x);
        gmma_commit();
    }
    SharedMatrix x = columns.matrix;
#pragma unroll
    for (int32_t i = 0; i < 8; ++i) {
        uint32_t high[4], low[4];
        F::fold(first, i, high);
        F::fold(second, i, low);
        if constexpr (MIN_PAIRS > 0) {
            if (i == 0) {
                gmma_wait<0>();
                gmma_settle(products);
                add_products(products, -first.dmin, -second.dmin, sums);
            }
        }
        gmma_fence();
        if (i == 0) gmma_f16<false>(products, {high[0], low[0], high[1], low[1]}, x);
        else gmma_f16<true>(products, {high[0], low[0], high[1], low[1]}, x);
        SharedMatrix::advance(x);
        gmma_f16<true>(products, {high[2], low[2], high[3], low[3]}, x);
        SharedMatrix::advance(x);
        gmma_commit();
        gmma_wait<1>();  // weights of more octets would take more registers
    }
    gmma_wait<0>();
    gmma_settle(products);
    add_products(products, first.d, second.d, sums);
}

// ---- Plain floats.

template <bool Whole, int N, typename F = WeightFormat>
DEVICE void multiply_wide_floats(const uint8_t* upper, const uint8_t* lower, int32_t n_weights,
                                 const WideColumns& columns, float (&sums)[N][4]) {
    const uint8_t* const rows[2] = {upper, lower};
    const uint32_t t = lane_index() & 3;
    SharedMatrix x = columns.matrix;
#pragma unroll 1
    for (int32_t first = 0; first < 8; first += FLOAT_OCTETS) {
        RowPowers powers[2];
#pragma unroll
        for (int row = 0; row < 2; ++row) {
            powers[row] = RowPowers::of(largest_weight<Whole, F>(rows[row], first, t, n_weights));
        }
        float products[FLOAT_PARTS][N][4];
#pragma unroll
        for (int i = 0; i < FLOAT_OCTETS; ++i) {
            uint32_t a[2][FLOAT_PARTS][4];
#pragma unroll
            for (int row = 0; row < 2; ++row) {
                float w[8];
                load_floats<Whole, F>(rows[row], 4 * (first + i) + t, n_weights, w);
                to_half_parts(w, powers[row].up, a[row]);
            }
            gmma_fence();
#pragma unroll
            for (int half = 0; half < 2; ++half) {
#pragma unroll
                for (int part = 0; part < FLOAT_PARTS; ++part) {
                    const uint32_t weights[4] = {a[0][part][2 * half], a[1][part][2 * half], a[0][part][2 * half + 1],
                                                 a[1][part][2 * half + 1]};
                    if (i + half == 0) gmma_f16<false>(products[part], weights, x);
                    else gmma_f16<true>(products[part], weights, x);
                }
                SharedMatrix::advance(x);
            }
            gmma_commit();
        }
        gmma_wait<0>();
#pragma unroll
        for (int part = 0; part < FLOAT_PARTS; ++part) gmma_settle(products[part]);
#pragma unroll
        for (int n = 0; n < N; ++n) {
#pragma unroll
            for (int c = 0; c < 4; ++c) {
                float total = products[0][n][c];
                if constexpr (FLOAT_PARTS == 2) {
                    total = fused_multiply_add(products[FLOAT_PARTS - 1][n][c], 1.0f / kLowFloat, total);
                }
                const float2 of_column = WideColumns::powers(columns, n, c % 2);
                const RowPowers& of_row = powers[c / 2];
                sums[n][c] = fused_multiply_add(total * (of_row.down[0] * of_column.x), of_row.down[1] * of_column.y,
                                                sums[n][c]);
            }
        }
    }
}

// Up to 256 weights of both rows of a lane times the tile's first N groups of columns, added to `sums`.
template <int N>
DEVICE void multiply_wide_chunk(const uint8_t* upper, const uint8_t* lower, const Grid& grid, int32_t n_weights,
                                const WideColumns& columns, float (&sums)[N][4]) {
    if constexpr (IS_FLOAT) {
        if (n_weights >= CHUNK) multiply_wide_floats<true>(upper, lower, n_weights, columns, sums);
        else multiply_wide_floats<false>(upper, lower, n_weights, columns, sums);
    } else if constexpr (IS_SCALED) {
        float of_chunk[N][4] = {};
        if constexpr (IS_FOLDED) multiply_wide_strips(upper, lower, grid, n_weights, columns, of_chunk);
        else multiply_wide_steps(upper, lower, grid, n_weights, columns, of_chunk);
        add_powered(of_chunk, columns, sums);
    } else if constexpr (IS_FOLDED) {
        multiply_wide_strips(upper, lower, grid, n_weights, columns, sums);
    } else {
        multiply_wide_steps(upper, lower, grid, n_weights, columns, sums);
    }
}
