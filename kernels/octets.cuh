// Activations in the order of a format's octets.
#include "activation.cuh"
#include "format.cuh"

// The eight activations of an octet of WeightFormat (format.cuh), zero past n_cols. `whole_vectors`: every row starts
// 16-byte aligned and n_cols is a multiple of 8, so that they can be read as vectors.
template <typename F = WeightFormat>
DEVICE void load_elements(const Element* row, uint32_t octet, int n_cols, bool whole_vectors, Element (&x)[8]) {
    const Element* lower = row + weight_in_row<F>(octet, 0);
    if (whole_vectors && F::is_split) {
        Element halves[2][4];
        load_vectors<sizeof(halves[0])>(lower, halves[0]);
        load_vectors<sizeof(halves[1])>(lower + 16, halves[1]);
        memcpy(x, halves, sizeof(halves));
    } else if (whole_vectors) {
        load_vectors<sizeof(x)>(lower, x);
    } else {
#pragma unroll
        for (uint32_t i = 0; i < 8; ++i) {
            const int32_t k = weight_in_row<F>(octet, i);
            x[i] = k < n_cols ? row[k] : Element{};
        }
    }
}

DEVICE void load_activations(const Element* row, uint32_t octet, int n_cols, bool whole_vectors, float (&x)[8]) {
    Element elements[8];
    load_elements(row, octet, n_cols, whole_vectors, elements);
#pragma unroll
    for (int i = 0; i < 8; ++i) x[i] = to_float(elements[i]);
}
