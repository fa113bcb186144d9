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
};
