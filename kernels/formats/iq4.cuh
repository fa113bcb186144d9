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

    DEVICE SummedOctet<float> unpack_integers(const uint8_t* block, uint32_t octet) {
        const Block& b = *reinterpret_cast<const Block*>(block);
        SummedOctet<float> sum = {{{}, {half_to_float(b.d)}}, {}};
        look_up_sum<false>(iq4_nl_values(), load_u8x4<2>(b.qs + 4 * octet), sum.codes, sum.rest);
        return sum;
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

    // The signed scales of groups 0, 2, 4, 6 and 1, 3, 5, 7 as bytes, and the block's own.
    struct Head {
        uint32_t scales[2];
        float d;
    };

    DEVICE Head head(const uint8_t* block, uint32_t, const Grid&) {
        const uint2 words = load<uint2>(block);
        Head head = {{}, half_to_float(static_cast<uint16_t>(words.x))};
#pragma unroll
        for (int odd = 0; odd < 2; ++odd) {
            uint32_t high = words.x >> (16 + 2 * odd) & 0x3333u;  // two bits in every four
            high = high * 0x0101u & 0x00FF00FFu;
            high = high * 0x0011u & 0x0F0F0F0Fu;  // in every eight
            const uint32_t scales = (words.y >> 4 * odd & 0x0F0F0F0Fu) + high * 16;
            head.scales[odd] = ((scales | 0x80808080u) - 0x20202020u) ^ 0x80808080u;  // less 32, byte by byte
        }
        return head;
    }

    DEVICE SummedOctet<int32_t> unpack_integers(const Head& head, const uint8_t* block, uint32_t octet) {
        const Block& b = *reinterpret_cast<const Block*>(block);
        const uint32_t sub = octet >> 2;
        SummedOctet<int32_t> sum = {{{}, {signed_byte(head.scales[sub % 2], sub / 2)}, head.d}, {}};
        look_up_sum<false>(iq4_nl_values(), load_u8x4<4>(b.qs + 16 * sub + 4 * (octet & 3)), sum.codes, sum.rest);
        return sum;
    }
};
