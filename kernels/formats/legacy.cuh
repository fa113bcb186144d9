// ggml's 32-weight blocks: Q4_0, Q4_1, Q5_0, Q5_1, Q8_0 (layouts: ggml-common.h).
// 4-bit codes: byte i holds weight i in its low and weight i + 16 in its high nibble, so four bytes make a split octet.

// w = d * (q - 8). Rows are 2-byte aligned.
template <>
struct Format<2> {  // Q4_0
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
        return {codes, 8.0f, half_to_float(b.d)};
    }
};

// w = d * q + m. Rows are 4-byte aligned.
template <>
struct Format<3> {  // Q4_1
    struct Block {
        uint16_t d, m;
        uint8_t qs[16];
    };
    static constexpr int block_size = 32;
    static constexpr int scale_group = 32;
    static constexpr bool is_split = true;

    DEVICE OffsetOctet unpack(const uint8_t* block, uint32_t octet) {
        const Block& b = *reinterpret_cast<const Block*>(block);
        const Bytes8 codes = both_nibbles(load_u8x4<4>(b.qs + 4 * octet));
        return {codes, half_to_float(b.d), half_to_float(b.m)};
    }
};

// w = d * (q - 16); bit i of qh is the fifth bit of weight i. Rows are 2-byte aligned.
template <>
struct Format<6> {  // Q5_0
    struct Block {
        uint16_t d;
        uint8_t qh[4];
        uint8_t qs[16];
    };
    static constexpr int block_size = 32;
    static constexpr int scale_group = 32;
    static constexpr bool is_split = true;

    DEVICE Octet unpack(const uint8_t* block, uint32_t octet) {
        const Block& b = *reinterpret_cast<const Block*>(block);
        const Bytes8 low = both_nibbles(load_u8x4<2>(b.qs + 4 * octet));
        return {merge<4>(low, spread_halves(load_u8x4<2>(b.qh), octet)), 16.0f, half_to_float(b.d)};
    }
};

// w = d * q + m. Rows are 8-byte aligned.
template <>
struct Format<7> {  // Q5_1
    struct Block {
        uint16_t d, m;
        uint8_t qh[4];
        uint8_t qs[16];
    };
    static constexpr int block_size = 32;
    static constexpr int scale_group = 32;
    static constexpr bool is_split = true;

    DEVICE OffsetOctet unpack(const uint8_t* block, uint32_t octet) {
        const Block& b = *reinterpret_cast<const Block*>(block);
        const Bytes8 low = both_nibbles(load_u8x4<4>(b.qs + 4 * octet));
        return {merge<4>(low, spread_halves(load_u8x4<4>(b.qh), octet)), half_to_float(b.d), half_to_float(b.m)};
    }
};

// w = d * q, q signed. Rows are 2-byte aligned.
template <>
struct Format<8> {  // Q8_0
    struct Block {
        uint16_t d;
        uint8_t qs[32];
    };
    static constexpr int block_size = 32;
    static constexpr int scale_group = 32;
    static constexpr bool is_split = false;

    DEVICE Octet unpack(const uint8_t* block, uint32_t octet) {
        const Block& b = *reinterpret_cast<const Block*>(block);
        return {bias_bytes(load_u8x8<2>(b.qs + 8 * octet)), kBias, half_to_float(b.d)};
    }

    DEVICE SignedOctet<1, float> unpack_integers(const uint8_t* block, uint32_t octet) {
        const Block& b = *reinterpret_cast<const Block*>(block);
        return {load_u8x8<2>(b.qs + 8 * octet), {half_to_float(b.d)}};
    }
};
