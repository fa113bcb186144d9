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

    // Fields of 2 bits at the same place of 16 bytes are a group.
    struct Strip {
        uint32_t words[4];
        Fold folds[4];
        uint32_t mins[2];
        float d, dmin;
    };

    DEVICE Strip strip(const uint8_t* block, uint32_t t, Grid) {
        const Block& b = *reinterpret_cast<const Block*>(block);
        const uint8_t* const scales = b.scales + 8 * (t >> 1);
        const uint32_t both = byte_permute(load<uint32_t>(scales), load<uint32_t>(scales + 4), t & 1 ? 0x7531 : 0x6420);
        const uint32_t four = both & 0x0F0F0F0Fu, mins = both >> 4 & 0x0F0F0F0Fu;
        Strip s = {{},
                   {fold_by<0>(four, 0), fold_by<2>(four, 1), fold_by<4>(four, 2), fold_by<6>(four, 3)},
                   {bytes_to_bfloat2(mins, 0, 1), bytes_to_bfloat2(mins, 2, 3)},
                   half_to_float(b.d),
                   half_to_float(b.dmin)};
#pragma unroll
        for (int i = 0; i < 4; ++i) s.words[i] = load<uint32_t>(b.qs + 16 * t + 4 * i);
        return s;
    }

    DEVICE void fold(const Strip& s, int i, uint32_t (&pairs)[4]) {
        const uint32_t even = s.words[i / 2], odd = shift_right_8(even);
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const int field = 2 * (i % 2) + half;
            const uint32_t mask = 0x00030003u << 2 * field;
            pairs[2 * half] = folded(s.folds[field], and_or(even, mask, kAbove1024));
            pairs[2 * half + 1] = folded(s.folds[field], and_or(odd, mask, kAbove1024));
        }
    }

    DEVICE constexpr int32_t strip_weight(int32_t t, int32_t i, int32_t e) {
        return 128 * (t / 2) + 16 * (t % 2) + 32 * (2 * (i % 2) + e / 4) + 4 * (i / 2) + e % 4;
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

    struct Strip {
        uint32_t words[4], high[4];
        Fold folds[4];
        float d;
    };

    // The first field moves to bit 2, where its fold is exact: (1024 + 4) * (scale - 32) would need 13 bits.
    DEVICE Strip strip(const uint8_t* block, uint32_t t, Grid) {
        const Block& b = *reinterpret_cast<const Block*>(block);
        const uint32_t half = t >> 1, select = t & 1 ? 0x7531 : 0x6420;
        const uint32_t low = byte_permute(load_u8x4<2>(b.scales), load_u8x4<2>(b.scales + 4), select) >> 4 * half;
        const uint32_t top = load_u8x4<2>(b.scales + 8) >> 4 * half;
        const uint32_t scales = (low & 0x0F0F0F0Fu) | (byte_permute(top, top >> 2, select) & 0x03030303u) << 4;
        Strip s = {{},
                   {},
                   {fold_by<2, 4, 32>(scales, 0), fold_by<2, 4, 32>(scales, 1), fold_by<4, 4, 32>(scales, 2),
                    fold_by<6, 4, 32>(scales, 3)},
                   half_to_float(b.d)};
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            s.words[i] = load_u8x4<2>(b.qs + 16 * t + 4 * i);
            s.high[i] = load_u8x4<2>(b.hmask + 16 * (t & 1) + 4 * i) >> 4 * half;
        }
        return s;
    }

    DEVICE void fold(const Strip& s, int i, uint32_t (&pairs)[4]) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const int field = 2 * (i % 2) + half, bit = field == 0 ? 2 : 2 * field, up = bit + 2 - field;
            const uint32_t word = field == 0 ? s.words[i / 2] << 2 : s.words[i / 2], high = s.high[i / 2];
            const uint32_t odd = field == 0 ? s.words[i / 2] >> 6 : shift_right_8(word);
            const uint32_t mask = 0x00030003u << bit, mask_of_high = 0x00040004u << bit;
            pairs[2 * half] = folded(s.folds[field], and_or(high << up, mask_of_high, and_or(word, mask, kAbove1024)));
            pairs[2 * half + 1] =
                folded(s.folds[field], and_or(high >> (8 - up), mask_of_high, and_or(odd, mask, kAbove1024)));
        }
    }

    DEVICE constexpr int32_t strip_weight(int32_t t, int32_t i, int32_t e) {
        return 128 * (t / 2) + 16 * (t % 2) + 32 * (2 * (i % 2) + e / 4) + 4 * (i / 2) + e % 4;
    }
};

// The head that Q4_K and Q5_K share: d, dmin, and a 6-bit scale and min for each 32 weights.
struct ScaleMin {
    float scale, offset, d;

    // `head` holds 16 bytes, `sub` is the number of the 32 weights.
    // Subs 0..3 have their six bits in one byte; 4..7 have four in the last word and two on top of the first bytes.
    DEVICE ScaleMin of(uint4 head, uint32_t sub) {
        const bool first = sub < 4;
        const uint32_t scales = first ? head.y & 0x3F3F3F3Fu : (head.w & 0x0F0F0F0Fu) | (head.y >> 2 & 0x30303030u);
        const uint32_t mins = first ? head.z & 0x3F3F3F3Fu : (head.w >> 4 & 0x0F0F0F0Fu) | (head.z >> 2 & 0x30303030u);
        const float dmin = half_to_float(static_cast<uint16_t>(head.x >> 16));
        return {byte_to_float(scales, sub & 3), -(dmin * byte_to_float(mins, sub & 3)),
                half_to_float(static_cast<uint16_t>(head.x))};
    }
};

// Scales and mins of a strip's two subs, 2t and 2t + 1, a byte each.
struct StripHead {
    uint32_t scales, mins;
    float d, dmin;

    DEVICE StripHead of(uint4 head, uint32_t t) {
        // The lower strips have six bits together, the upper ones four and two; a branch would take lanes apart.
        const uint32_t shift = 16 * (t & 1), high = t & 2;
        const uint32_t own = high ? 0x3030u : 0x3F3Fu, shared = high ? 0x0F0Fu : 0;
        const uint32_t last = head.w >> shift, scales = head.y >> (shift + high), mins = head.z >> (shift + high);
        return {(last & shared) | (scales & own), (last >> 4 & shared) | (mins & own),
                half_to_float(static_cast<uint16_t>(head.x)), half_to_float(static_cast<uint16_t>(head.x >> 16))};
    }
};

// All scales of a block, a byte each.
DEVICE void all_scales(uint4 head, uint32_t (&scales)[2]) {
    scales[0] = head.y & 0x3F3F3F3Fu;
    scales[1] = and_or(head.w, 0x0F0F0F0Fu, head.y >> 2 & 0x30303030u);
}

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
        const ScaleMin sub = ScaleMin::of(load<uint4>(b.head), octet >> 2);
        return {nibbles(bytes, octet & 4), {sub.scale}, {sub.offset}, sub.d};
    }

    // Byte 32t + i holds weight i of two subs.
    struct Strip {
        uint32_t words[8];
        Fold low, high;
        uint32_t mins[1];
        float d, dmin;
    };

    DEVICE Strip strip(const uint8_t* block, uint32_t t, Grid) {
        const Block& b = *reinterpret_cast<const Block*>(block);
        const StripHead head = StripHead::of(load<uint4>(b.head), t);
        const uint4 first = load<uint4>(b.qs + 32 * t), second = load<uint4>(b.qs + 32 * t + 16);
        return {{first.x, first.y, first.z, first.w, second.x, second.y, second.z, second.w},
                fold_by<0>(head.scales, 0),
                fold_by<4>(head.scales, 1),
                {bytes_to_bfloat2(head.mins, 0, 1)},
                head.d,
                head.dmin};
    }

    DEVICE void fold(const Strip& s, int i, uint32_t (&pairs)[4]) {
        const uint32_t even = s.words[i], odd = shift_right_8(even);
        pairs[0] = folded(s.low, and_or(even, 0x000F000Fu, kAbove1024));
        pairs[1] = folded(s.low, and_or(odd, 0x000F000Fu, kAbove1024));
        pairs[2] = folded(s.high, and_or(even, 0x00F000F0u, kAbove1024));
        pairs[3] = folded(s.high, and_or(odd, 0x00F000F0u, kAbove1024));
    }

    DEVICE constexpr int32_t strip_weight(int32_t t, int32_t i, int32_t e) {
        return 64 * t + 32 * (e / 4) + 4 * i + e % 4;
    }

    // High nibbles stay where they are: 16 times the code.
    struct Quarters {
        static constexpr int odd_shift = 4;
        uint32_t scales[2], mins[1];
        float d, dmin;
    };

    DEVICE Quarters quarters(const uint8_t* block, uint32_t t) {
        const uint4 words = load<uint4>(block);
        const StripHead head = StripHead::of(words, t);
        Quarters all = {{}, {bytes_to_bfloat2(head.mins, 0, 1)}, head.d * (1.0f / 16), head.dmin};
        all_scales(words, all.scales);
        return all;
    }

    DEVICE void quarter(const Quarters&, const uint8_t* block, uint32_t t, int q, uint32_t (&codes)[2][2]) {
        const uint2 words = load<uint2>(reinterpret_cast<const Block*>(block)->qs + 32 * q + 8 * t);
        const uint32_t both[2] = {words.x, words.y};
#pragma unroll
        for (int i = 0; i < 2; ++i) {
            codes[0][i] = both[i] & 0x0F0F0F0Fu;
            codes[1][i] = both[i] & 0xF0F0F0F0u;
        }
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
    static constexpr bool is_split = false;

    DEVICE OffsetOctet unpack(const uint8_t* block, uint32_t octet) {
        const Block& b = *reinterpret_cast<const Block*>(block);
        const Bytes8 low = nibbles(load_u8x8<8>(b.qs + 32 * (octet >> 3) + 8 * (octet & 3)), octet & 4);
        const Bytes8 high = field(load_u8x8<8>(b.qh + 8 * (octet & 3)), octet >> 2, 0x01010101u);
        const ScaleMin sub = ScaleMin::of(load<uint4>(b.head), octet >> 2);
        return {merge<4>(low, high), {sub.scale}, {sub.offset}, sub.d};
    }

    struct Strip {
        uint32_t words[8], fifth[8];  // of the low nibbles in bit 0 of each byte, of the high ones in bit 1
        Fold low, high;
        uint32_t mins[1];
        float d, dmin;
    };

    DEVICE Strip strip(const uint8_t* block, uint32_t t, Grid) {
        const Block& b = *reinterpret_cast<const Block*>(block);
        const StripHead head = StripHead::of(load<uint4>(b.head), t);
        Strip s = {{},
                   {},
                   fold_by<0>(head.scales, 0),
                   fold_by<0>(head.scales, 1),
                   {bytes_to_bfloat2(head.mins, 0, 1)},
                   head.d,
                   head.dmin};
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const uint4 words = load<uint4>(b.qs + 32 * t + 16 * half), bits = load<uint4>(b.qh + 16 * half);
            const uint32_t four[4] = {words.x, words.y, words.z, words.w}, of_all[4] = {bits.x, bits.y, bits.z, bits.w};
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                s.words[4 * half + i] = four[i];
                s.fifth[4 * half + i] = of_all[i] >> 2 * t;
            }
        }
        return s;
    }

    DEVICE void fold(const Strip& s, int i, uint32_t (&pairs)[4]) {
        uint32_t low[2], high[2];
        spread_bytes(and_or(s.fifth[i] << 4, 0x10101010u, s.words[i] & 0x0F0F0F0Fu), low);
        spread_bytes(and_or(s.fifth[i] << 3, 0x10101010u, s.words[i] >> 4 & 0x0F0F0F0Fu), high);
        pairs[0] = folded(s.low, low[0]);
        pairs[1] = folded(s.low, low[1]);
        pairs[2] = folded(s.high, high[0]);
        pairs[3] = folded(s.high, high[1]);
    }

    DEVICE constexpr int32_t strip_weight(int32_t t, int32_t i, int32_t e) {
        return 64 * t + 32 * (e / 4) + 4 * i + e % 4;
    }

    struct Quarters {
        static constexpr int odd_shift = 0;
        uint32_t scales[2], mins[1], fifth[2];
        float d, dmin;
    };

    DEVICE Quarters quarters(const uint8_t* block, uint32_t t) {
        const uint4 words = load<uint4>(block);
        const StripHead head = StripHead::of(words, t);
        const uint2 fifth = load<uint2>(reinterpret_cast<const Block*>(block)->qh + 8 * t);
        Quarters all = {{}, {bytes_to_bfloat2(head.mins, 0, 1)}, {fifth.x, fifth.y}, head.d, head.dmin};
        all_scales(words, all.scales);
        return all;
    }

    DEVICE void quarter(const Quarters& all, const uint8_t* block, uint32_t t, int q, uint32_t (&codes)[2][2]) {
        const uint2 words = load<uint2>(reinterpret_cast<const Block*>(block)->qs + 32 * q + 8 * t);
        const uint32_t both[2] = {words.x, words.y};
#pragma unroll
        for (int i = 0; i < 2; ++i) {
            const uint32_t even = q < 2 ? all.fifth[i] << (4 - 2 * q) : all.fifth[i] >> (2 * q - 4);
            const uint32_t odd = q < 2 ? all.fifth[i] << (3 - 2 * q) : all.fifth[i] >> (2 * q - 3);
            codes[0][i] = and_or(even, 0x10101010u, both[i] & 0x0F0F0F0Fu);
            codes[1][i] = and_or(odd, 0x10101010u, both[i] >> 4 & 0x0F0F0F0Fu);
        }
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

    // Six bits at the top of a byte, the first turned over, are 4 * (q - 32).
    DEVICE SignedOctet<2, int32_t, 2> unpack_integers(const uint8_t* block, uint32_t octet) {
        const Block& b = *reinterpret_cast<const Block*>(block);
        const uint32_t half = octet >> 4, quarter = octet >> 2 & 3, byte = 4 * (octet & 3);
        const Bytes8 low = load_halves<2>(b.ql + 64 * half + 32 * (quarter & 1) + byte),
                     high = load_halves<2>(b.qh + 32 * half + byte);
        const auto merged = [&](uint32_t four, uint32_t two) {
            const uint32_t placed = quarter < 2 ? four << 2 : four >> 2;
            return and_or(placed, 0x3C3C3C3Cu, (two << (6 - 2 * quarter) & 0xC0C0C0C0u) ^ 0x80808080u);
        };
        const int32_t scales = load<uint16_t>(b.scales + (octet >> 2) * 2);
        return {{merged(low.lo, high.lo), merged(low.hi, high.hi)},
                {static_cast<int8_t>(scales), static_cast<int8_t>(scales >> 8)},
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

    DEVICE SignedOctet<1, float> unpack_integers(const uint8_t* block, uint32_t octet) {
        const Block& b = *reinterpret_cast<const Block*>(block);
        return {load_u8x8<4>(b.qs + 8 * octet), {b.d}};
    }
};
