// Batched mat-vec over experts at the speed of the memory: each tile's rows are copied once into shared memory by the copy
// engine and multiplied on the tensor cores.
//
//   y[i, r] = topk_weights[i] * sum_k W[expert(i), r, k] * x[row(i), k]         for every dispatch i and row r
//
// Persistent: block b takes an equal, contiguous share of the items (tile of some dispatches of one expert) x (some rows),
// so its activations stay in shared memory from item to item. A stage holds one segment of an item's rows. Three kinds of
// warps work at their own pace: one copies (as many stages ahead as shared memory has room for), WARPS multiply, one or two sum up
// and store. A unit of multiplication is 16 rows x one slice (a run of chunks of 256 weights); units go around the warps in order,
// from stage to stage, so that all get the same share.
//
// Arithmetic, one of three (mma.cuh):
// - exact products of f16 in the tensor cores' f32 sums; of whole blocks where the format's scales are folded into the weights,
//   else of the 16 or 32 weights that share a scale, which goes on the sums in f32. Offsets that are a small integer times one
//   float per block are multiplied, as bfloat16, with the sums of the activations of their group, which are kept beside the
//   activations as three bfloat16 parts;
// - MMVQ_DIGITS: codes times activations of 24 bits, three digits of 8, in the integer tensor cores' exact sums;
// - plain floats: f32 products and sums, no tensor cores.
// A sum's order depends on format, arithmetic and n_cols only, never on the other dispatches of a tile, the tile's width or the
// device. Bytes: packed rows once per tile; activations once per tile and block.
#include "output.cuh"
#include "stream/copy.cuh"
#include "stream/plain.cuh"

// Brings what is read besides weights into the L2 cache, a line by each thread of the grid: before the weights queue up in front
// of it. What more lines than threads hold is left to the loads.
DEVICE void prefetch_inputs(const Problem& p) {
    const int64_t at = 128 * thread_in_grid();
    const int64_t n_rows = p.activation_rows_are_dispatches ? p.m_total : p.m_tokens;
    if (at < n_rows * p.n_cols * static_cast<int64_t>(sizeof(Element))) {
        prefetch(static_cast<const uint8_t*>(p.activations) + at);
    }
    if (at < 4 * static_cast<int64_t>(p.m_total)) {
        prefetch(reinterpret_cast<const uint8_t*>(p.sorted_token_ids) + at);
        if (p.topk_weights) prefetch(reinterpret_cast<const uint8_t*>(p.topk_weights) + at);
    }
}

// ---- The multiplying warps.

// This warp's units of one stage.
DEVICE void multiply_units(const Problem& p, const Shape& shape, const Shared& s, const Columns& columns,
                           Place& place) {
    float* const sums = s.sums + (place.item.number & 1) * shape.item_sums;
    for (; place.unit < shape.units; place.unit += WARPS) {
        const int32_t slice = place.segment * shape.slices + (place.unit >> shape.group_shift);
        const int32_t row = 16 * (place.unit & (shape.row_groups - 1));
        if (slice >= shape.n_slices) continue;
        const int32_t offset = slice * shape.run * CHUNK_BYTES;
        float* const target = sums + (slice * shape.rows + row) * SUM_STRIDE;
        if constexpr (IS_PLAIN) multiply_plain_unit(p, shape, s, columns, place, offset, target);
        else multiply_unit(Unit::of(p, shape, s, place), shape.run, s.grid, columns, offset, target);
    }
}

// The share's items of one tile. Every warp comes to every stage and item, with a unit there or not: a barrier tells odd phases
// from even ones only, so nobody may run ahead or fall behind by two.
DEVICE void multiply_tile(const Problem& p, const Shape& shape, const Shared& s, const Share& share, int32_t tile_slot,
                          Place& place) {
    Item& item = place.item;
    const Tile tile = item.tile;
    const Columns columns = Columns::of(shape, s, tile_slot, count_of(shape, tile));
    for (bool is_other_tile = false; !is_other_tile && item.number < share.n_items;) {
        barrier_wait(s.summed + (item.number & 1), (item.number >> 1 & 1) ^ 1);
        for (place.segment = 0; place.segment < shape.n_segments; ++place.segment) {
            barrier_wait(s.full + place.slot, place.parity);
            if (place.unit < shape.units) multiply_units(p, shape, s, columns, place);
            place.unit -= shape.units;
            arrive_as_warp(s.empty + place.slot);
            if (++place.slot == shape.n_stages) place.slot = 0, place.parity ^= 1;
        }
        arrive_as_warp(s.multiplied + (item.number & 1));
        is_other_tile = advance(p, shape, item);
    }
}

DEVICE void multiply_items(const Problem& p, const Shape& shape, const Shared& s, const Share& share) {
    Place place = {share.first, warp_index(), 0, 0, 0};
    Item& item = place.item;
    while (item.number < share.n_items) {
        const int32_t n_tiles = stage_tiles(p, shape, share, item, s);
        for (int32_t tile_slot = 0; tile_slot < n_tiles; ++tile_slot)
            multiply_tile(p, shape, s, share, tile_slot, place);
    }
}

// ---- The summing warps.

// The sums of an item's slices, and of an activation's parts, into the output. A lane takes one row and half of each eight mma
// columns.
DEVICE void store_items(const Problem& p, const Shape& shape, const Shared& s, const Share& share) {
    constexpr int VALUES = 4 / COLUMN_SLOTS;  // of a lane and eight mma columns
    constexpr float low = 1.0f / kLowPart;
    const int32_t lane = lane_index(), half = lane & 1, mine = warp_index() - WARPS - 1;
    int32_t count = 0;
    float factors[N_TILES][VALUES];
    int64_t places[N_TILES][VALUES];
    bool is_other_tile = true;
    for (Item item = share.first; item.number < share.n_items; is_other_tile |= advance(p, shape, item)) {
        const int32_t buffer = item.number & 1;
        if (SUMMING_WARPS == 2 && buffer != mine) continue;
        const Tile tile = item.tile;
        if (is_other_tile) {
            is_other_tile = false;
            count = count_of(shape, tile);
#pragma unroll
            for (int n = 0; n < N_TILES; ++n) {
#pragma unroll
                for (int v = 0; v < VALUES; ++v) {
                    const int32_t column = (2 * n + half) * VALUES + v;
                    const int32_t dispatch = tile.first + min(column, count - 1);
                    factors[n][v] = dispatch_weight(p, dispatch);
                    places[n][v] = place_of(p, dispatch);
                }
            }
        }
        barrier_wait(s.multiplied + buffer, item.number >> 1 & 1);
        for (int32_t group = 0; group < shape.row_groups; ++group) {
            const int32_t in_item = 16 * group + lane / 2, row = item.row_tile * shape.rows + in_item;
            const float* const sums = s.sums + buffer * shape.item_sums + in_item * SUM_STRIDE + 4 * half;
#pragma unroll
            for (int n = 0; n < N_TILES; ++n) {
                if (8 * n >= count * COLUMN_SLOTS) break;
                float4 total = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
#pragma unroll 4
                for (int32_t slice = 0; slice < shape.n_slices; ++slice) {
                    const float* of_slice = sums + slice * shape.rows * SUM_STRIDE + 8 * n;
                    const float4 part = *reinterpret_cast<const float4*>(of_slice);
                    total = make_float4(total.x + part.x, total.y + part.y, total.z + part.z, total.w + part.w);
                }
                if constexpr (PARTS == 3) total.y = fused_multiply_add(total.z, low, total.y);
                const float values[4] = {PARTS == 1 ? total.x : fused_multiply_add(total.y, low, total.x),
                                         PARTS == 1 ? total.y : fused_multiply_add(total.w, low, total.z), total.z,
                                         total.w};
                float weighted[VALUES];
                bool are_wanted[VALUES];
#pragma unroll
                for (int v = 0; v < VALUES; ++v) {
                    weighted[v] = factors[n][v] * values[v];
                    are_wanted[v] = (2 * n + half) * VALUES + v < count && row < p.n_rows_per_expert;
                }
                store(p, places[n], are_wanted, row, weighted);
            }
        }
        arrive_as_warp(s.summed + buffer);
    }
}

// The format's codebook into shared memory, by all threads of the block.
template <typename F = WeightFormat>
DEVICE void copy_grid(const Shared& s) {
    if constexpr (GRID_WORDS > 0) {
        static_assert(GRID_WORDS == F::grid_words, "MMVQ_GRID_WORDS is not the format's");
        for (int32_t i = thread_index(); i < GRID_WORDS; i += block_size()) {
            reinterpret_cast<uint32_t*>(s.grid)[i] = F::grid_word(i);
        }
    }
}

KERNEL_BOUNDED(THREADS, 1)
stream(const GRID_CONSTANT Problem p, const GRID_CONSTANT Shape shape, const GRID_CONSTANT TensorMap map) {
    const Shared s = Shared::at(dynamic_shared(), shape);
    if (thread_index() == 0) {
        for (int32_t i = 0; i < shape.n_stages; ++i) {
            barrier_init(s.full + i, shape.has_boxes ? 1 : 32);
            barrier_init(s.empty + i, WARPS);
        }
        for (int32_t i = 0; i < 2; ++i) {
            barrier_init(s.multiplied + i, WARPS);
            barrier_init(s.summed + i, 1);
        }
        barrier_init(s.staged, WARPS);
        barrier_init_done();
        if (shape.has_boxes) prefetch_map(map);
    }
    copy_grid(s);
    block_barrier();  // shows the initialized barriers and the codebook to all threads
    // Arguments are read through a cache too: their first lines come while the launch before this one ends.
    touch(p.n_experts);
    touch(static_cast<int32_t>(address_of(p.expert_offsets)));
    start_overlapped();
    prefetch_inputs(p);
    const Share share = share_of_block(p, shape);
    if (warp_index() < WARPS) multiply_items(p, shape, s, share);
    else if (warp_index() == WARPS) copy_items(p, shape, map, s, share);
    else store_items(p, shape, s, share);
}
