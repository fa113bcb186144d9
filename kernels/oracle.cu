// The exact answer for large cases, in double precision, one value and one magnitude per (dispatch, row):
//
//   values[i, r] = sum_k W[expert(i), r, k] * x[row(i), k]          magnitudes[i, r] = sum_k |W * x|
//
// W is the exact f32 weight of ggml's dequantizer (the same structs as dequantize.cu, which a test holds bit-equal to
// gguf-py); products of two floats are exact in double, so only the sums round. One warp per (row, tile of 4 dispatches).
// Plain on purpose: it is the judge, not a contestant.
#include "activation.cuh"
#include "format.cuh"
#include "tiles.cuh"

constexpr int COLUMNS = 4;

KERNEL oracle_dispatches(const GRID_CONSTANT Problem p, double* values, double* magnitudes) {
    const int64_t n_slots = slot_count<COLUMNS>(p);
    const int n_octets = (p.n_cols + 7) / 8;
    const int64_t n_warps = threads_in_grid() / 32;
    for (int64_t item = thread_in_grid() / 32; item < n_slots * p.n_rows_per_expert; item += n_warps) {
        const Tile tile = tile_of_slot<COLUMNS>(p, static_cast<int32_t>(item % n_slots));
        const int64_t row = item / n_slots;
        const uint8_t* weights =
            p.weights + (static_cast<int64_t>(tile.expert) * p.n_rows_per_expert + row) * row_bytes(p.n_cols);
        double sums[COLUMNS] = {}, absolute_sums[COLUMNS] = {};
        for (int octet = lane_index(); octet < n_octets; octet += 32) {
            float w[8];
            if (tile.count > 0) load_octet(weights, octet, p.n_cols, w);
            for (int c = 0; c < tile.count; ++c) {
                const Element* x =
                    static_cast<const Element*>(p.activations) + activation_row(p, tile.first + c) * p.n_cols;
                for (uint32_t i = 0; i < 8 && weight_in_row(octet, i) < p.n_cols; ++i) {
                    const double product =
                        static_cast<double>(w[i]) * static_cast<double>(to_float(x[weight_in_row(octet, i)]));
                    sums[c] += product;
                    absolute_sums[c] += product < 0 ? -product : product;
                }
            }
        }
        for (int c = 0; c < tile.count; ++c) {
            const double sum = warp_sum(sums[c]), absolute_sum = warp_sum(absolute_sums[c]);
            if (lane_index() != 0) continue;
            const int64_t index = static_cast<int64_t>(tile.first + c) * p.n_rows_per_expert + row;
            values[index] = sum;
            magnitudes[index] = absolute_sum;
        }
    }
}
