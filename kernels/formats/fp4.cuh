// 4-bit floats (E2M1) with a small float as block scale: MXFP4, NVFP4 (layouts: ggml-common.h).
// The codebook holds the values doubled, so both scales carry a factor of one half.

#include "codebooks.generated"

// The nibbles of a word as f16, in pairs: low ones of bytes 0 and 2, of 1 and 3, then high ones. Sign, exponent and mantissa of E2M1
// at the top of f16's fields give 2^-14 of the value, zero and subnormals included; the table's doubled values are kHalfUnit times
// it. All that is set is in the upper byte, so four weights are made at once.
DEVICE void e2m1_to_halves(uint32_t word, uint32_t (&pairs)[4]) {
    const uint32_t low = and_or(word << 4, 0x80808080u, word << 1 & 0x0E0E0E0Eu);
    const uint32_t high = and_or(word, 0x80808080u, word >> 3 & 0x0E0E0E0Eu);
    pairs[0] = byte_permute(low, 0, 0x2404);
    pairs[1] = low & 0xFF00FF00u;
    pairs[2] = byte_permute(high, 0, 0x2404);
    pairs[3] = high & 0xFF00FF00u;
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
    // blocks 0 to 3: the words that have them, from the one of the byte before, and by how many bits (modulo 32) both are shifted
    // left. The four lanes of a row need all of its scales: each decodes those of blocks t and t + 4.
    struct Head {
        const uint8_t* words[4];
        uint32_t shifts[4];
        float scales[2];
    };

    DEVICE Head head(const uint8_t* row, uint32_t t, const Grid&) {
        Head head;
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            const uint8_t* const before = row + i * sizeof(Block) + 4 * t;
            head.words[i] = shared_word(before);
            head.shifts[i] = 24 - 8 * shared_address(before);
        }
#pragma unroll
        for (int i = 0; i < 2; ++i) head.scales[i] = half_scale(row[(t + 4 * i) * sizeof(Block)]);
        return head;
    }

    using Sum = SummedOctet<float, -16>;

    DEVICE Sum unpack_integers(const Head& head, const uint8_t*, uint32_t octet) {
        const uint32_t number = octet / 4;
        const uint8_t* const words = head.words[number % 4] + number / 4 * (4 * sizeof(Block));
        const uint32_t low = load<uint32_t>(words), high = load<uint32_t>(words + 4);
        return sum_of(shuffle_in_four(head.scales[number / 4], number % 4),
                      funnel_shift_left(low, high, head.shifts[number % 4]));
    }

    DEVICE Sum unpack_integers(const uint8_t* block, uint32_t octet) {
        const Block& b = *reinterpret_cast<const Block*>(block);
        return sum_of(half_scale(b.e), load_u8x4<1>(b.qs + 4 * octet));
    }

    DEVICE Sum sum_of(float scale, uint32_t codes) {
        Sum sum = {{{}, {scale}}, {}};
        look_up_sum<true, true>(e2m1_doubled(), codes, sum.codes, sum.rest);
        return sum;
    }

    DEVICE HalfOctet<1> unpack_halves(const uint8_t* block, uint32_t octet) {
        const Block& b = *reinterpret_cast<const Block*>(block);
        HalfOctet<1> halves = {{}, {half_scale(b.e)}};
        e2m1_to_halves(load_u8x4<1>(b.qs + 4 * octet), halves.pairs);
        return halves;
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
        e2m1_to_halves(load<uint32_t>(s.words + 4 * i), pairs);
#pragma unroll
        for (int pair = 0; pair < 4; ++pair) pairs[pair] = half2_multiply(pairs[pair], s.scales[i / 2]);
    }

    DEVICE constexpr int32_t strip_weight(int32_t t, int32_t i, int32_t e) {
        return 64 * t + 16 * (i / 2) + 8 * (e / 4) + 4 * (i % 2) + e % 4;
    }
};
