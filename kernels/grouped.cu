// Batched mat-vec over experts, dispatches grouped by expert: the plain kernel.
//
//   y[i, r] = topk_weights[i] * sum_k W[expert(i), r, k] * x[row(i), k]         for every dispatch i and row r
//
// A block takes one tile (up to COLUMNS dispatches of one expert, tiles.cuh) and WARPS * ROWS_PER_WARP rows; a warp takes
// ROWS_PER_WARP of them; a lane takes every 32nd group of OCTETS neighbouring octets (8 consecutive weights each, so that a
// group shares the decoding of its scales), decodes them once to the exact f32 weights of ggml's dequantizer and multiplies
// them with the tile's columns.
// Bytes per output: a row's packed weights once per tile; activations come from L1/L2.
// Arithmetic: f32. Eight products in a chain, chains added per lane (K / 256 terms), then a butterfly over the warp. The
// order of every sum is the same for any tile width, so a token's row has the same bits alone and in any batch.
// The plan picks it for every problem. Its limit is instruction issue: decoding takes about 5 to 12 instructions per weight.
#include "octets.cuh"
#include "output.cuh"
#include "tiles.cuh"

constexpr int COLUMNS = MMVQ_COLUMNS;
constexpr int ROWS_PER_WARP = MMVQ_ROWS_PER_WARP;
constexpr int WARPS = MMVQ_WARPS;
constexpr int OCTETS = MMVQ_OCTETS;
constexpr int ROWS_PER_BLOCK = WARPS * ROWS_PER_WARP;
static_assert((COLUMNS & (COLUMNS - 1)) == 0, "tile widths double from 1 to COLUMNS");
static_assert(ROWS_PER_WARP * COLUMNS <= 32, "each lane of a warp stores one element of the tile at most");

// ROWS_PER_WARP rows from `first_row` times the first WIDTH columns of the tile. Rows and columns past the end repeat the
// last valid one, so that no lane reads outside the tensors, and are not stored.
template <int WIDTH>
DEVICE void tile_products(const Problem& p, const Tile& tile, int32_t first_row) {
    const int lane = lane_index();
    const int64_t packed_bytes = row_bytes(p.n_cols);
    const uint8_t* rows[ROWS_PER_WARP];
#pragma unroll
    for (int r = 0; r < ROWS_PER_WARP; ++r) {
        const int64_t row = min(first_row + r, p.n_rows_per_expert - 1);
        rows[r] = p.weights + (static_cast<int64_t>(tile.expert) * p.n_rows_per_expert + row) * packed_bytes;
    }
    const Element* columns[WIDTH];
#pragma unroll
    for (int c = 0; c < WIDTH; ++c) {
        const int32_t dispatch = tile.first + min(c, tile.count - 1);
        columns[c] = static_cast<const Element*>(p.activations) + activation_row(p, dispatch) * p.n_cols;
    }

    float sums[ROWS_PER_WARP][WIDTH] = {};
    const bool whole_vectors = rows_are_whole_vectors(p.activations, p.n_cols);
    const int n_octets = (p.n_cols + 7) / 8;
    for (int group = lane; group * OCTETS < n_octets; group += 32) {
#pragma unroll
        for (int o = 0; o < OCTETS; ++o) {
            const int octet = group * OCTETS + o;
            // A block format's rows are whole groups; plain floats may end anywhere.
            if (MMVQ_BLOCK_SIZE % (8 * OCTETS) != 0 && octet >= n_octets) continue;
            float x[WIDTH][8];
#pragma unroll
            for (int c = 0; c < WIDTH; ++c) load_activations(columns[c], octet, p.n_cols, whole_vectors, x[c]);
#pragma unroll
            for (int r = 0; r < ROWS_PER_WARP; ++r) {
                float w[8];
                load_octet(rows[r], octet, p.n_cols, w);
#pragma unroll
                for (int c = 0; c < WIDTH; ++c) {
                    float products = w[0] * x[c][0];
#pragma unroll
                    for (int i = 1; i < 8; ++i) products = fused_multiply_add(w[i], x[c][i], products);
                    sums[r][c] += products;
                }
            }
        }
    }

    float mine = 0.0f;  // lane r * WIDTH + c keeps row r of column c
#pragma unroll
    for (int r = 0; r < ROWS_PER_WARP; ++r)
#pragma unroll
        for (int c = 0; c < WIDTH; ++c) {
            const float sum = warp_sum(sums[r][c]);
            if (lane == r * WIDTH + c) mine = sum;
        }
    const int r = lane / WIDTH, c = lane % WIDTH;
    if (r < ROWS_PER_WARP && c < tile.count && first_row + r < p.n_rows_per_expert) {
        const int32_t dispatch = tile.first + c;
        store<1>(p, {place_of(p, dispatch)}, {true}, first_row + r, {dispatch_weight(p, dispatch) * mine});
    }
}

// The narrowest instance that holds the tile.
template <int WIDTH = 1>
DEVICE void tile_of_any_width(const Problem& p, const Tile& tile, int32_t first_row) {
    if constexpr (WIDTH < COLUMNS) {
        if (tile.count > WIDTH) return tile_of_any_width<2 * WIDTH>(p, tile, first_row);
    }
    tile_products<WIDTH>(p, tile, first_row);
}

// No bound on blocks per multiprocessor: with one, Q4_K ran 10 to 20 % slower on an H200 (results/README.md); the few
// variants that spill some bytes without it are listed in engine/cuda/variants.py.
KERNEL_BOUNDED(32 * MMVQ_WARPS) grouped(const GRID_CONSTANT Problem p) {
    const int64_t n_slots = slot_count<COLUMNS>(p);
    const int64_t n_row_blocks = (p.n_rows_per_expert + ROWS_PER_BLOCK - 1) / ROWS_PER_BLOCK;
    // Slots run fastest: the tiles of one expert meet the same rows at the same time, and all but the first read from L2.
    for (int64_t item = block_index(); item < n_slots * n_row_blocks; item += block_count()) {
        const Tile tile = tile_of_slot<COLUMNS>(p, static_cast<int32_t>(item % n_slots));
        const int32_t first_row = static_cast<int32_t>(item / n_slots) * ROWS_PER_BLOCK + warp_index() * ROWS_PER_WARP;
        if (tile.count > 0 && first_row < p.n_rows_per_expert) tile_of_any_width(p, tile, first_row);
    }
}
