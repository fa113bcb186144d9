// Eight weights at a time from a grid of magnitudes, with signs: IQ2_XXS, IQ2_XS, IQ2_S (layouts: ggml-common.h).
// w = ((d * (0.5 + scale)) * 0.25) * (sign * magnitude), a 4-bit scale for each 32 (XXS) or 16 weights.

#include "codebooks.generated"

DEVICE Octet unpack_iq2(uint64_t magnitudes, uint32_t signs, float d, uint32_t scale4) {
    const Bytes8 grid = {static_cast<uint32_t>(magnitudes), static_cast<uint32_t>(magnitudes >> 32)};
    return {negate_bytes(grid, signs), kBias, d * (0.5f + byte_to_float(scale4, 0)) * 0.25f};
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
};
