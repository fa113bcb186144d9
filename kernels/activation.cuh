// Activations and outputs: one element type for both, MMVQ_ACTIVATION = 0 f32, 1 f16, 2 bf16. Arithmetic is float.

#include "ptx.cuh"

#if MMVQ_ACTIVATION == 0
using Element = float;
DEVICE float to_float(Element value) { return value; }
DEVICE Element from_float(float value) { return value; }
#elif MMVQ_ACTIVATION == 1
struct Element {
    uint16_t bits;  // IEEE binary16
};
DEVICE float to_float(Element value) { return half_to_float(value.bits); }
DEVICE Element from_float(float value) { return {float_to_half(value)}; }
DEVICE void atomic_add(Element* target, float value) { atomic_add_half(&target->bits, value); }
#elif MMVQ_ACTIVATION == 2
struct Element {
    uint16_t bits;  // bfloat16
};
DEVICE float to_float(Element value) { return bfloat_to_float(value.bits); }
DEVICE Element from_float(float value) { return {float_to_bfloat(value)}; }
DEVICE void atomic_add(Element* target, float value) { atomic_add_bfloat(&target->bits, value); }
#else
#error "MMVQ_ACTIVATION must be 0 (f32), 1 (f16) or 2 (bf16)"
#endif

// x[0..8) = row[8 * octet ..], zero past n_cols. `whole_vectors`: every row starts 16-byte aligned and n_cols is a
// multiple of 8, so the octet can be read as 16-byte vectors.
DEVICE void load_activations(const Element* row, int octet, int n_cols, bool whole_vectors, float (&x)[8]) {
    const Element* source = row + 8 * static_cast<int64_t>(octet);
    if (whole_vectors) {
        Element elements[8];
        load_vectors<sizeof(elements)>(source, elements);
#pragma unroll
        for (int i = 0; i < 8; ++i) x[i] = to_float(elements[i]);
        return;
    }
#pragma unroll
    for (int i = 0; i < 8; ++i) x[i] = 8 * octet + i < n_cols ? to_float(source[i]) : 0.0f;
}

DEVICE bool rows_are_whole_vectors(const void* base, int n_cols) {
    return n_cols % 8 == 0 && address_of(base) % 16 == 0;
}
