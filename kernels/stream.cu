// Batched mat-vec over experts at the speed of the memory: each tile's rows are copied once into shared memory by the copy
// engine and multiplied on the tensor cores.
//
//   y[i, r] = topk_weights[i] * sum_k W[expert(i), r, k] * x[row(i), k]         for every dispatch i and row r
//
// Persistent: block b takes an equal, contiguous share of the items (tile of some dispatches of one expert) x (some rows),
// so its activations stay in shared memory from item to item. A stage holds one segment of an item's rows. Three kinds of
// warps work at their own pace: one copies (as many stages ahead as shared memory has room for), most multiply, one or two sum up
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

// Brings what is read besides weights into the L2 cache, a line by each thread of the multiplying warps of the grid: before the
// weights queue up in front of it. What more lines than threads hold is left to the loads.
DEVICE void prefetch_inputs(const Problem& p, const Shape& shape) {
    const int64_t at = 128 * (static_cast<int64_t>(block_index()) * (32 * shape.warps) + thread_index());
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

// Where the sums of the unit at `place` go, when those that were there are summed up.
DEVICE float* free_sums(const Shape& shape, const Shared& s, const Place& place) {
    const int32_t buffer = place.item & (shape.n_buffers - 1);
    await(s.n_summed + buffer, place.item >> shape.buffer_shift);
    return s.sums + buffer * shape.item_sums + place.unit * (16 * SUM_STRIDE);
}

// A warp's units of one tile, from `item`, its first of the share, on. Units go around the warps. A barrier tells odd phases from
// even ones only, so a warp that has no unit in a while asks first how far the others are.
DEVICE void multiply_tile(const Problem& p, const Shape& shape, const Shared& s, const Item& item, int32_t n_items,
                          int32_t tile_slot, Place& place) {
    const uint8_t* const all_columns = s.columns + tile_slot * shape.columns * PARTS * shape.column_bytes;
    const Columns columns = Columns::of(shape, all_columns, count_of(shape, item.tile));
    const int32_t end = min(n_items, item.number + shape.n_row_tiles - item.row_tile);
    while (place.item < end) {
        const Unit unit = Unit::of(shape, place);
        if (unit.stage >= place.n_issued) place.n_issued = await(s.n_issued, unit.stage + 1);
        barrier_wait(s.full + unit.slot, unit.parity);
        const int32_t row_tile = item.row_tile + (place.item - item.number);
        if constexpr (IS_PLAIN) {
            multiply_plain_unit(p, shape, s, columns, unit, row_tile, free_sums(shape, s, place));
            arrive_as_warp(s.empty + unit.slot);
        } else {
            float sums[N_TILES][4] = {};
            multiply_unit(p, shape, s, columns, unit, item.tile.expert, row_tile, sums);
            arrive_as_warp(s.empty + unit.slot);
            store_sums(sums, free_sums(shape, s, place));
        }
        arrive_as_warp(s.multiplied + (place.item & (shape.n_buffers - 1)));
        Place::advance(shape, place);
    }
}

DEVICE void multiply_items(const Problem& p, const Shape& shape, const Shared& s, const Share& share) {
    Place place = {0, warp_index() - shape.warps, 0};
    Place::advance(shape, place);
    Item item = share.first;
    while (item.number < share.n_items) {
        const int32_t n_tiles = stage_tiles(p, shape, share, item, s);
        for (int32_t tile_slot = 0; tile_slot < n_tiles; ++tile_slot) {
            multiply_tile(p, shape, s, item, share.n_items, tile_slot, place);
            skip_tile(p, shape, share, item);
        }
    }
}

// ---- The summing warps.

constexpr float kLargestFloat = 0x1.FFFFFEp127f;

// The nearest number that is not infinite: lower digits' sums must not turn an infinite one of the first into NaN.
DEVICE float finite(float x) { return min(max(x, -kLargestFloat), kLargestFloat); }

// The sums of an item's slices, and of an activation's parts, into the output. A lane takes one row and half of each eight mma
// columns.
DEVICE void store_items(const Problem& p, const Shape& shape, const Shared& s, const Share& share) {
    constexpr int VALUES = 4 / COLUMN_SLOTS;  // of a lane and eight mma columns
    constexpr float low = 1.0f / kLowPart;
    const int32_t lane = lane_index(), half = lane & 1, mine = warp_index() - shape.warps - 1;
    int32_t count = 0;
    float factors[N_TILES][VALUES];
    int64_t places[N_TILES][VALUES];
    bool is_other_tile = true;
    for (Item item = share.first; item.number < share.n_items; is_other_tile |= advance(p, shape, item)) {
        if (SUMMING_WARPS == 2 && (item.number & 1) != mine) continue;
        const int32_t buffer = item.number & (shape.n_buffers - 1), round = item.number >> shape.buffer_shift;
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
        barrier_wait(s.multiplied + buffer, round & 1);
        for (int32_t group = 0; group < shape.row_groups; ++group) {
            const int32_t in_item = 16 * group + lane / 2;
            const int32_t row = item.row_tile * shape.rows + row_of_number(shape, in_item);
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
                if constexpr (PARTS == 3) total.x += finite(total.y + finite(total.z));
                if constexpr (PARTS == 2) total.x = fused_multiply_add(total.y, low, total.x);
                float values[4] = {total.x, PARTS == 1 ? total.y : fused_multiply_add(total.w, low, total.z), total.z,
                                   total.w};
                float weighted[VALUES];
                bool are_wanted[VALUES];
#pragma unroll
                for (int v = 0; v < VALUES; ++v) {
                    const int32_t column = (2 * n + half) * VALUES + v;
                    are_wanted[v] = column < count && row < p.n_rows_per_expert;
                    weighted[v] = factors[n][v] * values[v];
                }
                store(p, places[n], are_wanted, row, weighted);
            }
        }
        warp_barrier();
        if (lane_index() == 0) publish(s.n_summed + buffer, round + 1);
    }
}

// Barriers and counters, by a lane of each warp: set up one after the other, they would take longer than the rest of the start.
DEVICE void set_up(const Shape& shape, const Shared& s, const TensorMap& map) {
    static_assert(MAX_STAGES == MAX_BUFFERS, "one loop for both");
    for (int32_t i = warp_index(); i < MAX_STAGES; i += block_size() / 32) {
        barrier_init(s.full + i, shape.has_boxes ? 1 : 32);
        barrier_init(s.empty + i, shape.units);
        barrier_init(s.multiplied + i, shape.item_units);
        counter_init(s.n_summed + i, 0);
    }
    if (warp_index() == shape.warps) {
        barrier_init(s.staged, shape.warps);
        barrier_init(s.found, 1);
        counter_init(s.n_issued, 0);
        if constexpr (HAS_BULK_COPIES) {
            if (shape.has_boxes) prefetch_map(map);
        }
    }
    barrier_init_done();
}

KERNEL_BOUNDED(MMVQ_THREADS, 1)
stream(const GRID_CONSTANT Problem p, const GRID_CONSTANT Shape shape, const GRID_CONSTANT TensorMap map) {
    const Shared s = Shared::at(dynamic_shared(), shape);
    if (lane_index() == 0) set_up(shape, s, map);
    copy_grid(shape, s);
    block_barrier();  // shows the initialized barriers and the codebook to all threads
    // Arguments are read through a cache too: their first lines come while the launch before this one ends.
    touch(p.n_experts);
    touch(static_cast<int32_t>(address_of(p.expert_offsets)));
    start_overlapped();
    if (warp_index() == shape.warps) {
        copy_items(p, shape, map, s, find_share(p, shape, s));
    } else if (warp_index() < shape.warps) {
        prefetch_inputs(p, shape);
        multiply_items(p, shape, s, found_share(s));
    } else {
        store_items(p, shape, s, found_share(s));
    }
}
