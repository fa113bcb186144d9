// Weights of -1, 0, 1 with one scale for each 256: TQ1_0, TQ2_0 (layouts: ggml-common.h).

// w = d * (digit - 1), five base-3 digits to a byte: digit n is the top of (byte * 3^n mod 256) * 3. Bytes 0..31 hold
// weights 0..159 (digit by digit, 32 weights each), bytes 32..47 the next 80 (16 each), qh the last 16 (4 each).
// Rows are 2-byte aligned.
template <>
struct Format<34> {  // TQ1_0
    struct Block {
        uint8_t qs[48];
        uint8_t qh[4];
        uint16_t d;
    };
    static constexpr int block_size = 256;
    static constexpr int scale_group = 256;
    static constexpr bool is_split = false;

    // Digit number log3(power) of the four bytes, two of them at a time in 16-bit lanes.
    DEVICE uint32_t digits(uint32_t bytes, uint32_t power) {
        const uint32_t lanes = 0x00FF00FFu;
        const uint32_t even = ((bytes & lanes) * power & lanes) * 3, odd = ((bytes >> 8 & lanes) * power & lanes) * 3;
        return (even >> 8 & lanes) | (odd & ~lanes);
    }

    // 3^n for n = 0..4.
    DEVICE uint32_t power_of_3(uint32_t n) { return n == 4 ? 81 : byte_permute(0x1B090301u, 0, 0x4440u | n); }

    DEVICE Octet unpack(const uint8_t* block, uint32_t octet) {
        const Block& b = *reinterpret_cast<const Block*>(block);
        Bytes8 codes;
        if (octet < 30) {
            const uint32_t n = octet < 20 ? octet >> 2 : (octet - 20) >> 1;
            const uint32_t byte = octet < 20 ? 8 * (octet & 3) : 32 + 8 * (octet & 1);
            const Bytes8 bytes = load_u8x8<2>(b.qs + byte);
            codes = {digits(bytes.lo, power_of_3(n)), digits(bytes.hi, power_of_3(n))};
        } else {
            const uint32_t bytes = load_u8x4<2>(b.qh), n = 2 * (octet & 1);
            codes = {digits(bytes, power_of_3(n)), digits(bytes, power_of_3(n + 1))};
        }
        return {codes, 1.0f, half_to_float(b.d)};
    }
};

// w = d * (q - 1), q of 2 bits (3 is legal and means 2). Rows are 2-byte aligned.
template <>
struct Format<35> {  // TQ2_0
    struct Block {
        uint8_t qs[64];
        uint16_t d;
    };
    static constexpr int block_size = 256;
    static constexpr int scale_group = 256;
    static constexpr bool is_split = false;

    DEVICE Octet unpack(const uint8_t* block, uint32_t octet) {
        const Block& b = *reinterpret_cast<const Block*>(block);
        const Bytes8 bytes = load_u8x8<2>(b.qs + 32 * (octet >> 4) + 8 * (octet & 3));
        return {field(bytes, 2 * (octet >> 2 & 3), 0x03030303u), 1.0f, half_to_float(b.d)};
    }

    struct Strip {
        uint32_t words[4];
        float d;
    };

    DEVICE Strip strip(const uint8_t* block, uint32_t t, Grid) {
        const Block& b = *reinterpret_cast<const Block*>(block);
        Strip s = {{}, half_to_float(b.d)};
#pragma unroll
        for (int i = 0; i < 4; ++i) s.words[i] = load_u8x4<2>(b.qs + 16 * t + 4 * i);
        return s;
    }

    DEVICE void fold(const Strip& s, int i, uint32_t (&pairs)[4]) {
        const uint32_t even = s.words[i / 2], odd = shift_right_8(even);
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const int bit = 4 * (i % 2) + 2 * half;
            const Fold fold = {half2_constant(1, -bit), half2_constant(-(1024 + (1 << bit)), -bit)};
            pairs[2 * half] = folded(fold, and_or(even, 0x00030003u << bit, kAbove1024));
            pairs[2 * half + 1] = folded(fold, and_or(odd, 0x00030003u << bit, kAbove1024));
        }
    }

    DEVICE constexpr int32_t strip_weight(int32_t t, int32_t i, int32_t e) {
        return 128 * (t / 2) + 16 * (t % 2) + 32 * (2 * (i % 2) + e / 4) + 4 * (i / 2) + e % 4;
    }
};
