// 4-bit floats (E2M1) with a small float as block scale: MXFP4, NVFP4 (layouts: ggml-common.h).
// The codebook holds the values doubled, so both scales carry a factor of one half.

#include "codebooks.generated"

// w = d * value; d is a power of two. Rows are 1-byte aligned, so codes are read byte by byte.
template <>
struct Format<39> {  // MXFP4
    struct Block {
        uint8_t e;
        uint8_t qs[16];
    };
    static constexpr int block_size = 32;
    static constexpr int scale_group = 32;

    // Half of 2^(e - 127); subnormal for the two smallest codes, and 255 is 2^127, not NaN (ggml_e8m0_to_fp32_half).
    DEVICE float half_scale(uint32_t e) { return bits_to_float(e < 2 ? 0x00200000u << e : (e - 1) << 23); }

    DEVICE Octet unpack(const uint8_t* block, uint32_t octet) {
        const Block& b = *reinterpret_cast<const Block*>(block);
        const Bytes8 codes = nibbles(load_u8x8<1>(b.qs + 8 * (octet & 1)), 4 * (octet >> 1));
        return {look_up(e2m1_doubled(), codes), kBias, half_scale(b.e)};
    }
};

// w = d[i / 16] * value. Each 16 weights take 8 bytes: low nibbles, then high ones. Rows are 4-byte aligned.
template <>
struct Format<40> {  // NVFP4
    struct Block {
        uint8_t d[4];
        uint8_t qs[32];
    };
    static constexpr int block_size = 64;
    static constexpr int scale_group = 16;

    // Half of an unsigned E4M3 number, through binary16: the same bits there are 2^-8 times it. Bit 7 is ignored; 0x7F,
    // NaN by the standard, is 0 (ggml_ue4m3_to_fp32).
    DEVICE float half_scale(uint32_t code) {
        return code == 0x7F ? 0.0f : half_to_float(static_cast<uint16_t>((code & 0x7F) << 7)) * 128.0f;
    }

    DEVICE Octet unpack(const uint8_t* block, uint32_t octet) {
        const Block& b = *reinterpret_cast<const Block*>(block);
        const Bytes8 codes = nibbles(load_u8x8<4>(b.qs + 8 * (octet >> 1)), 4 * (octet & 1));
        return {look_up(e2m1_doubled(), codes), kBias, half_scale(b.d[octet >> 1])};
    }
};
