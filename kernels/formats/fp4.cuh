// 4-bit floats (E2M1) with a small float as block scale: MXFP4, NVFP4 (layouts: ggml-common.h).
// The codebook holds the values doubled, so both scales carry a factor of one half.

#include "codebooks.generated"

// The nibbles at bits 8 to 11 (upper: 12 to 15) of both halves of a word as f16: sign, exponent and mantissa of E2M1 at the top
// of f16's fields give 2^-14 of the value, zero and subnormals included; the table's doubled values are kHalfUnit times it.
DEVICE uint32_t e2m1_to_half2(uint32_t word, bool upper) {
    const uint32_t magnitude = (upper ? word >> 3 : word << 1) & 0x0E000E00u;
    return and_or(upper ? word : word << 4, 0x80008000u, magnitude);
}

// w = d * value; d is a power of two. Rows are 1-byte aligned, so codes are read byte by byte.
template <>
struct Format<39> {  // MXFP4
    struct Block {
        uint8_t e;
        uint8_t qs[16];
    };
    static constexpr int block_size = 32;
    static constexpr int scale_group = 32;
    static constexpr bool is_split = true;

    // Half of 2^(e - 127); subnormal for the two smallest codes, and 255 is 2^127, not NaN (ggml_e8m0_to_fp32_half).
    // (2^23 * e less 2^23, 2^22 or -2^21.)
    DEVICE float half_scale(uint32_t e) {
        const int32_t less = min(static_cast<int32_t>(e) * 0x00600000 - 0x00200000, 0x00800000);
        return bits_to_float(e * 0x00800000u - static_cast<uint32_t>(less));
    }

    DEVICE Octet unpack(const uint8_t* block, uint32_t octet) {
        const Block& b = *reinterpret_cast<const Block*>(block);
        const Bytes8 codes = both_nibbles(load_u8x4<1>(b.qs + 4 * octet));
        return {look_up(e2m1_doubled(), codes), kBias, half_scale(b.e)};
    }

    // Blocks of 17 bytes start anywhere in a word; those that are four apart, at the same byte of one. The lane's first codes of
    // blocks 0 to 3: the words that have them, from the one of the byte before, and which bytes of those.
    struct Head {
        const uint8_t* words[4];
        uint32_t selectors[4];
    };

    DEVICE Head head(const uint8_t* row, uint32_t t, const Grid&) {
        Head head;
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            const uint8_t* const before = row + i * sizeof(Block) + 4 * t;
            const uint32_t in_word = static_cast<uint32_t>(address_of(before)) % 4;
            head.words[i] = before - in_word;
            head.selectors[i] = 0x4321 + in_word * 0x1111;
        }
        return head;
    }

    using Sum = SummedOctet<float, -16>;

    DEVICE Sum unpack_integers(const Head& head, const uint8_t* row, uint32_t octet) {
        const uint32_t number = octet / 4;
        const uint8_t* const words = head.words[number % 4] + number / 4 * (4 * sizeof(Block));
        const uint32_t low = load<uint32_t>(words), high = load<uint32_t>(words + 4);
        return sum_of(row[number * sizeof(Block)], byte_permute(low, high, head.selectors[number % 4]));
    }

    DEVICE Sum unpack_integers(const uint8_t* block, uint32_t octet) {
        const Block& b = *reinterpret_cast<const Block*>(block);
        return sum_of(b.e, load_u8x4<1>(b.qs + 4 * octet));
    }

    DEVICE Sum sum_of(uint32_t e, uint32_t codes) {
        Sum sum = {{{}, {half_scale(e)}}, {}};
        look_up_sum<true>(e2m1_doubled(), codes, sum.codes, sum.rest);
        return sum;
    }

    DEVICE HalfOctet<1> unpack_halves(const uint8_t* block, uint32_t octet) {
        const Block& b = *reinterpret_cast<const Block*>(block);
        const uint32_t odd = load_u8x4<1>(b.qs + 4 * octet), even = odd << 8;
        return {{e2m1_to_half2(even, false), e2m1_to_half2(odd, false), e2m1_to_half2(even, true),
                 e2m1_to_half2(odd, true)},
                half_scale(b.e)};
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
    static constexpr bool is_split = true;

    // Half of an unsigned E4M3 number, through binary16: the same bits there are 2^-8 times it. Bit 7 is ignored; 0x7F,
    // NaN by the standard, is 0 (ggml_ue4m3_to_fp32).
    DEVICE float half_scale(uint32_t code) {
        return code == 0x7F ? 0.0f : half_to_float(static_cast<uint16_t>((code & 0x7F) << 7)) * 128.0f;
    }

    DEVICE SplitOctet unpack(const uint8_t* block, uint32_t octet) {
        const Block& b = *reinterpret_cast<const Block*>(block);
        const uint32_t half = octet >> 2, byte = 16 * half + 4 * (octet & 1);
        const Bytes8 bytes = {load_u8x4<4>(b.qs + byte), load_u8x4<4>(b.qs + byte + 8)};
        const Bytes8 codes = nibbles(bytes, 2 * (octet & 2));
        return {look_up(e2m1_doubled(), codes), kBias, {half_scale(b.d[2 * half]), half_scale(b.d[2 * half + 1])}};
    }

    // Values and scales have few bits, so their products are f16: 2^-14 of the value times 2^7 of the scale. A strip is a
    // block.
    struct Strip {
        const uint8_t* words;
        uint32_t scales[4];  // in both halves of a word
        static constexpr float d = 128.0f;
    };

    DEVICE Strip strip(const uint8_t* block, uint32_t, Grid) {
        const Block& b = *reinterpret_cast<const Block*>(block);
        const uint32_t codes = load<uint32_t>(b.d);
        Strip s = {b.qs, {}};
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            const uint32_t code = codes >> 8 * i & 255;
            s.scales[i] = code == 0x7F ? 0 : half2_multiply((code & 0x7F) * 0x00800080u, half2_constant(1, 15));
        }
        return s;
    }

    DEVICE void fold(const Strip& s, int i, uint32_t (&pairs)[4]) {
        const uint32_t odd = load<uint32_t>(s.words + 4 * i), even = odd << 8, scale = s.scales[i / 2];
        pairs[0] = half2_multiply(e2m1_to_half2(even, false), scale);
        pairs[1] = half2_multiply(e2m1_to_half2(odd, false), scale);
        pairs[2] = half2_multiply(e2m1_to_half2(even, true), scale);
        pairs[3] = half2_multiply(e2m1_to_half2(odd, true), scale);
    }

    DEVICE constexpr int32_t strip_weight(int32_t t, int32_t i, int32_t e) {
        return 64 * t + 16 * (i / 2) + 8 * (e / 4) + 4 * (i % 2) + e % 4;
    }
};
