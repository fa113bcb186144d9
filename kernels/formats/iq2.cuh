// Eight weights at a time from a grid of magnitudes, with signs: IQ2_XXS, IQ2_XS, IQ2_S (layouts: ggml-common.h).
// w = ((d * (0.5 + scale)) * 0.25) * (sign * magnitude), a 4-bit scale for each 32 (XXS) or 16 weights.

#include "codebooks.generated"
#include "formats/choices.cuh"

DEVICE Octet unpack_iq2(uint64_t magnitudes, uint32_t signs, float d, uint32_t scale4) {
    const Bytes8 grid = {static_cast<uint32_t>(magnitudes), static_cast<uint32_t>(magnitudes >> 32)};
    return {negate_bytes(grid, signs), kBias, d * (0.5f + byte_to_float(scale4, 0)) * 0.25f};
}

// The grids without their bias, in the words that strips look up: an entry is an octet.
DEVICE uint32_t iq2_grid_word(const uint64_t* grid, int i) {
    return static_cast<uint32_t>(load_table(grid, i / 2) >> 32 * (i % 2)) ^ 0x80808080u;
}

// An entry as f16, with scale and signs.
DEVICE void fold_iq2(const Grid& grid, uint32_t index, Fold fold, uint32_t signs, uint32_t (&pairs)[4]) {
    const uint2 entry = Grid::at<uint2>(grid, index);
    uint32_t first[2], second[2];
    spread_bytes(entry.x, first);
    spread_bytes(entry.y, second);
#pragma unroll
    for (int i = 0; i < 2; ++i) {
        pairs[i] = folded(fold, first[i]);
        pairs[2 + i] = folded(fold, second[i]);
    }
    negate_halves(pairs, signs);
}

// Twice each nibble of `four` and one more: the integer scales of a strip.
DEVICE void fold_nibbles(uint32_t four, Fold (&folds)[4]) {
    const uint32_t even = (four << 1 & 0x001Eu) | (four << 1 & 0x1E00u) | 0x0101u;
    const uint32_t odd = (four >> 3 & 0x001Eu) | (four >> 3 & 0x1E00u) | 0x0101u;
    folds[0] = fold_by<0>(even, 0);
    folds[1] = fold_by<0>(odd, 0);
    folds[2] = fold_by<0>(even, 1);
    folds[3] = fold_by<0>(odd, 1);
}

// The codebook for integers: nibble i says which of the magnitudes weight i has.
DEVICE uint32_t iq2_choices(const uint64_t* grid, int i) {
    static_assert((iq2_magnitudes() >> 4 & 0x0F0F0F0Fu) == 0x00020100u, "a magnitude's high nibble is its place");
    return pack_nibbles({iq2_grid_word(grid, 2 * i) >> 4, iq2_grid_word(grid, 2 * i + 1) >> 4});
}

// What a lane keeps of a block for integers: the codebook is that of choices, and behind it that of signs.
struct ChoiceHead {
    const uint8_t* mine;  // where the indices of the lane's octets begin
    Grid grid, signs;
    uint32_t shift;      // of the lane's signs (XXS) or of the top bits of its indices (S)
    uint32_t scales[4];  // of 16 weights: those of low nibbles, of groups of 32 from 0 and from 4 on; of high ones
    float d;
};

// An octet as signed bytes: a magnitude or, where bit 2 of its nibble is set, its negative.
DEVICE Bytes8 chosen_iq2(uint32_t choices) { return chosen(iq2_magnitudes(), iq2_negatives(), choices); }

// Scales of 16 weights: eight bytes of two nibbles each.
DEVICE void keep_scales(const uint8_t* scales, ChoiceHead& head) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        const uint32_t four = load_u8x4<2>(scales + 4 * half);
        head.scales[half] = odd_of_low(four);
        head.scales[2 + half] = odd_of_high(four);
    }
}

DEVICE PairedOctet paired_iq2(const ChoiceHead& head, uint32_t choices, uint32_t sub) {
    PairedOctet octet = {};
    octet.codes = chosen_iq2(choices);
    octet.scale[0] = byte_at(head.scales[sub / 4], sub % 4);
    octet.scale[1] = byte_at(head.scales[2 + sub / 4], sub % 4);
    octet.d = head.d;
    return octet;
}

// Each 32 weights: four grid indices, then four times seven signs and the scale in one word. Rows are 2-byte aligned.
template <>
struct Format<16> {  // IQ2_XXS
    struct Block {
        uint16_t d;
        uint8_t qs[64];
    };
    static constexpr int block_size = 256;
    static constexpr int scale_group = 32;
    static constexpr bool is_split = false;

    DEVICE Octet unpack(const uint8_t* block, uint32_t octet) {
        const Block& b = *reinterpret_cast<const Block*>(block);
        const uint8_t* sub = b.qs + 8 * (octet >> 2);
        const uint32_t signs_and_scale = load_u8x4<2>(sub + 4);
        const uint32_t signs = complete_signs(signs_and_scale >> 7 * (octet & 3) & 127);
        return unpack_iq2(load_table(iq2_xxs_grid, sub[octet & 3]), signs, half_to_float(b.d), signs_and_scale >> 28);
    }

    struct Strip {
        const uint8_t* subs;
        Grid grid;
        uint32_t words[2];
        Fold folds[2];
        float d;
    };
    static constexpr int grid_words = 512, entry_words = 2;

    DEVICE uint32_t grid_word(int i) { return iq2_grid_word(iq2_xxs_grid, i); }

    DEVICE Strip strip(const uint8_t* block, uint32_t t, Grid grid) {
        const Block& b = *reinterpret_cast<const Block*>(block);
        const uint8_t* const subs = b.qs + 16 * t;
        const uint32_t first = load_u8x4<2>(subs + 4), second = load_u8x4<2>(subs + 12);
        const uint32_t odd_scales = (first >> 27 & 0x1Eu) | (second >> 19 & 0x1E00u) | 0x0101u;  // 2 * scale + 1
        return {subs,
                grid,
                {first, second},
                {fold_by<0>(odd_scales, 0), fold_by<0>(odd_scales, 1)},
                0.125f * half_to_float(b.d)};
    }

    DEVICE void fold(const Strip& s, int i, uint32_t (&pairs)[4]) {
        const uint32_t signs = complete_signs(s.words[i / 4] >> 7 * (i % 4) & 127);
        fold_iq2(s.grid, s.subs[8 * (i / 4) + i % 4], s.folds[i / 4], signs, pairs);
    }

    DEVICE constexpr int32_t strip_weight(int32_t t, int32_t i, int32_t e) { return 64 * t + 8 * i + e; }

    using Head = ChoiceHead;
    static constexpr int entries = grid_words / entry_words, digit_grid_words = entries + 128;

    DEVICE uint32_t digit_grid_word(int i) {
        return i < entries ? iq2_choices(iq2_xxs_grid, i) : bits_in_nibbles(complete_signs(i - entries));
    }

    DEVICE Head head(const uint8_t* block, uint32_t t, const Grid& grid) {
        return {block + t, grid, Grid::from(grid, entries), 7 * t, {}, 0.125f * half_to_float(load<uint16_t>(block))};
    }

    DEVICE SignedOctet<1, int32_t> unpack_integers(const Head& head, const uint8_t* block, uint32_t octet) {
        const uint32_t sub = 2 + octet / 4 * 8, word = load_u8x4<2>(block + sub + 4);
        const uint32_t magnitudes = Grid::at<uint32_t>(head.grid, head.mine[sub]);
        const uint32_t choices = magnitudes | Grid::at<uint32_t>(head.signs, word >> head.shift & 127);
        return {chosen_iq2(choices), {static_cast<int32_t>(word >> 27 | 1)}, head.d};  // 2 * scale + 1
    }
};

// Nine bits of grid index and seven signs in one u16 for each eight weights. Rows are 2-byte aligned.
template <>
struct Format<17> {  // IQ2_XS
    struct Block {
        uint16_t d;
        uint16_t qs[32];
        uint8_t scales[8];
    };
    static constexpr int block_size = 256;
    static constexpr int scale_group = 16;
    static constexpr bool is_split = false;

    DEVICE Octet unpack(const uint8_t* block, uint32_t octet) {
        const Block& b = *reinterpret_cast<const Block*>(block);
        const uint32_t code = b.qs[octet];
        const uint32_t scale = b.scales[octet >> 2] >> 2 * (octet & 2) & 15;
        return unpack_iq2(load_table(iq2_xs_grid, code & 511), complete_signs(code >> 9), half_to_float(b.d), scale);
    }

    struct Strip {
        const uint8_t* codes;
        Grid grid;
        Fold folds[4];
        float d;
    };
    static constexpr int grid_words = 1024, entry_words = 2;

    DEVICE uint32_t grid_word(int i) { return iq2_grid_word(iq2_xs_grid, i); }

    DEVICE Strip strip(const uint8_t* block, uint32_t t, Grid grid) {
        const Block& b = *reinterpret_cast<const Block*>(block);
        Strip s = {block + 2 + 16 * t, grid, {}, 0.125f * half_to_float(b.d)};
        fold_nibbles(load<uint16_t>(b.scales + 2 * t), s.folds);
        return s;
    }

    DEVICE void fold(const Strip& s, int i, uint32_t (&pairs)[4]) {
        const uint32_t code = load<uint16_t>(s.codes + 2 * i);
        fold_iq2(s.grid, code & 511, s.folds[i / 2], complete_signs(code >> 9), pairs);
    }

    DEVICE constexpr int32_t strip_weight(int32_t t, int32_t i, int32_t e) { return 64 * t + 8 * i + e; }

    using Head = ChoiceHead;
    static constexpr int entries = grid_words / entry_words, digit_grid_words = entries + 128;

    DEVICE uint32_t digit_grid_word(int i) {
        return i < entries ? iq2_choices(iq2_xs_grid, i) : bits_in_nibbles(complete_signs(i - entries));
    }

    DEVICE Head head(const uint8_t* block, uint32_t t, const Grid& grid) {
        const Block& b = *reinterpret_cast<const Block*>(block);
        Head head = {block + 2 + 2 * t, grid, Grid::from(grid, entries), 0, {}, 0.125f * half_to_float(b.d)};
        keep_scales(b.scales, head);
        return head;
    }

    DEVICE PairedOctet unpack_integers(const Head& head, const uint8_t*, uint32_t octet) {
        const uint32_t code = load<uint16_t>(head.mine + octet / 4 * 8);
        const uint32_t magnitudes = Grid::at<uint32_t>(head.grid, code & 511);
        return paired_iq2(head, magnitudes | Grid::at<uint32_t>(head.signs, code >> 9), octet / 4);
    }
};

// Ten bits of grid index, eight signs stored apart. Rows are 2-byte aligned.
template <>
struct Format<22> {  // IQ2_S
    struct Block {
        uint16_t d;
        uint8_t qs[32];
        uint8_t signs[32];
        uint8_t qh[8];
        uint8_t scales[8];
    };
    static constexpr int block_size = 256;
    static constexpr int scale_group = 16;
    static constexpr bool is_split = false;

    DEVICE Octet unpack(const uint8_t* block, uint32_t octet) {
        const Block& b = *reinterpret_cast<const Block*>(block);
        const uint32_t index = b.qs[octet] | (b.qh[octet >> 2] >> 2 * (octet & 3) & 3) << 8;
        const uint32_t scale = b.scales[octet >> 2] >> 2 * (octet & 2) & 15;
        return unpack_iq2(load_table(iq2_s_grid, index), b.signs[octet], half_to_float(b.d), scale);
    }

    struct Strip {
        const uint8_t *indices, *signs;
        Grid grid;
        uint32_t high;  // bits 8 and 9 of the indices, in order
        Fold folds[4];
        float d;
    };
    static constexpr int grid_words = 2048, entry_words = 2;

    DEVICE uint32_t grid_word(int i) { return iq2_grid_word(iq2_s_grid, i); }

    DEVICE Strip strip(const uint8_t* block, uint32_t t, Grid grid) {
        const Block& b = *reinterpret_cast<const Block*>(block);
        Strip s = {b.qs + 8 * t, b.signs + 8 * t, grid, load<uint16_t>(b.qh + 2 * t), {}, 0.125f * half_to_float(b.d)};
        fold_nibbles(load<uint16_t>(b.scales + 2 * t), s.folds);
        return s;
    }

    DEVICE void fold(const Strip& s, int i, uint32_t (&pairs)[4]) {
        const uint32_t index = s.indices[i] | (s.high >> 2 * i & 3) << 8;
        fold_iq2(s.grid, index, s.folds[i / 2], s.signs[i], pairs);
    }

    DEVICE constexpr int32_t strip_weight(int32_t t, int32_t i, int32_t e) { return 64 * t + 8 * i + e; }

    using Head = ChoiceHead;
    static constexpr int entries = grid_words / entry_words, digit_grid_words = entries + 256;

    DEVICE uint32_t digit_grid_word(int i) {
        return i < entries ? iq2_choices(iq2_s_grid, i) : bits_in_nibbles(i - entries);
    }

    DEVICE Head head(const uint8_t* block, uint32_t t, const Grid& grid) {
        const Block& b = *reinterpret_cast<const Block*>(block);
        Head head = {block + 2 + t, grid, Grid::from(grid, entries), 8 - 2 * t, {}, 0.125f * half_to_float(b.d)};
        keep_scales(b.scales, head);
        return head;
    }

    DEVICE PairedOctet unpack_integers(const Head& head, const uint8_t* block, uint32_t octet) {
        const Block& b = *reinterpret_cast<const Block*>(block);
        const uint32_t sub = octet / 4;
        const uint32_t index = and_or(static_cast<uint32_t>(b.qh[sub]) << head.shift, 0x300u, head.mine[4 * sub]);
        const uint32_t signs = Grid::at<uint32_t>(head.signs, head.mine[32 + 4 * sub]);
        return paired_iq2(head, Grid::at<uint32_t>(head.grid, index) | signs, sub);
    }
};
