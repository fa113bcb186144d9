// Unpacks weights to float32: out[r, k] = W[r, k], from the structs that every other kernel uses.
//
// One block of threads takes a row, one thread an octet (8 weights) of it, and both step on until none is left, so any
// grid works. Reads MMVQ_TYPE_SIZE / MMVQ_BLOCK_SIZE bytes and writes 4 bytes per weight: the writes limit it.
// It decodes for the large-case oracle (float64 products of `out`); no Plan picks it.

#include "format.cuh"

// weights [n_rows, row_bytes(n_cols)], out [n_rows, n_cols], n_cols a multiple of MMVQ_BLOCK_SIZE.
KERNEL dequantize(const uint8_t* __restrict__ weights, float* __restrict__ out, int64_t n_rows, int32_t n_cols) {
    const int32_t n_octets = n_cols / 8 + (n_cols % 8 != 0);
    for (int64_t row = block_index(); row < n_rows; row += block_count()) {
        const uint8_t* packed = weights + row * row_bytes(n_cols);
        for (int32_t octet = thread_index(); octet < n_octets; octet += block_size()) {
            float w[8];
            load_octet(packed, octet, n_cols, w);
            float* target = out + row * n_cols;
            if (n_cols % 8 == 0) {
                float4* const lower = reinterpret_cast<float4*>(target + weight_in_row(octet, 0));
                float4* const upper = reinterpret_cast<float4*>(target + weight_in_row(octet, 4));
                store_streaming(lower, make_float4(w[0], w[1], w[2], w[3]));
                store_streaming(upper, make_float4(w[4], w[5], w[6], w[7]));
            } else {
#pragma unroll
                for (uint32_t i = 0; i < 8; ++i) {
                    if (weight_in_row(octet, i) < n_cols) target[weight_in_row(octet, i)] = w[i];
                }
            }
        }
    }
}
