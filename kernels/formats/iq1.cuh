// Eight weights at a time from a grid of -1, 0, 1, shifted by an eighth: IQ1_S, IQ1_M (layouts: ggml-common.h).
// w = (d * (2 * scale + 1)) * (value + delta), delta = +-0.125 for each 32 (S) or 8 (M) weights.

#include "codebooks.generated"

// `index` into the grid of 2048; an entry holds value + 1 of weights 0..3 in the low nibbles of its bytes and of
// weights 4..7 in the high ones. Codes count eighths: value + delta = (8 * (value + 1) - (8 - 8 * delta)) / 8, and
// moving the exact factor 1/8 to the scale changes no bit.
DEVICE Octet unpack_iq1(uint32_t index, bool negative_delta, float scale) {
    const uint32_t entry = load_table(iq1_grid, index);
    const Bytes8 eighths = {(entry & 0x0F0F0F0Fu) << 3, entry >> 1 & 0x78787878u};
    return {eighths, negative_delta ? 9.0f : 7.0f, scale * 0.125f};
}

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
};
