// Integers: bytes and bits of words, divisions, long products.
#include "ptx/language.cuh"

// As byte_permute, by the lower half of the selector; where the fourth bit of a nibble is set, the sign of the byte in all bits.
DEVICE uint32_t byte_or_sign_permute(uint32_t low, uint32_t high, uint32_t selector) {
#ifdef MMVQ_HOST
    const uint64_t bytes = static_cast<uint64_t>(high) << 32 | low;
    uint32_t result = 0;
    for (int i = 0; i < 4; ++i) {
        const uint32_t nibble = selector >> 4 * i & 15, byte = bytes >> 8 * (nibble & 7) & 0xFF;
        result |= (nibble < 8 ? byte : byte < 128 ? 0 : 0xFF) << 8 * i;
    }
    return result;
#else
    uint32_t result;
    asm("prmt.b32 %0, %1, %2, %3;" : "=r"(result) : "r"(low), "r"(high), "r"(selector));
    return result;
#endif
}

// Byte i of the result is byte `selector >> 4i & 7` of the eight bytes low, high. No selector nibble exceeds 7.
DEVICE uint32_t byte_permute(uint32_t low, uint32_t high, uint32_t selector) {
#ifdef MMVQ_HOST
    const uint64_t bytes = static_cast<uint64_t>(high) << 32 | low;
    uint32_t result = 0;
    for (int i = 0; i < 4; ++i) {
        assert((selector >> 4 * i & 15) < 8);
        result |= static_cast<uint32_t>(bytes >> 8 * (selector >> 4 * i & 7) & 0xFF) << 8 * i;
    }
    return result;
#else
    uint32_t result;  // __byte_perm would mask the selector once more
    asm("prmt.b32 %0, %1, %2, %3;" : "=r"(result) : "r"(low), "r"(high), "r"(selector));
    return result;
#endif
}

// The upper word of the two, shifted left by `bits` modulo 32.
DEVICE uint32_t funnel_shift_left(uint32_t low, uint32_t high, uint32_t bits) {
#ifdef MMVQ_HOST
    return static_cast<uint32_t>((static_cast<uint64_t>(high) << 32 | low) << bits % 32 >> 32);
#else
    return __funnelshift_l(low, high, bits);
#endif
}

// The lower or upper half of a word, all its bits flipped, in the lower half of the result. Products with -1 and 0: they take
// another pipe than logic, shifts and permutes, which run at half the rate.
template <bool Upper>
DEVICE uint32_t complement_of_half(uint32_t word) {
#ifdef MMVQ_HOST
    return ~(Upper ? word >> 16 : word & 0xFFFFu);
#else
    const uint32_t factors = 0xFF0000FFu, minus_one = 0xFFFFFFFFu;  // of a word's halves: -1 and 0, or 0 and -1
    uint32_t result;
    if constexpr (Upper) {
        asm("dp2a.hi.u32.s32 %0, %1, %2, %3;" : "=r"(result) : "r"(word), "r"(factors), "r"(minus_one));
    } else {
        asm("dp2a.lo.u32.s32 %0, %1, %2, %3;" : "=r"(result) : "r"(word), "r"(factors), "r"(minus_one));
    }
    return result;
#endif
}

// word >> 8, before any mask: a compiler that masks first shifts again for every other mask.
DEVICE uint32_t shift_right_8(uint32_t word) {
#ifdef MMVQ_HOST
    return word >> 8;
#else
    uint32_t result;
    asm("shr.u32 %0, %1, 8;" : "=r"(result) : "r"(word));
    return result;
#endif
}

// (word & mask) | bits as one instruction; compilers turn the second step into an addition of its own.
DEVICE uint32_t and_or(uint32_t word, uint32_t mask, uint32_t bits) {
#ifdef MMVQ_HOST
    return (word & mask) | bits;
#else
    uint32_t result;
    asm("lop3.b32 %0, %1, %2, %3, 0xEA;" : "=r"(result) : "r"(word), "r"(mask), "r"(bits));
    return result;
#endif
}

DEVICE uint32_t count_ones(uint32_t bits) {
#ifdef MMVQ_HOST
    return static_cast<uint32_t>(__builtin_popcount(bits));
#else
    return static_cast<uint32_t>(__popc(bits));
#endif
}

// The lowest bit that is set, of a word that has one.
DEVICE int32_t lowest_bit(uint32_t bits) {
#ifdef MMVQ_HOST
    return __builtin_ctz(bits);
#else
    return __ffs(static_cast<int32_t>(bits)) - 1;
#endif
}

// a / b for a >= 0, b > 0: a 64-bit division takes five times as long as the 32-bit one that nearly always does.
DEVICE int64_t quotient(int64_t a, int32_t b) {
    if (a >> 32 == 0) return static_cast<uint32_t>(a) / static_cast<uint32_t>(b);
    return a / b;
}

// The upper half of a product of 64 bits.
DEVICE uint32_t multiply_high(uint32_t a, uint32_t b) {
#ifdef MMVQ_HOST
    return static_cast<uint32_t>(static_cast<uint64_t>(a) * b >> 32);
#else
    return __umulhi(a, b);
#endif
}
