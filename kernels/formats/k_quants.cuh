// ggml's 256-weight super-blocks: Q2_K, Q3_K, Q4_K, Q5_K, Q6_K, Q8_K (layouts: ggml-common.h).
// Octets 4 apart within the same 16 (Q2_K, Q3_K, Q6_K) or 8 (Q4_K, Q5_K) read the same bytes at another shift. Those with a
// scale for each 16 weights are split, so that one octet meets both scales of its 32.

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
    static constexpr bool is_split = true;

    DEVICE SplitOffsetOctet unpack(const uint8_t* block, uint32_t octet) {
        const Block& b = *reinterpret_cast<const Block*>(block);
        const Bytes8 bytes = load_halves<4>(b.qs + 32 * (octet >> 4) + 4 * (octet & 3));
        const Bytes8 codes = field(bytes, 2 * (octet >> 2 & 3), 0x03030303u);
        const uint32_t both = load<uint16_t>(b.scales + (octet >> 2) * 2), scales = both & 0x0F0Fu,
                       mins = both >> 4 & 0x0F0Fu;
        const float d = half_to_float(b.d), dmin = half_to_float(b.dmin);
        return {codes,
                {byte_to_float(scales, 0), byte_to_float(scales, 1)},
                {-(dmin * byte_to_float(mins, 0)), -(dmin * byte_to_float(mins, 1))},
                d};
    }

    DEVICE Mins<16> mins(const uint8_t* block) {
        const Block& b = *reinterpret_cast<const Block*>(block);
        Mins<16> all;
#pragma unroll
        for (int i = 0; i < 4; ++i) all.codes[i] = load_u8x4<4>(b.scales + 4 * i) >> 4 & 0x0F0F0F0Fu;
        all.factor = half_to_float(b.dmin);
        return all;
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
    static constexpr bool is_split = true;

    DEVICE SplitOctet unpack(const uint8_t* block, uint32_t octet) {
        const Block& b = *reinterpret_cast<const Block*>(block);
        const Bytes8 bytes = load_halves<2>(b.qs + 32 * (octet >> 4) + 4 * (octet & 3));
        const Bytes8 low = field(bytes, 2 * (octet >> 2 & 3), 0x03030303u);
        const Bytes8 high = field(load_halves<2>(b.hmask + 4 * (octet & 3)), octet >> 2, 0x01010101u);

        // Scales 2i and 2i + 1 are neighbours wherever their bits lie.
        const uint32_t pair = octet >> 2;
        const uint32_t low4 = load<uint16_t>(b.scales + 2 * (pair & 3)) >> 4 * (pair >> 2) & 0x0F0Fu;
        const uint32_t high2 = load<uint16_t>(b.scales + 8 + 2 * (pair & 1)) >> 2 * (pair >> 1) & 0x0303u;
        const uint32_t scales = low4 | high2 << 4;
        const float bias = kTwo23 + 32.0f;
        return {merge<2>(low, high),
                4.0f,
                {byte_above_two23(scales, 0) - bias, byte_above_two23(scales, 1) - bias},
                half_to_float(b.d)};
    }
};

// The head that Q4_K and Q5_K share: d, dmin, and a 6-bit scale and min for each 32 weights.
struct ScaleMin {
    float scale, offset, d;

    // `head` holds 16 bytes, `sub` is the number of the 32 weights; `in_sixteenths` when codes count in them.
    // Subs 0..3 have their six bits in one byte; 4..7 have four in the last word and two on top of the first bytes.
    DEVICE ScaleMin of(uint4 head, uint32_t sub, bool in_sixteenths) {
        const bool first = sub < 4;
        const uint32_t scales = first ? head.y & 0x3F3F3F3Fu : (head.w & 0x0F0F0F0Fu) | (head.y >> 2 & 0x30303030u);
        const float dmin = half_to_float(static_cast<uint16_t>(head.x >> 16));
        return {in_sixteenths ? sixteenth_of_byte(scales, sub & 3) : byte_to_float(scales, sub & 3),
                -(dmin * byte_to_float(four_mins(head, first), sub & 3)), half_to_float(static_cast<uint16_t>(head.x))};
    }

    DEVICE uint32_t four_mins(uint4 head, bool first) {
        return first ? head.z & 0x3F3F3F3Fu : (head.w >> 4 & 0x0F0F0F0Fu) | (head.z >> 2 & 0x30303030u);
    }

    DEVICE Mins<8> all_mins(uint4 head) {
        return {{four_mins(head, true), four_mins(head, false)}, half_to_float(static_cast<uint16_t>(head.x >> 16))};
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
    static constexpr bool is_split = false;

    DEVICE OffsetOctet unpack(const uint8_t* block, uint32_t octet) {
        const Block& b = *reinterpret_cast<const Block*>(block);
        const Bytes8 bytes = load_u8x8<8>(b.qs + 32 * (octet >> 3) + 8 * (octet & 3));
        const Nibbles nibbles = nibbles_in_place(bytes, octet & 4);
        const ScaleMin sub = ScaleMin::of(load<uint4>(b.head), octet >> 2, nibbles.in_sixteenths);
        return {nibbles.codes, {sub.scale}, {sub.offset}, sub.d};
    }

    DEVICE Mins<8> mins(const uint8_t* block) { return ScaleMin::all_mins(load<uint4>(block)); }
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
    static constexpr bool is_split = false;

    DEVICE OffsetOctet unpack(const uint8_t* block, uint32_t octet) {
        const Block& b = *reinterpret_cast<const Block*>(block);
        const Bytes8 low = nibbles(load_u8x8<8>(b.qs + 32 * (octet >> 3) + 8 * (octet & 3)), octet & 4);
        const Bytes8 high = field(load_u8x8<8>(b.qh + 8 * (octet & 3)), octet >> 2, 0x01010101u);
        const ScaleMin sub = ScaleMin::of(load<uint4>(b.head), octet >> 2, false);
        return {merge<4>(low, high), {sub.scale}, {sub.offset}, sub.d};
    }

    DEVICE Mins<8> mins(const uint8_t* block) { return ScaleMin::all_mins(load<uint4>(block)); }
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
    static constexpr bool is_split = true;

    DEVICE SplitOctet unpack(const uint8_t* block, uint32_t octet) {
        const Block& b = *reinterpret_cast<const Block*>(block);
        const uint32_t half = octet >> 4, quarter = octet >> 2 & 3, byte = 4 * (octet & 3);
        const Bytes8 low = nibbles(load_halves<2>(b.ql + 64 * half + 32 * (quarter & 1) + byte), 4 * (quarter >> 1));
        const Bytes8 high = field(load_halves<2>(b.qh + 32 * half + byte), 2 * quarter, 0x03030303u);
        const uint32_t scales = load<uint16_t>(b.scales + (octet >> 2) * 2) ^ 0x8080u;
        const float bias = kTwo23 + kBias;
        return {merge<4>(low, high),
                32.0f,
                {byte_above_two23(scales, 0) - bias, byte_above_two23(scales, 1) - bias},
                half_to_float(b.d)};
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
    static constexpr bool is_split = false;

    DEVICE Octet unpack(const uint8_t* block, uint32_t octet) {
        const Block& b = *reinterpret_cast<const Block*>(block);
        return {bias_bytes(load_u8x8<4>(b.qs + 8 * octet)), kBias, b.d};
    }
};
