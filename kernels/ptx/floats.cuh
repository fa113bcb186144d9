// Floats: their bits, conversions, arithmetic that is rounded once.
#include "ptx/language.cuh"

DEVICE float bits_to_float(uint32_t bits) {
#ifdef MMVQ_HOST
    float value;
    std::memcpy(&value, &bits, sizeof(value));
    return value;
#else
    return __uint_as_float(bits);
#endif
}

DEVICE uint32_t float_to_bits(float value) {
#ifdef MMVQ_HOST
    uint32_t bits;
    std::memcpy(&bits, &value, sizeof(bits));
    return bits;
#else
    return __float_as_uint(value);
#endif
}

// IEEE binary16 to binary32: exact, subnormals included.
DEVICE float half_to_float(uint16_t half) {
#ifdef MMVQ_HOST
    const uint32_t sign = (half & 0x8000u) << 16, exponent = (half >> 10) & 31, mantissa = half & 0x3FFu;
    if (exponent == 0) return std::copysign(std::ldexp(static_cast<float>(mantissa), -24), bits_to_float(sign | 1));
    return bits_to_float(sign | (exponent == 31 ? 255u : exponent + 112) << 23 | mantissa << 13);
#else
    float value;
    asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(half));
    return value;
#endif
}

// bfloat16 is the upper half of binary32.
DEVICE float bfloat_to_float(uint16_t bfloat) { return bits_to_float(static_cast<uint32_t>(bfloat) << 16); }

// a * b + c, rounded once; everything else is compiled without contraction.
DEVICE float fused_multiply_add(float a, float b, float c) {
#ifdef MMVQ_HOST
    return std::fma(a, b, c);
#else
    return __fmaf_rn(a, b, c);
#endif
}

// Rounded to nearest even.
DEVICE float int_to_float(int32_t value) {
#ifdef MMVQ_HOST
    return static_cast<float>(value);
#else
    return __int2float_rn(value);
#endif
}

// Rounds to the nearest integer, ties to even; beyond int32 its nearer end, NaN is 0.
DEVICE int32_t float_to_int(float value) {
#ifdef MMVQ_HOST
    if (!(value > -2147483648.0f)) return value != value ? 0 : INT32_MIN;
    return value < 2147483648.0f ? static_cast<int32_t>(std::nearbyint(value)) : INT32_MAX;
#else
    return __float2int_rn(value);
#endif
}

// Round to nearest even, NaN stays NaN.
DEVICE uint16_t float_to_half(float value) {
#ifdef MMVQ_HOST
    const uint32_t sign = float_to_bits(value) >> 16 & 0x8000u, magnitude = float_to_bits(value) & 0x7FFFFFFFu;
    if (magnitude > 0x7F800000u) return 0x7FFF;
    if (magnitude >= 0x477FF000u) return static_cast<uint16_t>(sign | 0x7C00u);  // from 65520 on
    if (magnitude < 0x38800000u)                                                 // subnormal: a multiple of 2^-24
        return static_cast<uint16_t>(sign | static_cast<uint32_t>(std::nearbyint(std::ldexp(std::fabs(value), 24))));
    return static_cast<uint16_t>(sign | (magnitude + 0xFFFu + (magnitude >> 13 & 1) - 0x38000000u) >> 13);
#else
    uint16_t half;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(half) : "f"(value));
    return half;
#endif
}

// Round to nearest even, NaN stays NaN; an instruction of sm_80 and later.
DEVICE uint16_t float_to_bfloat(float value) {
#ifdef MMVQ_HOST
    const uint32_t bits = float_to_bits(value);
    if ((bits & 0x7FFFFFFFu) > 0x7F800000u) return 0x7FFF;
    return static_cast<uint16_t>((bits + 0x7FFFu + (bits >> 16 & 1)) >> 16);
#else
    uint16_t bfloat;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(bfloat) : "f"(value));
    return bfloat;
#endif
}

// Two floats as f16 in a word, rounded to nearest.
DEVICE uint32_t floats_to_half2(float low, float high) {
#ifdef MMVQ_HOST
    return float_to_half(low) | static_cast<uint32_t>(float_to_half(high)) << 16;
#else
    uint32_t result;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(result) : "f"(high), "f"(low));
    return result;
#endif
}

DEVICE float magnitude(float value) { return bits_to_float(float_to_bits(value) & 0x7FFFFFFFu); }

// a - b for two 16-bit floats in a word; exact where the kernels use it.
DEVICE uint32_t half2_subtract(uint32_t a, uint32_t b) {
#ifdef MMVQ_HOST
    const auto part = [&](int shift) {
        const float x = half_to_float(static_cast<uint16_t>(a >> shift)),
                    y = half_to_float(static_cast<uint16_t>(b >> shift));
        return static_cast<uint32_t>(float_to_half(x - y)) << shift;
    };
    return part(0) | part(16);
#else
    uint32_t result;
    asm("sub.rn.f16x2 %0, %1, %2;" : "=r"(result) : "r"(a), "r"(b));
    return result;
#endif
}

// a * b + c for two f16 in a word, rounded once; exact where the kernels use it.
DEVICE uint32_t half2_multiply_add(uint32_t a, uint32_t b, uint32_t c) {
#ifdef MMVQ_HOST
    const auto part = [&](int shift) {
        const auto widen = [&](uint32_t word) { return half_to_float(static_cast<uint16_t>(word >> shift)); };
        return static_cast<uint32_t>(float_to_half(std::fma(widen(a), widen(b), widen(c)))) << shift;
    };
    return part(0) | part(16);
#else
    uint32_t result;
    asm("fma.rn.f16x2 %0, %1, %2, %3;" : "=r"(result) : "r"(a), "r"(b), "r"(c));
    return result;
#endif
}

DEVICE uint32_t half2_multiply(uint32_t a, uint32_t b) {
#ifdef MMVQ_HOST
    return half2_multiply_add(a, b, 0x80008000u);
#else
    uint32_t result;
    asm("mul.rn.f16x2 %0, %1, %2;" : "=r"(result) : "r"(a), "r"(b));
    return result;
#endif
}

DEVICE uint32_t bfloat2_subtract(uint32_t a, uint32_t b) {
#ifdef MMVQ_HOST
    const auto part = [&](int shift) {
        const float x = bfloat_to_float(static_cast<uint16_t>(a >> shift)),
                    y = bfloat_to_float(static_cast<uint16_t>(b >> shift));
        return static_cast<uint32_t>(float_to_bfloat(x - y)) << shift;
    };
    return part(0) | part(16);
#else
    uint32_t result;  // b * -1 + a: the plain subtraction came with sm_90
    asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(result) : "r"(b), "r"(0xBF80BF80u), "r"(a));
    return result;
#endif
}
