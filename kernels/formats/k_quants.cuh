// ggml's 256-weight super-blocks: Q2_K, Q3_K, Q4_K, Q5_K, Q6_K, Q8_K (layouts: ggml-common.h).
// Octets 4 apart within the same 16 (Q2_K, Q3_K, Q6_K) or 8 (Q4_K, Q5_K) read the same bytes at another shift.

// w = (d * scale) * q - (dmin * min), a 4-bit scale and min for each 16 weights. Rows are 4-byte aligned.
template <>
struct Format<10> {  // Q2_K
    struct Block {
        uint8_t scales[16];
        uint8_t qs[64];
        uint16_t d, dmin;
    };
    static constexpr int block_size = 256;
    static constexpr int scale_group = 16;

    DEVICE OffsetOctet unpack(const uint8_t* block, uint32_t octet) {
        const Block& b = *reinterpret_cast<const Block*>(block);
        const Bytes8 bytes = load_u8x8<4>(b.qs + 32 * (octet >> 4) + 8 * (octet & 3));
        const Bytes8 codes = field(bytes, 2 * (octet >> 2 & 3), 0x03030303u);
        const uint32_t scale = b.scales[octet >> 1];
        return {codes, half_to_float(b.d) * byte_to_float(scale & 15, 0),
                -(half_to_float(b.dmin) * byte_to_float(scale >> 4, 0))};
    }
};

// w = (d * (scale - 32)) * (q - 4), a 6-bit scale for each 16 weights; hmask holds the third bit of q.
// Rows are 2-byte aligned.
template <>
struct Format<11> {  // Q3_K
    struct Block {
        uint8_t hmask[32];
        uint8_t qs[64];
        uint8_t scales[12];
        uint16_t d;
    };
    static constexpr int block_size = 256;
    static constexpr int scale_group = 16;

    DEVICE Octet unpack(const uint8_t* block, uint32_t octet) {
        const Block& b = *reinterpret_cast<const Block*>(block);
        const Bytes8 bytes = load_u8x8<2>(b.qs + 32 * (octet >> 4) + 8 * (octet & 3));
        const Bytes8 low = field(bytes, 2 * (octet >> 2 & 3), 0x03030303u);
        const Bytes8 high = field(load_u8x8<2>(b.hmask + 8 * (octet & 3)), octet >> 2, 0x01010101u);

        const uint32_t sub = octet >> 1;
        const uint32_t low4 = b.scales[sub & 7] >> 4 * (sub >> 3) & 15;
        const uint32_t high2 = b.scales[8 + (sub & 3)] >> 2 * (sub >> 2) & 3;
        const float scale = byte_above_two23(low4 | high2 << 4, 0) - (kTwo23 + 32.0f);
        return {merge<2>(low, high), 4.0f, half_to_float(b.d) * scale};
    }
};

// The head that Q4_K and Q5_K share: d, dmin, and a 6-bit scale and min for each 32 weights.
struct ScaleMin {
    float scale, min;

    // `head` holds 16 bytes, `sub` is the number of the 32 weights.
    // Subs 0..3 have their six bits in one byte; 4..7 have four in the last word and two on top of the first bytes.
    DEVICE ScaleMin of(uint4 head, uint32_t sub) {
        const bool first = sub < 4;
        const uint32_t scales = first ? head.y & 0x3F3F3F3Fu : (head.w & 0x0F0F0F0Fu) | (head.y >> 2 & 0x30303030u);
        const uint32_t mins = first ? head.z & 0x3F3F3F3Fu : (head.w >> 4 & 0x0F0F0F0Fu) | (head.z >> 2 & 0x30303030u);
        const float d = half_to_float(static_cast<uint16_t>(head.x));
        const float dmin = half_to_float(static_cast<uint16_t>(head.x >> 16));
        return {d * byte_to_float(scales, sub & 3), dmin * byte_to_float(mins, sub & 3)};
    }
};

// w = (d * scale) * q - (dmin * min). Rows are 16-byte aligned.
template <>
struct Format<12> {  // Q4_K
    struct Block {
        uint8_t head[16];
        uint8_t qs[128];
    };
    static constexpr int block_size = 256;
    static constexpr int scale_group = 32;

    DEVICE OffsetOctet unpack(const uint8_t* block, uint32_t octet) {
        const Block& b = *reinterpret_cast<const Block*>(block);
        const Bytes8 bytes = load_u8x8<8>(b.qs + 32 * (octet >> 3) + 8 * (octet & 3));
        const ScaleMin sub = ScaleMin::of(load<uint4>(b.head), octet >> 2);
        return {nibbles(bytes, octet & 4), sub.scale, -sub.min};
    }
};

// As Q4_K, and bit `sub` of qh[i] is the fifth bit of weight i of each 32. Rows are 16-byte aligned.
template <>
struct Format<13> {  // Q5_K
    struct Block {
        uint8_t head[16];
        uint8_t qh[32];
        uint8_t qs[128];
    };
    static constexpr int block_size = 256;
    static constexpr int scale_group = 32;

    DEVICE OffsetOctet unpack(const uint8_t* block, uint32_t octet) {
        const Block& b = *reinterpret_cast<const Block*>(block);
        const Bytes8 low = nibbles(load_u8x8<8>(b.qs + 32 * (octet >> 3) + 8 * (octet & 3)), octet & 4);
        const Bytes8 high = field(load_u8x8<8>(b.qh + 8 * (octet & 3)), octet >> 2, 0x01010101u);
        const ScaleMin sub = ScaleMin::of(load<uint4>(b.head), octet >> 2);
        return {merge<4>(low, high), sub.scale, -sub.min};
    }
};

// w = (d * scale) * (q - 32), a signed 8-bit scale for each 16 weights. Rows are 2-byte aligned.
template <>
struct Format<14> {  // Q6_K
    struct Block {
        uint8_t ql[128];
        uint8_t qh[64];
        uint8_t scales[16];
        uint16_t d;
    };
    static constexpr int block_size = 256;
    static constexpr int scale_group = 16;

    DEVICE Octet unpack(const uint8_t* block, uint32_t octet) {
        const Block& b = *reinterpret_cast<const Block*>(block);
        const uint32_t half = octet >> 4, quarter = octet >> 2 & 3, byte = 8 * (octet & 3);
        const Bytes8 low = nibbles(load_u8x8<2>(b.ql + 64 * half + 32 * (quarter & 1) + byte), 4 * (quarter >> 1));
        const Bytes8 high = field(load_u8x8<2>(b.qh + 32 * half + byte), 2 * quarter, 0x03030303u);
        const float scale = byte_above_two23(b.scales[octet >> 1] ^ 0x80u, 0) - (kTwo23 + kBias);
        return {merge<4>(low, high), 32.0f, half_to_float(b.d) * scale};
    }
};

// w = d * q, q signed; the sums serve integer dot products only. Rows are 4-byte aligned.
template <>
struct Format<15> {  // Q8_K
    struct Block {
        float d;
        uint8_t qs[256];
        int16_t bsums[16];
    };
    static constexpr int block_size = 256;
    static constexpr int scale_group = 256;

    DEVICE Octet unpack(const uint8_t* block, uint32_t octet) {
        const Block& b = *reinterpret_cast<const Block*>(block);
        return {bias_bytes(load_u8x8<4>(b.qs + 8 * octet)), kBias, b.d};
    }
};
