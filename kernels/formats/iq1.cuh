// Eight weights at a time from a grid of -1, 0, 1, shifted by an eighth: IQ1_S, IQ1_M (layouts: ggml-common.h).
// w = (d * (2 * scale + 1)) * (value + delta), delta = +-0.125 for each 32 (S) or 8 (M) weights.

#include "codebooks.generated"
#include "formats/choices.cuh"

// `index` into the grid of 2048; an entry holds value + 1 of weights 0..3 in the low nibbles of its bytes and of
// weights 4..7 in the high ones. Codes count eighths: value + delta = (8 * (value + 1) - (8 - 8 * delta)) / 8, and
// moving the exact factor 1/8 to the scale changes no bit.
DEVICE Octet unpack_iq1(uint32_t index, bool negative_delta, float scale) {
    const uint32_t entry = load_table(iq1_grid, index);
    const Bytes8 eighths = {(entry & 0x0F0F0F0Fu) << 3, entry >> 1 & 0x78787878u};
    return {eighths, negative_delta ? 9.0f : 7.0f, scale * 0.125f};
}

// The fold's addend for (value + 1) * 256 above 1024 and either delta: -(4 + 1 - delta) times the scale.
DEVICE Fold shifted(Fold fold, bool negative_delta) {
    return {fold.factor,
            half2_multiply(fold.factor, negative_delta ? half2_constant(-1312, 0) : half2_constant(-1248, 0))};
}

// An entry as f16: the codes (value + 1) go to bits 8 and 9.
DEVICE void fold_iq1(const Grid& grid, uint32_t index, Fold fold, uint32_t (&pairs)[4]) {
    const uint32_t entry = Grid::at<uint32_t>(grid, index), mask = 0x03000300u;
    pairs[0] = folded(fold, and_or(entry << 8, mask, kAbove1024));
    pairs[1] = folded(fold, and_or(entry, mask, kAbove1024));
    pairs[2] = folded(fold, and_or(entry << 4, mask, kAbove1024));
    pairs[3] = folded(fold, and_or(entry >> 4, mask, kAbove1024));
}

// The codebook for integers: nibble i is value + 1 of weight i.
DEVICE uint32_t iq1_choices(int i) {
    const uint32_t entry = load_table(iq1_grid, i);
    return pack_nibbles({entry, entry >> 4});
}

// Eighths of value + delta, by value + 1.
constexpr uint32_t kEighthsAbove = 0x000901F9u, kEighthsBelow = 0x0007FFF7u;

// Rows are 2-byte aligned.
template <>
struct Format<19> {  // IQ1_S
    struct Block {
        uint16_t d;
        uint8_t qs[32];
        uint16_t qh[8];
    };
    static constexpr int block_size = 256;
    static constexpr int scale_group = 32;
    static constexpr bool is_split = false;

    DEVICE Octet unpack(const uint8_t* block, uint32_t octet) {
        const Block& b = *reinterpret_cast<const Block*>(block);
        const uint32_t qh = b.qh[octet >> 2];
        const uint32_t index = b.qs[octet] | (qh >> 3 * (octet & 3) & 7) << 8;
        return unpack_iq1(index, qh & 0x8000u, half_to_float(b.d) * byte_to_float(2 * (qh >> 12 & 7) + 1, 0));
    }

    struct Strip {
        const uint8_t* indices;
        Grid grid;
        uint32_t high;  // bits 8 to 10 of four indices from bit 0 on, of four more from bit 16 on
        Fold folds[2];
        float d;
    };
    static constexpr int grid_words = 2048, entry_words = 1;

    DEVICE uint32_t grid_word(int i) { return load_table(iq1_grid, i); }

    DEVICE Strip strip(const uint8_t* block, uint32_t t, Grid grid) {
        const Block& b = *reinterpret_cast<const Block*>(block);
        const uint32_t first = b.qh[2 * t], second = b.qh[2 * t + 1];
        const uint32_t odd_scales = (first >> 11 & 0x0Eu) | (second >> 3 & 0x0E00u) | 0x0101u;  // 2 * scale + 1
        return {
            b.qs + 8 * t,
            grid,
            first | second << 16,
            {shifted(fold_by<8>(odd_scales, 0), first & 0x8000u), shifted(fold_by<8>(odd_scales, 1), second & 0x8000u)},
            half_to_float(b.d)};
    }

    DEVICE void fold(const Strip& s, int i, uint32_t (&pairs)[4]) {
        const uint32_t high = s.high >> (16 * (i / 4) + 3 * (i % 4)) & 7;
        fold_iq1(s.grid, s.indices[i] | high << 8, s.folds[i / 4], pairs);
    }

    DEVICE constexpr int32_t strip_weight(int32_t t, int32_t i, int32_t e) { return 64 * t + 8 * i + e; }

    struct Head {
        const uint8_t* indices;  // of lane t
        Grid grid;
        uint32_t shift;  // brings bits 8 to 10 of the lane's index to their place
        float d;
    };
    static constexpr int digit_grid_words = 2048;

    DEVICE uint32_t digit_grid_word(int i) { return iq1_choices(i); }

    DEVICE Head head(const uint8_t* block, uint32_t t, const Grid& grid) {
        return {block + 2 + t, grid, 9 - 3 * t, 0.125f * half_to_float(load<uint16_t>(block))};
    }

    DEVICE SignedOctet<1, int32_t> unpack_integers(const Head& head, const uint8_t* block, uint32_t octet) {
        const uint32_t qh = reinterpret_cast<const Block*>(block)->qh[octet / 4];
        const uint32_t index = and_or(qh << head.shift >> 1, 0x700u, head.indices[octet / 4 * 4]);
        const uint32_t values = qh & 0x8000u ? kEighthsBelow : kEighthsAbove;
        return {chosen(values, 0, Grid::at<uint32_t>(head.grid, index)),
                {static_cast<int32_t>(and_or(qh >> 11, 0x0Eu, 1))},  // 2 * scale + 1
                head.d};
    }
};

// A 3-bit scale for each 16 weights; d is scattered over the top nibbles of the scales. Rows are 8-byte aligned.
template <>
struct Format<29> {  // IQ1_M
    struct Block {
        uint8_t qs[32];
        uint8_t qh[16];
        uint8_t scales[8];
    };
    static constexpr int block_size = 256;
    static constexpr int scale_group = 16;
    static constexpr bool is_split = false;

    DEVICE Octet unpack(const uint8_t* block, uint32_t octet) {
        const Block& b = *reinterpret_cast<const Block*>(block);
        const uint2 scales = load<uint2>(b.scales);
        const uint32_t lower = (scales.x >> 12 & 0xFu) | (scales.x >> 24 & 0xF0u);
        const uint32_t upper = (scales.y >> 12 & 0xFu) | (scales.y >> 24 & 0xF0u);
        const float d = half_to_float(static_cast<uint16_t>(lower | upper << 8));

        const uint32_t sub = octet >> 1, word = sub < 8 ? scales.x : scales.y;
        const uint32_t scale = word >> (16 * (sub >> 2 & 1) + 3 * (sub & 3)) & 7;
        const uint32_t qh = b.qh[sub] >> 4 * (octet & 1);
        return unpack_iq1(b.qs[octet] | (qh & 7) << 8, qh & 8, d * byte_to_float(2 * scale + 1, 0));
    }

    struct Strip {
        const uint8_t* indices;
        Grid grid;
        uint32_t high;  // four bits for each octet: bits 8 to 10 of the index, and the sign of delta
        Fold folds[4];
        float d;
    };
    static constexpr int grid_words = 2048, entry_words = 1;

    DEVICE uint32_t grid_word(int i) { return load_table(iq1_grid, i); }

    DEVICE Strip strip(const uint8_t* block, uint32_t t, Grid grid) {
        const Block& b = *reinterpret_cast<const Block*>(block);
        const uint2 scales = load<uint2>(b.scales);
        const uint32_t lower = (scales.x >> 12 & 0xFu) | (scales.x >> 24 & 0xF0u);
        const uint32_t upper = (scales.y >> 12 & 0xFu) | (scales.y >> 24 & 0xF0u);
        const uint32_t mine = (t < 2 ? scales.x : scales.y) >> 16 * (t & 1);
        const uint32_t odd_scales = (mine << 1 & 0x0Eu) | (mine << 6 & 0x0E00u) | (mine << 11 & 0x0E0000u) |
                                    (mine << 16 & 0x0E000000u) | 0x01010101u;  // 2 * scale + 1
        Strip s = {b.qs + 8 * t,
                   grid,
                   load<uint32_t>(b.qh + 4 * t),
                   {},
                   half_to_float(static_cast<uint16_t>(lower | upper << 8))};
#pragma unroll
        for (int i = 0; i < 4; ++i) s.folds[i] = fold_by<8>(odd_scales, i);
        return s;
    }

    DEVICE void fold(const Strip& s, int i, uint32_t (&pairs)[4]) {
        const uint32_t high = s.high >> 4 * i;
        fold_iq1(s.grid, s.indices[i] | (high & 7) << 8, shifted(s.folds[i / 2], high & 8), pairs);
    }

    DEVICE constexpr int32_t strip_weight(int32_t t, int32_t i, int32_t e) { return 64 * t + 8 * i + e; }
};
