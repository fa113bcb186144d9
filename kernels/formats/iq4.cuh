// 4-bit codes into a table of 16 values: IQ4_NL, IQ4_XS (layouts: ggml-common.h).
// As in the legacy formats, each 32 weights take 16 bytes: low nibbles, then high ones.

#include "codebooks.generated"

// w = d * value. Rows are 2-byte aligned.
template <>
struct Format<20> {  // IQ4_NL
    struct Block {
        uint16_t d;
        uint8_t qs[16];
    };
    static constexpr int block_size = 32;
    static constexpr int scale_group = 32;
    static constexpr bool is_split = true;

    DEVICE Octet unpack(const uint8_t* block, uint32_t octet) {
        const Block& b = *reinterpret_cast<const Block*>(block);
        const Bytes8 codes = both_nibbles(load_u8x4<2>(b.qs + 4 * octet));
        return {look_up(iq4_nl_values(), codes), kBias, half_to_float(b.d)};
    }

    DEVICE SignedOctet<1, float, 0, true> unpack_integers(const uint8_t* block, uint32_t octet) {
        const Block& b = *reinterpret_cast<const Block*>(block);
        return {look_up_signed(iq4_nl_values(), load_u8x4<2>(b.qs + 4 * octet)), {half_to_float(b.d)}};
    }
};

// w = (d * (scale - 32)) * value, a 6-bit scale for each 32 weights. Rows are 8-byte aligned.
template <>
struct Format<23> {  // IQ4_XS
    struct Block {
        uint16_t d;
        uint16_t scales_h;
        uint8_t scales_l[4];
        uint8_t qs[128];
    };
    static constexpr int block_size = 256;
    static constexpr int scale_group = 32;
    static constexpr bool is_split = true;

    DEVICE Octet unpack(const uint8_t* block, uint32_t octet) {
        const Block& b = *reinterpret_cast<const Block*>(block);
        const uint32_t sub = octet >> 2;
        const Bytes8 codes = both_nibbles(load_u8x4<4>(b.qs + 16 * sub + 4 * (octet & 3)));
        const uint2 head = load<uint2>(block);
        const uint32_t scale6 = (head.y >> 4 * sub & 15) | (head.x >> (16 + 2 * sub) & 3) << 4;
        const float scale = byte_above_two23(scale6, 0) - (kTwo23 + 32.0f);
        return {look_up(iq4_nl_values(), codes), kBias, {scale}, half_to_float(static_cast<uint16_t>(head.x))};
    }

    DEVICE SignedOctet<1, int32_t, 0, true> unpack_integers(const uint8_t* block, uint32_t octet) {
        const Block& b = *reinterpret_cast<const Block*>(block);
        const uint32_t sub = octet >> 2;
        const uint2 head = load<uint2>(block);
        const int32_t scale6 = (head.y >> 4 * sub & 15) | (head.x >> (16 + 2 * sub) & 3) << 4;
        return {look_up_signed(iq4_nl_values(), load_u8x4<4>(b.qs + 16 * sub + 4 * (octet & 3))),
                {scale6 - 32},
                half_to_float(static_cast<uint16_t>(head.x))};
    }
};
