// Four weights at a time from a grid of magnitudes, with signs: IQ3_XXS, IQ3_S (layouts: ggml-common.h).

#include "codebooks.generated"

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
};
