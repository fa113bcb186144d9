// Four weights at a time from a grid of magnitudes, with signs: IQ3_XXS, IQ3_S (layouts: ggml-common.h).

#include "codebooks.generated"
#include "formats/choices.cuh"

// Two entries as an octet of f16, with scale and signs.
DEVICE void fold_iq3(uint32_t low, uint32_t high, Fold fold, uint32_t signs, uint32_t (&pairs)[4]) {
    uint32_t first[2], second[2];
    spread_bytes(low, first);
    spread_bytes(high, second);
#pragma unroll
    for (int i = 0; i < 2; ++i) {
        pairs[i] = folded(fold, first[i]);
        pairs[2 + i] = folded(fold, second[i]);
    }
    negate_halves(pairs, signs);
}

// Magnitudes, negated where bit 2 of a weight's nibble is set.
DEVICE Bytes8 negated(Bytes8 magnitudes, uint32_t signs) {
    const Bytes8 masks = chosen(0, 0xFFFFFFFFu, signs);
    return {(magnitudes.lo ^ masks.lo) + (masks.lo & 0x01010101u),
            (magnitudes.hi ^ masks.hi) + (masks.hi & 0x01010101u)};
}

// w = ((d * (0.5 + scale)) * 0.5) * (sign * magnitude); four times seven signs and the scale in one word for each 32
// weights. Rows are 2-byte aligned.
template <>
struct Format<18> {  // IQ3_XXS
    struct Block {
        uint16_t d;
        uint8_t qs[64];
        uint8_t signs_and_scales[32];
    };
    static constexpr int block_size = 256;
    static constexpr int scale_group = 32;
    static constexpr bool is_split = false;

    DEVICE Octet unpack(const uint8_t* block, uint32_t octet) {
        const Block& b = *reinterpret_cast<const Block*>(block);
        const uint32_t indices = load<uint16_t>(b.qs + 2 * octet);
        const Bytes8 grid = {load_table(iq3_xxs_grid, indices & 255), load_table(iq3_xxs_grid, indices >> 8)};
        const uint32_t word = load_u8x4<2>(b.signs_and_scales + 4 * (octet >> 2));
        const uint32_t signs = complete_signs(word >> 7 * (octet & 3) & 127);
        return {negate_bytes(grid, signs), kBias, half_to_float(b.d) * (0.5f + byte_to_float(word >> 28, 0)) * 0.5f};
    }

    struct Strip {
        const uint8_t* indices;
        Grid grid;
        uint32_t words[2];
        Fold folds[2];
        float d;
    };
    static constexpr int grid_words = 256, entry_words = 1;

    // An entry of four weights without its bias.
    DEVICE uint32_t grid_word(int i) { return load_table(iq3_xxs_grid, i) ^ 0x80808080u; }

    DEVICE Strip strip(const uint8_t* block, uint32_t t, Grid grid) {
        const Block& b = *reinterpret_cast<const Block*>(block);
        const uint8_t* const words = b.signs_and_scales + 8 * t;
        const uint32_t first = load_u8x4<2>(words), second = load_u8x4<2>(words + 4);
        const uint32_t odd_scales = (first >> 27 & 0x1Eu) | (second >> 19 & 0x1E00u) | 0x0101u;  // 2 * scale + 1
        return {b.qs + 16 * t,
                grid,
                {first, second},
                {fold_by<0>(odd_scales, 0), fold_by<0>(odd_scales, 1)},
                0.25f * half_to_float(b.d)};
    }

    DEVICE void fold(const Strip& s, int i, uint32_t (&pairs)[4]) {
        const uint32_t indices = load<uint16_t>(s.indices + 2 * i);
        const uint32_t signs = complete_signs(s.words[i / 4] >> 7 * (i % 4) & 127);
        fold_iq3(Grid::at<uint32_t>(s.grid, indices & 255), Grid::at<uint32_t>(s.grid, indices >> 8), s.folds[i / 4],
                 signs, pairs);
    }

    DEVICE constexpr int32_t strip_weight(int32_t t, int32_t i, int32_t e) { return 64 * t + 8 * i + e; }

    struct Head {
        const uint8_t* indices;  // of lane t
        Grid grid, signs;
        uint32_t shift;
        float d;
    };
    static constexpr int entries = grid_words / entry_words, digit_grid_words = entries + 128;

    DEVICE uint32_t digit_grid_word(int i) {
        return i < entries ? grid_word(i) : bits_in_nibbles(complete_signs(i - entries));
    }

    DEVICE Head head(const uint8_t* block, uint32_t t, const Grid& grid) {
        const float d = 0.25f * half_to_float(load<uint16_t>(block));
        return {block + 2 + 2 * t, grid, Grid::from(grid, entries), 7 * t, d};
    }

    DEVICE SignedOctet<1, int32_t> unpack_integers(const Head& head, const uint8_t* block, uint32_t octet) {
        const Block& b = *reinterpret_cast<const Block*>(block);
        const uint32_t word = load_u8x4<2>(b.signs_and_scales + octet / 4 * 4);
        const uint32_t indices = load<uint16_t>(head.indices + octet / 4 * 8);
        const Bytes8 magnitudes = {Grid::at<uint32_t>(head.grid, indices & 255),
                                   Grid::at<uint32_t>(head.grid, indices >> 8)};
        return {negated(magnitudes, Grid::at<uint32_t>(head.signs, word >> head.shift & 127)),
                {static_cast<int32_t>(word >> 27 | 1)},  // 2 * scale + 1
                head.d};
    }
};

// w = (d * (1 + 2 * scale)) * (sign * magnitude); bit 8 of the indices in qh. Rows are 2-byte aligned.
template <>
struct Format<21> {  // IQ3_S
    struct Block {
        uint16_t d;
        uint8_t qs[64];
        uint8_t qh[8];
        uint8_t signs[32];
        uint8_t scales[4];
    };
    static constexpr int block_size = 256;
    static constexpr int scale_group = 32;
    static constexpr bool is_split = false;

    DEVICE Octet unpack(const uint8_t* block, uint32_t octet) {
        const Block& b = *reinterpret_cast<const Block*>(block);
        const uint32_t low = load<uint16_t>(b.qs + 2 * octet), high = b.qh[octet >> 2] >> 2 * (octet & 3);
        const Bytes8 grid = {load_table(iq3_s_grid, (low & 255) | (high & 1) << 8),
                             load_table(iq3_s_grid, low >> 8 | (high & 2) << 7)};
        const uint32_t scale = b.scales[octet >> 3] >> (octet & 4) & 15;
        return {negate_bytes(grid, b.signs[octet]), kBias, half_to_float(b.d) * byte_to_float(1 + 2 * scale, 0)};
    }

    struct Strip {
        const uint8_t *indices, *signs;
        Grid grid;
        uint32_t high;  // the ninth bits of the indices, in order
        Fold folds[2];
        float d;
    };
    static constexpr int grid_words = 512, entry_words = 1;

    // An entry of four weights without its bias.
    DEVICE uint32_t grid_word(int i) { return load_table(iq3_s_grid, i) ^ 0x80808080u; }

    DEVICE Strip strip(const uint8_t* block, uint32_t t, Grid grid) {
        const Block& b = *reinterpret_cast<const Block*>(block);
        const uint32_t both = b.scales[t], odd_scales = (both << 1 & 0x1Eu) | (both << 5 & 0x1E00u) | 0x0101u;
        return {b.qs + 16 * t,
                b.signs + 8 * t,
                grid,
                load<uint16_t>(b.qh + 2 * t),
                {fold_by<0>(odd_scales, 0), fold_by<0>(odd_scales, 1)},
                half_to_float(b.d)};
    }

    DEVICE void fold(const Strip& s, int i, uint32_t (&pairs)[4]) {
        const uint32_t low = load<uint16_t>(s.indices + 2 * i), high = s.high >> 2 * i;
        fold_iq3(Grid::at<uint32_t>(s.grid, (low & 255) | (high & 1) << 8),
                 Grid::at<uint32_t>(s.grid, low >> 8 | (high & 2) << 7), s.folds[i / 4], s.signs[i], pairs);
    }

    DEVICE constexpr int32_t strip_weight(int32_t t, int32_t i, int32_t e) { return 64 * t + 8 * i + e; }

    struct Head {
        const uint8_t *indices, *octet_signs;  // of lane t
        Grid grid, signs;
        uint32_t shift;      // brings the ninth bit of the lane's first index to its place
        uint32_t scales[2];  // of even and odd groups
        float d;
    };
    static constexpr int entries = grid_words / entry_words, digit_grid_words = entries + 256;

    DEVICE uint32_t digit_grid_word(int i) { return i < entries ? grid_word(i) : bits_in_nibbles(i - entries); }

    DEVICE Head head(const uint8_t* block, uint32_t t, const Grid& grid) {
        const Block& b = *reinterpret_cast<const Block*>(block);
        const uint32_t scales = load_u8x4<2>(b.scales);
        return {b.qs + 2 * t,
                b.signs + t,
                grid,
                Grid::from(grid, entries),
                8 - 2 * t,
                {odd_of_low(scales), odd_of_high(scales)},
                half_to_float(b.d)};
    }

    DEVICE SignedOctet<1, int32_t> unpack_integers(const Head& head, const uint8_t* block, uint32_t octet) {
        const uint32_t sub = octet / 4, low = load<uint16_t>(head.indices + 8 * sub);
        const uint32_t high = static_cast<uint32_t>(reinterpret_cast<const Block*>(block)->qh[sub]) << head.shift;
        const Bytes8 magnitudes = {Grid::at<uint32_t>(head.grid, and_or(high, 0x100u, low & 255)),
                                   Grid::at<uint32_t>(head.grid, and_or(high >> 1, 0x100u, low >> 8))};
        return {negated(magnitudes, Grid::at<uint32_t>(head.signs, head.octet_signs[4 * sub])),
                {byte_at(head.scales[sub % 2], sub / 2)},
                head.d};
    }
};
