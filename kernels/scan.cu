// What the scales of packed blocks say, expert by expert: for `mmvq validate`, which judges it on the host.
//
//   extremes[e] = the largest magnitude, is one negative, is anything not zero, is an exponent odd   (see ScaleField)
//   powers[e, x] = sum of significand^2 over the finite scales of expert e whose exponent is x
//
// Integers only, so any order of the sums gives the same bits as the CPU. One thread takes a block of weights and steps
// on by the grid. It reads the bytes of one scale field (all bytes where there is an exponent rule), once: what limits it
// is how the blocks come to the device. No Plan picks it.
#include "ptx.cuh"

// One scale field; mmvq_cli/engine/cuda/scan.py states the same struct.
struct ScaleField {
    int32_t type_size;      // bytes of a block
    int32_t offset;         // of the field's first byte in the block
    int32_t width;          // bytes of a scale; 8 means fp16 in the top nibbles of four u16, lowest first
    int32_t lanes;          // scales in a block, one after the other
    uint32_t sign;          // its bit, or 0
    uint32_t not_finite;    // smallest magnitude that is NaN or Inf
    int32_t mantissa_bits;  // below the exponent
    int32_t kept_bits;      // of the mantissa that count in the sums; negative: no sums
    int32_t lowest;         // an exponent below it is odd unless all codes are zeros; negative: no such rule
    int32_t highest;        // an exponent above it is odd
};

// Rows of results: int32 extremes[4] and uint64 powers[N_EXPONENTS] for each expert, zeroed before the launch.
constexpr int32_t N_EXPONENTS = 256;
enum Extreme { LARGEST, NEGATIVE, NOT_ZERO, ODD, N_EXTREMES };

DEVICE uint32_t read_scale(const uint8_t* p, int32_t width) {
    if (width == 8) return p[1] >> 4 | (p[3] >> 4) << 4 | (p[5] >> 4) << 8 | (p[7] >> 4) << 12;
    uint32_t bits = 0;
    for (int32_t byte = 0; byte < width; ++byte) bits |= static_cast<uint32_t>(p[byte]) << 8 * byte;
    return bits;
}

// *target = max(*target, value), without a write where it changes nothing: most scales are not the largest.
DEVICE void raise(int32_t* target, int32_t value) {
    int32_t seen = atomic_load(target);
    while (seen < value) {
        const int32_t before = atomic_compare_and_swap(target, seen, value);
        if (before == seen) return;
        seen = before;
    }
}

DEVICE void look_at_exponent(const uint8_t* block, const ScaleField& f, int32_t* extremes) {
    const int32_t exponent = block[f.offset];
    uint32_t any = exponent, codes = 0;
    for (int32_t byte = 1; byte < f.type_size; ++byte) {
        any |= block[byte];
        codes |= block[byte] & 0x77u;  // without the signs: -0 is 0
    }
    if (any) raise(extremes + NOT_ZERO, 1);
    if (exponent > f.highest || (exponent < f.lowest && codes)) raise(extremes + ODD, 1);
}

// blocks [n_blocks, type_size], `expert_blocks` of them for each expert.
KERNEL scan_scales(const uint8_t* blocks, int64_t n_blocks, int64_t expert_blocks, const GRID_CONSTANT ScaleField f,
                   int32_t* extremes, uint64_t* powers) {
    for (int64_t i = thread_in_grid(); i < n_blocks; i += threads_in_grid()) {
        const uint8_t* block = blocks + i * f.type_size;
        int32_t* own = extremes + i / expert_blocks * N_EXTREMES;
        uint64_t* sums = powers + i / expert_blocks * N_EXPONENTS;
        for (int32_t lane = 0; lane < f.lanes; ++lane) {
            const uint32_t bits = read_scale(block + f.offset + lane * f.width, f.width);
            const uint32_t magnitude = bits & ~f.sign;
            raise(own + LARGEST, static_cast<int32_t>(magnitude));
            if (magnitude && bits != magnitude) raise(own + NEGATIVE, 1);
            if (magnitude && f.lowest < 0) raise(own + NOT_ZERO, 1);
            if (f.kept_bits < 0 || magnitude >= f.not_finite) continue;
            const uint32_t exponent = magnitude >> f.mantissa_bits;
            const uint32_t mantissa = magnitude & ((1u << f.mantissa_bits) - 1);
            const bool leads = exponent > 0 || f.mantissa_bits == 0;
            const uint64_t significand =
                mantissa >> (f.mantissa_bits - f.kept_bits) | static_cast<uint32_t>(leads) << f.kept_bits;
            atomic_add(sums + exponent, significand * significand);
        }
        if (f.lowest >= 0) look_at_exponent(block, f, own);
    }
}
