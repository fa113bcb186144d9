// How packed codes become floats: eight codes travel as the bytes of two words, and each byte becomes a float with
// one byte permute and one exact subtraction (no integer-to-float conversion, which runs at a quarter of the rate).

// Eight bytes in memory order: bytes 0..3 in lo, 4..7 in hi.
struct Bytes8 {
    uint32_t lo, hi;
};

// Eight weights: w[i] = (d * scale) * (code[i] - bias). bias is an integer, so the difference is exact. With two scales, the
// first belongs to weights 0..3 and the second to weights 4..7. `d` is a factor of all scales of the block: a kernel may put
// it on the sum over the block, (d * scale) is ggml's rounding.
template <int SCALES>
struct BiasedOctet {
    static constexpr bool has_offset = false;
    static constexpr bool are_halves = false;
    static constexpr int n_scales = SCALES;
    Bytes8 codes;
    float bias, scale[SCALES];
    float d = 1.0f;
};
using Octet = BiasedOctet<1>;
using SplitOctet = BiasedOctet<2>;

// Eight weights: w[i] = (d * scale) * code[i] + offset.
template <int SCALES>
struct ShiftedOctet {
    static constexpr bool has_offset = true;
    static constexpr bool are_halves = false;
    static constexpr int n_scales = SCALES;
    Bytes8 codes;
    float scale[SCALES], offset[SCALES];
    float d = 1.0f;
};
using OffsetOctet = ShiftedOctet<1>;
using SplitOffsetOctet = ShiftedOctet<2>;

// Eight weights as f16, in pairs (0, 2), (1, 3), (4, 6), (5, 7): w[i] = scale * (kHalfUnit * value[i]).
template <int SCALES>
struct HalfOctet {
    static constexpr bool has_offset = false;
    static constexpr bool are_halves = true;
    static constexpr int n_scales = SCALES;
    uint32_t pairs[4];
    float scale[SCALES];
    float d = 1.0f;
};
static constexpr int kHalfUnitLog2 = 15;
static constexpr float kHalfUnit = 1 << kHalfUnitLog2;

// Eight weights as signed bytes: w[i] = (d * scale) * 2^-UnitLog2 * value[i]. Scales are float or int32_t. Where UnitLog2 is below
// zero, values are 2^UnitLog2 times the bytes, so that sums times large scales stay within f32. Interleaved: bytes 0, 2, 4, 6 are
// weights 0 to 3 and the others 4 to 7.
template <int SCALES, typename Scale, int UnitLog2 = 0, bool Interleaved = false>
struct SignedOctet {
    static constexpr bool has_offset = false;
    static constexpr bool are_halves = false;
    static constexpr int n_scales = SCALES;
    static constexpr int unit_log2 = UnitLog2;
    static constexpr bool is_interleaved = Interleaved;
    static constexpr bool is_paired = false;
    using ScaleType = Scale;
    Bytes8 codes;
    Scale scale[SCALES];
    float d = 1.0f;
};

// The same with integer scales of 16 weights, for octets in order: the first scale is that of octets 0 and 1 of each 32 weights.
struct PairedOctet : SignedOctet<2, int32_t> {
    static constexpr bool is_paired = true;
};

// The same as sums of two signed bytes.
template <typename Scale, int UnitLog2 = 0>
struct SummedOctet : SignedOctet<1, Scale, UnitLog2, true> {
    Bytes8 rest;
};

// Reads four bytes at `p`, which is aligned to Align bytes.
template <int Align>
DEVICE uint32_t load_u8x4(const uint8_t* p) {
    if constexpr (Align >= 4) {
        return load<uint32_t>(p);
    } else if constexpr (Align == 2) {
        return byte_permute(load<uint16_t>(p), load<uint16_t>(p + 2), 0x5410);
    } else {
        const uint32_t low = byte_permute(load<uint8_t>(p), load<uint8_t>(p + 1), 0x5540);
        const uint32_t high = byte_permute(load<uint8_t>(p + 2), load<uint8_t>(p + 3), 0x5540);
        return byte_permute(low, high, 0x5410);
    }
}

// Reads eight bytes at `p`, which is aligned to Align bytes.
template <int Align>
DEVICE Bytes8 load_u8x8(const uint8_t* p) {
    if constexpr (Align >= 8) {
        const uint2 words = load<uint2>(p);
        return {words.x, words.y};
    } else {
        return {load_u8x4<Align>(p), load_u8x4<Align>(p + 4)};
    }
}

// Four bytes at `p` and the four 16 bytes on: a split octet where a byte holds bits of one of 32 weights.
template <int Align>
DEVICE Bytes8 load_halves(const uint8_t* p) {
    return {load_u8x4<Align>(p), load_u8x4<Align>(p + 16)};
}

// The bits of `mask` in every byte, after a shift right.
DEVICE Bytes8 field(Bytes8 bytes, uint32_t shift, uint32_t mask) {
    return {bytes.lo >> shift & mask, bytes.hi >> shift & mask};
}

DEVICE Bytes8 nibbles(Bytes8 bytes, uint32_t shift) { return field(bytes, shift, 0x0F0F0F0Fu); }

// A split octet where four bytes hold a weight in each nibble.
DEVICE Bytes8 both_nibbles(uint32_t bytes) { return {bytes & 0x0F0F0F0Fu, bytes >> 4 & 0x0F0F0F0Fu}; }

// Puts `high` above the lowest Position bits of each byte of `low`.
template <int Position>
DEVICE Bytes8 merge(Bytes8 low, Bytes8 high) {
    return {low.lo | high.lo << Position, low.hi | high.hi << Position};
}

// Bit i of the lowest four bits, as bit 0 of byte i: the four products of the multiplication do not overlap.
DEVICE uint32_t spread_bits(uint32_t bits) { return (bits & 15) * 0x00204081u & 0x01010101u; }

// Bit i of `bits` (eight of them), as bit 0 of byte i.
DEVICE Bytes8 spread_bits8(uint32_t bits) { return {spread_bits(bits), spread_bits(bits >> 4 & 15)}; }

// A split octet's bits: bit i of `bits` belongs to weight i of 32.
DEVICE Bytes8 spread_halves(uint32_t bits, uint32_t octet) {
    return {spread_bits(bits >> 4 * octet), spread_bits(bits >> (4 * octet + 16))};
}

static constexpr float kTwo23 = 8388608.0f;

// 2^23 + byte `index` of `word`, exactly.
DEVICE float byte_above_two23(uint32_t word, uint32_t index) {
    return bits_to_float(byte_permute(word, 0x4B000000u, 0x7440u | index));
}

DEVICE float byte_to_float(uint32_t word, uint32_t index) { return byte_above_two23(word, index) - kTwo23; }

// Byte `index` of `word`.
DEVICE int32_t byte_at(uint32_t word, uint32_t index) {
    return static_cast<int32_t>(byte_permute(word, 0, 0x4440u | index));
}

// The same with its sign.
DEVICE int32_t signed_byte(uint32_t word, uint32_t index) {
    return static_cast<int32_t>(byte_or_sign_permute(word, 0, 0x8880u + index * 0x1111u));
}

// Signed values stored as bytes with this much added: what codebooks hold and what `negate_bytes` needs.
static constexpr float kBias = 128.0f;

// Signed bytes to biased ones.
DEVICE Bytes8 bias_bytes(Bytes8 bytes) { return {bytes.lo ^ 0x80808080u, bytes.hi ^ 0x80808080u}; }

// Biased bytes, negated where bit i of `signs` (eight of them) is set: 128 - v = ~(128 + v) + 1, without a carry.
DEVICE Bytes8 negate_bytes(Bytes8 biased, uint32_t signs) {
    const Bytes8 ones = spread_bits8(signs);
    return {(biased.lo ^ ones.lo * 255) + ones.lo, (biased.hi ^ ones.hi * 255) + ones.hi};
}

// The eighth sign makes the count even (ggml's ksigns_iq2xs, computed).
DEVICE uint32_t complete_signs(uint32_t seven) { return seven | (count_ones(seven) & 1) << 7; }

// Sixteen biased bytes: entry 4i + j is byte j of word[i].
struct Table16 {
    uint32_t word[4];
};

// Replaces each nibble (one per byte) by its table entry: per four of them two permutes look up both halves of the
// table by the low three bits, and a third picks by the fourth bit.
DEVICE Bytes8 look_up(Table16 table, Bytes8 nibble) {
    const uint32_t packed = nibble.lo | nibble.hi << 4;  // nibble 2i is entry i of lo, 2i + 1 entry i of hi
    uint32_t found[2];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
        const uint32_t four = packed >> 16 * i;
        const uint32_t lower = byte_permute(table.word[0], table.word[1], four & 0x7777u);
        const uint32_t upper = byte_permute(table.word[2], table.word[3], four & 0x7777u);
        found[i] = byte_permute(lower, upper, 0x3210u | (four >> 1 & 0x4444u));
    }
    return {byte_permute(found[0], found[1], 0x6420), byte_permute(found[0], found[1], 0x7531)};
}

// The bytes of a word in reverse order.
DEVICE constexpr uint32_t reverse_bytes(uint32_t word) {
    return word << 24 | (word << 8 & 0x00FF0000u) | (word >> 8 & 0x0000FF00u) | word >> 24;
}

// The entries for the eight nibbles of `word`, less the bias, as sums of two bytes: those of the low nibbles in even bytes, of the
// high ones in odd bytes. A permute gives the sign of an entry where the nibble's fourth bit is set. So the half of the table that
// has negative entries gives -1 or 0 for nibbles of the other half, whose entries, none negative, make up for it. The upper half
// takes nibbles with that bit flipped, or, by products, with all bits flipped and the half reversed: no fewer instructions, but
// two fewer on the pipe that permutes take.
template <bool UpperIsNegative, bool ByProducts = false>
DEVICE void look_up_sum(Table16 table, uint32_t word, Bytes8& codes, Bytes8& rest) {
    constexpr int NEGATIVE = UpperIsNegative ? 2 : 0, POSITIVE = 2 - NEGATIVE;
    uint32_t negative[2], positive[2];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
        negative[i] = table.word[NEGATIVE + i] ^ 0x80808080u;
        positive[i] = (table.word[POSITIVE + i] ^ 0x80808080u) + (negative[i] >> 7 & 0x01010101u);
    }
    Bytes8 flipped;
    if constexpr (ByProducts) {
        uint32_t (&upper)[2] = UpperIsNegative ? negative : positive;
        const uint32_t first = reverse_bytes(upper[1]);
        upper[1] = reverse_bytes(upper[0]);
        upper[0] = first;
        flipped = {complement_of_half<false>(word), complement_of_half<true>(word)};
    } else {
        const uint32_t all = word ^ 0x88888888u;
        flipped = {all, all >> 16};
    }
    const Bytes8 halves = {word, word >> 16};
    const Bytes8 of_negative = UpperIsNegative ? flipped : halves, of_positive = UpperIsNegative ? halves : flipped;
    codes = {byte_or_sign_permute(negative[0], negative[1], of_negative.lo),
             byte_or_sign_permute(negative[0], negative[1], of_negative.hi)};
    rest = {byte_or_sign_permute(positive[0], positive[1], of_positive.lo),
            byte_or_sign_permute(positive[0], positive[1], of_positive.hi)};
}

// The integers that scale and offset apply to, as exact floats.
DEVICE void to_integers(Bytes8 codes, float bias, float (&q)[8]) {
#pragma unroll
    for (int i = 0; i < 8; ++i) {
        q[i] = byte_above_two23(i < 4 ? codes.lo : codes.hi, i & 3) - (kTwo23 + bias);
    }
}

// The weights, rounded as ggml does: after the product and, with an offset, once more after the sum.
template <typename AnyOctet>
DEVICE void to_weights(AnyOctet octet, float (&w)[8]) {
    if constexpr (AnyOctet::has_offset) to_integers(octet.codes, 0.0f, w);
    else to_integers(octet.codes, octet.bias, w);
#pragma unroll
    for (int i = 0; i < 8; ++i) {
        const int half = i / 4 * (AnyOctet::n_scales - 1);
        w[i] = octet.d * octet.scale[half] * w[i];
        if constexpr (AnyOctet::has_offset) w[i] = w[i] + octet.offset[half];
    }
}
