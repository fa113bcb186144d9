// Weights and activations as f16 operands of the tensor cores.
//
// Weights are exact: folded strips (formats/fold.cuh), or byte codes as integers (code - bias) whose scale goes on the sums. An
// octet is four words: weights (0, 2), (1, 3), (4, 6), (5, 7), the order in which masks take bytes out of words.
// Activations: f16 as it is. Others are multiplied, 256 at a time, by the power of two that brings the largest between 1 and 2^15,
// and cut into f16 parts: bfloat16 in one, exactly down to 2^-17 of the largest and else to 2^-25 of it; f32 in two,
// hi + lo / 2^11, to 2^-23 of each or 2^-36 of the largest.
#include "octets.cuh"

constexpr bool IS_INTEGER = MMVQ_DIGITS > 0;                  // integers of 8 bits instead of f16
constexpr bool IS_PLAIN = MMVQ_PLAIN;                         // floats, multiplied as f32: no tensor cores
constexpr bool IS_FLOAT = MMVQ_BLOCK_SIZE == 1 && !IS_PLAIN;  // floats as f16
constexpr bool IS_SCALED = !IS_PLAIN && (IS_INTEGER || IS_FLOAT || MMVQ_ACTIVATION != 1);
constexpr int PARTS = IS_INTEGER ? MMVQ_DIGITS : !IS_PLAIN && MMVQ_ACTIVATION == 0 ? 2 : 1;  // of an activation
constexpr float kLowPart = IS_INTEGER ? 256.0f : 2048.0f;  // what a part is multiplied by to be the next
static_assert(MMVQ_BLOCK_SIZE == 1 || !IS_PLAIN, "blocks are multiplied on the tensor cores");
static_assert(MMVQ_DIGITS == 0 || MMVQ_DIGITS == 3, "an activation's digits and one more column are half a tile");

constexpr uint32_t kMmaOne = 0x3C003C00u;

DEVICE void multiply_add(float (&sums)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    mma_f16(sums, a, b, sums);
}

DEVICE void multiply(float (&sums)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    mma_f16(sums, a, b, {0.0f, 0.0f, 0.0f, 0.0f});
}

// ---- Weights.

template <typename F>
DEVICE constexpr auto has_strips(int) -> decltype(sizeof(typename F::Strip) > 0) {
    return true;
}

template <typename F>
DEVICE constexpr bool has_strips(...) {
    return false;
}

constexpr bool IS_FOLDED = !IS_INTEGER && has_strips<WeightFormat>(0);

template <typename F>
DEVICE constexpr auto has_quarters(int) -> decltype(sizeof(typename F::Quarters) > 0) {
    return true;
}

template <typename F>
DEVICE constexpr bool has_quarters(...) {
    return false;
}

constexpr bool HAS_QUARTERS = IS_INTEGER && has_quarters<WeightFormat>(0);

// How many pairs of offsets a strip has.
template <typename Strip>
DEVICE constexpr auto min_pairs(int) -> decltype(sizeof(Strip::mins) > 0, 0) {
    return sizeof(Strip::mins) / sizeof(uint32_t);
}

template <typename Strip>
DEVICE constexpr int min_pairs(...) {
    return 0;
}

// Each code in a 16-bit half of its own, under the exponent of 1024. (A code alone would be a subnormal, its 2^-24 multiple,
// without any conversion, but then the tensor cores line products up by its exponent, not its first bit, and lose the bits
// between.)
DEVICE void spread_codes(Bytes8 codes, uint32_t (&pairs)[4]) {
    const uint32_t mask = 0x00FF00FFu;
    pairs[0] = and_or(codes.lo, mask, kAbove1024);
    pairs[1] = and_or(shift_right_8(codes.lo), mask, kAbove1024);
    pairs[2] = and_or(codes.hi, mask, kAbove1024);
    pairs[3] = and_or(shift_right_8(codes.hi), mask, kAbove1024);
}

template <int SCALES>
DEVICE void to_mma_weights(ShiftedOctet<SCALES> octet, uint32_t (&pairs)[4]) {
    spread_codes(octet.codes, pairs);
#pragma unroll
    for (int i = 0; i < 4; ++i) pairs[i] = half2_subtract(pairs[i], kAbove1024);
}

template <int SCALES>
DEVICE void to_mma_weights(BiasedOctet<SCALES> octet, uint32_t (&pairs)[4]) {
    spread_codes(octet.codes, pairs);
    const uint32_t bias = (0x6400u + static_cast<uint32_t>(octet.bias)) * 0x00010001u;
#pragma unroll
    for (int i = 0; i < 4; ++i) pairs[i] = half2_subtract(pairs[i], bias);
}

template <int SCALES>
DEVICE void to_mma_weights(HalfOctet<SCALES> octet, uint32_t (&pairs)[4]) {
#pragma unroll
    for (int i = 0; i < 4; ++i) pairs[i] = octet.pairs[i];
}

// An octet of a row, as f16 where its format has a short way to them, unless small scales then lost bits that f32 asks for.
#if MMVQ_ACTIVATION != 0 && MMVQ_DIGITS == 0
template <typename F = WeightFormat>
DEVICE auto unpack_operands(const uint8_t* row, uint32_t octet) -> decltype(F::unpack_halves(row, octet)) {
    constexpr uint32_t octets = F::block_size / 8;
    return F::unpack_halves(row + static_cast<int64_t>(octet / octets) * MMVQ_TYPE_SIZE, octet % octets);
}
#endif

#if MMVQ_DIGITS > 0
template <typename F = WeightFormat>
DEVICE auto unpack_operands(const uint8_t* row, uint32_t octet) -> decltype(F::unpack_integers(row, octet)) {
    constexpr uint32_t octets = F::block_size / 8;
    return F::unpack_integers(row + static_cast<int64_t>(octet / octets) * MMVQ_TYPE_SIZE, octet % octets);
}
#endif

template <typename F = WeightFormat, typename... Unused>
DEVICE auto unpack_operands(const uint8_t* row, uint32_t octet, Unused...) {
    return unpack_octet<F>(row, octet);
}

template <typename F>
DEVICE constexpr auto has_heads(int) -> decltype(sizeof(typename F::Head) > 0) {
    return IS_INTEGER;
}

template <typename F>
DEVICE constexpr bool has_heads(...) {
    return false;
}

// 256 weights of a row, all of which a lane unpacks octets of.
template <typename F, bool HasHead = has_heads<F>(0)>
struct Run {
    const uint8_t* row;

    DEVICE Run of(const uint8_t* row, uint32_t, const Grid&) { return {row}; }

    DEVICE auto unpack(const Run& run, uint32_t octet) { return unpack_operands<F>(run.row, octet); }
};

// The same where a head saves each octet some work.
template <typename F>
struct Run<F, true> {
    const uint8_t* row;
    typename F::Head head;

    DEVICE Run of(const uint8_t* row, uint32_t t, const Grid& grid) { return {row, F::head(row, t, grid)}; }

    DEVICE auto unpack(const Run& run, uint32_t octet) { return F::unpack_integers(run.head, run.row, octet); }
};

// Whether the format's operands are multiples of 1 / kHalfUnit.
template <typename F = WeightFormat>
DEVICE constexpr bool are_halves() {
    if constexpr (IS_FOLDED || IS_INTEGER || IS_PLAIN || IS_FLOAT) return false;
    else return decltype(unpack_operands<F>(nullptr, 0))::are_halves;
}

template <typename F>
using OctetOf = decltype(Run<F>::unpack(Run<F>::of(nullptr, 0, Grid{}), 0));

template <typename F, bool Plain>
struct OperandsOf {
    using Type = OctetOf<F>;
};

template <typename F>
struct OperandsOf<F, true> {
    struct Type {};
};

using Operands = OperandsOf<WeightFormat, IS_PLAIN || IS_FLOAT>::Type;

template <typename AnyOctet>
DEVICE constexpr auto is_signed(int) -> decltype(AnyOctet::is_interleaved, true) {
    return true;
}

template <typename AnyOctet>
DEVICE constexpr bool is_signed(...) {
    return false;
}

template <typename AnyOctet>
DEVICE constexpr bool is_interleaved() {
    if constexpr (is_signed<AnyOctet>(0)) return AnyOctet::is_interleaved;
    else return false;
}

// Whether lanes 0 and 1 of a step's four have another scale than lanes 2 and 3.
template <typename AnyOctet>
DEVICE constexpr bool is_paired() {
    if constexpr (is_signed<AnyOctet>(0)) return AnyOctet::is_paired;
    else return false;
}

template <typename AnyOctet>
DEVICE constexpr bool has_integer_scales() {
    if constexpr (is_signed<AnyOctet>(0)) return typename AnyOctet::ScaleType(0.5f) == 0;
    else return false;
}

// ---- Activations.

// Which weight of its 256 is weight e of the octet that lane t multiplies as its i-th.
template <typename F = WeightFormat>
DEVICE constexpr int32_t mma_weight(int32_t t, int32_t i, int32_t e) {
    if constexpr (IS_FOLDED) return F::strip_weight(t, i, e);
    else return weight_in_row<F>(4 * i + t, e);
}

// Eight activations in the order of an octet's weights, from `row`, the first of the octet's 256; zero from `end` on. Weights 0
// to 3 and 4 to 7 are neighbours, at multiples of 4. `whole_vectors`: the row is aligned to 16 bytes, `end` a multiple of 8.
DEVICE void load_mma_octet(const Element* row, int32_t t, int32_t i, int32_t end, bool whole_vectors, Element (&x)[8]) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        const int32_t first = mma_weight(t, i, 4 * half);
        Element four[4] = {};
        if (whole_vectors) {
            if (first < end) load_vectors<sizeof(four)>(row + first, four);
        } else {
#pragma unroll
            for (int e = 0; e < 4; ++e) {
                if (first + e < end) four[e] = row[first + e];
            }
        }
#pragma unroll
        for (int e = 0; e < 4; ++e) x[is_interleaved<Operands>() ? 2 * e + half : 4 * half + e] = four[e];
    }
}

// 2^e, a normal number.
DEVICE float power_of_two(int32_t e) { return bits_to_float(static_cast<uint32_t>(e + 127) << 23); }

// Sums of integers are multiples of 2^-this.
template <typename AnyOctet = Operands>
DEVICE constexpr int32_t unit_log2() {
    if constexpr (is_signed<AnyOctet>(0)) return AnyOctet::unit_log2;
    else return 0;
}

// What 256 activations are multiplied by, and what their sums are multiplied by again, one factor after the other: the square
// roots of the whole, so that no step leaves the range of f32 when sum and result are within it.
struct Powers {
    float up[2], down[2];

    // The same for digits: the largest becomes an integer of 23 bits, and not quite 2^23, which takes four digits.
    DEVICE Powers of_digits(uint32_t bits) {
        const int32_t exponent = max(static_cast<int32_t>((bits + 0x00010000u) >> 23), 1) - 127;
        const int32_t up = 22 - exponent, first_up = min(up, 127), down = 16 - up - unit_log2(), half = down >> 1;
        return {{power_of_two(first_up), power_of_two(up - first_up)}, {power_of_two(half), power_of_two(down - half)}};
    }

    // `bits`: of the largest finite magnitude, which is left where it is from 1 to 2^15, else brought to the nearer end.
    DEVICE Powers of(uint32_t bits) {
        const int32_t exponent = max(static_cast<int32_t>(bits >> 23), 1) - 127;
        const int32_t up = min(max(exponent, 0), 14) - exponent;
        const int32_t down = (are_halves() ? kHalfUnitLog2 : 0) - up, half = down >> 1;
        return {{power_of_two(up), 1.0f}, {power_of_two(half), power_of_two(down - half)}};
    }
};

// The magnitude of a finite float as an integer that orders them; 0 for others.
DEVICE uint32_t finite_magnitude(float x) {
    const uint32_t bits = float_to_bits(x) & 0x7FFFFFFFu;
    return bits < 0x7F800000u ? bits : 0;
}

// Activations as words of f16 parts, in the order of the weights' words.
DEVICE void to_mma_columns(const float (&x)[8], uint4 (&parts)[PARTS]) {
    uint32_t words[PARTS][4];
#pragma unroll
    for (int word = 0; word < 4; ++word) {
        const int first = 4 * (word / 2) + word % 2;
        const uint32_t low = float_to_half(x[first]), high = float_to_half(x[first + 2]);
        words[0][word] = low | high << 16;
        if constexpr (PARTS == 2) {
            const uint32_t low_rest = float_to_half((x[first] - half_to_float(low)) * kLowPart),
                           high_rest = float_to_half((x[first + 2] - half_to_float(high)) * kLowPart);
            words[1][word] = low_rest | high_rest << 16;
        }
    }
#pragma unroll
    for (int part = 0; part < PARTS; ++part) {
        parts[part] = {words[part][0], words[part][1], words[part][2], words[part][3]};
    }
}

// Integers of at most 24 bits as words of their digits to base 256, from -128 to 127, in the order of the octet's bytes; the
// highest digit first.
DEVICE void to_digits(const float (&x)[8], uint2 (&digits)[PARTS]) {
    int32_t rest[8];
#pragma unroll
    for (int i = 0; i < 8; ++i) rest[i] = float_to_int(x[i]);
#pragma unroll
    for (int part = PARTS - 1; part >= 0; --part) {
        uint32_t words[2] = {};
#pragma unroll
        for (int i = 0; i < 8; ++i) {
            words[i / 4] |= (rest[i] & 0xFFu) << 8 * (i % 4);
            rest[i] = static_cast<int32_t>(static_cast<uint32_t>(rest[i]) + 128u) >> 8;  // without the signed digit
        }
        digits[part] = {words[0], words[1]};
    }
}

// A float as three bfloat16 whose sum it is: its upper half, that of the rest, and what is left.
struct BfloatParts {
    uint32_t part[3];  // each in the upper half of the word

    DEVICE BfloatParts of(float x) {
        BfloatParts parts;
#pragma unroll
        for (int i = 0; i < 3; ++i) {
            parts.part[i] = float_to_bits(x) & 0xFFFF0000u;
            x -= bits_to_float(parts.part[i]);
        }
        return parts;
    }
};
