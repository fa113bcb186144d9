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

DEVICE bool rows_are_whole_vectors(const void* base, int n_cols) {
    return n_cols % 8 == 0 && address_of(base) % 16 == 0;
}
