// Batched mat-vec over experts that have many dispatches each, on sm_90: rows and activations stream side by side to the tensor
// cores of a warpgroup.
//
//   y[i, r] = topk_weights[i] * sum_k W[expert(i), r, k] * x[row(i), k]         for every dispatch i and row r
//
// Two launches. `arrange`: activations become f16 parts as the tensor cores read them (wide/columns.cuh), those of a tile side by
// side, so that one copy brings them. `wide`: persistent; blocks take turns at the items (tile of some dispatches of one expert) x
// (some rows). A stage holds some chunks of 256 weights of an item's rows, as boxes, and the tile's activations for them. One lane
// copies. The others multiply: each warpgroup has 64 rows with all their weights, so that sums stay in registers from a row's begin
// to its end. Weights go from a warp's registers to the tensor cores, activations from shared memory, once for 64 rows.
//
// Where stream.cu keeps the activations of whole rows in shared memory, which leaves room for few columns, stages are bound to
// no length of rows here, and a row's weights are unpacked once for up to 64 mma columns. In return activations are read again
// for each item, from the L2 cache: 512 bytes for each column where 64 rows of 256 4-bit weights are 9,216.
//
// Rows that do not begin at multiples of 16 bytes, where boxes must: `line_rows` of them do together, and are a line of the
// driver's tensor. A box has one row of each of some lines, so an item has as many boxes, one behind the other in its stage.
//
// Arithmetic: exact products of f16 as in stream.cu; chunks are added up in ascending order in f32. Bytes: packed rows once per
// tile, activations once per item.
#include "output.cuh"
#include "wide/chunk.cuh"

static_assert(!IS_INTEGER && !IS_PLAIN, "columns are f16");

// A warp for a group and 256 weights: lane 4c + t has what lanes t of a warpgroup multiply by column c.
KERNEL arrange(const GRID_CONSTANT Problem p, const GRID_CONSTANT Shape shape, const GRID_CONSTANT TensorMap) {
    start_overlapped();
    const bool whole_vectors = rows_are_whole_vectors(p.activations, p.n_cols);
    const int64_t n = static_cast<int64_t>(groups_of_all(p)) * shape.n_chunks;
    for (int64_t i = thread_in_grid() / 32; i < n; i += threads_in_grid() / 32) {
        const int32_t group = static_cast<int32_t>(quotient(i, shape.n_chunks));
        const int32_t chunk = static_cast<int32_t>(i - static_cast<int64_t>(group) * shape.n_chunks);
        const int32_t expert = expert_of_group(p, group), end = p.expert_offsets[expert + 1];
        const int32_t first = p.expert_offsets[expert] + (group - first_group(p, expert)) * GROUP_DISPATCHES;
        if (first >= end) continue;  // a group that the expert does not need
        const int32_t dispatch = first + lane_index() / (4 * PARTS), first_weight = chunk * CHUNK;
        Element octets[8][8] = {};  // zeros where there is no such dispatch: of anything else a product may make NaN
        if (dispatch < end) {
            const Element* const row =
                static_cast<const Element*>(p.activations) + activation_row(p, dispatch) * p.n_cols;
#pragma unroll
            for (int o = 0; o < 8; ++o) {
                load_mma_octet(row + first_weight, lane_index() % 4, o, p.n_cols - first_weight, whole_vectors,
                               octets[o]);
            }
        }
        arrange_chunk(octets, arranged_at(p, chunk, group));
    }
}

// An item: some rows of a tile of dispatches of one expert. The copying warp finds it, and says with its first stage which it is.
struct WideItem {
    int32_t first, count;  // dispatches; none behind the block's last item
    int32_t row_tile;      // which of the expert's rows
    int32_t unused;

    DEVICE int32_t n_groups(const WideItem& item) { return (item.count + GROUP_DISPATCHES - 1) / GROUP_DISPATCHES; }
};

// Where a warp is in the ring of stages.
struct Ring {
    int32_t slot;
    uint32_t parity;  // of the round

    DEVICE void advance(const Shape& shape, Ring& ring) {
        if (++ring.slot == shape.n_stages) ring.slot = 0, ring.parity ^= 1;
    }
};

// Dynamic shared memory: as share.cuh says; in place of its barriers of items, the items of stages.
constexpr int ITEMS_AT = 2 * MAX_STAGES * sizeof(uint64_t);
DEVICE WideItem* stage_items(const Shared& s) {
    return reinterpret_cast<WideItem*>(s.full + ITEMS_AT / sizeof(uint64_t));
}

// ---- The copying warp.

// All tiles, expert by expert: those of a lane's run of experts.
struct LaneTiles {
    int32_t first, last;  // experts
    int32_t before;       // tiles of the lanes before
    int32_t n_tiles;      // of all lanes

    DEVICE LaneTiles of(const Problem& p, const Shape& shape) {
        const int32_t run = (p.n_experts + 31) / 32;
        const int32_t first = min(lane_index() * run, p.n_experts), last = min(first + run, p.n_experts);
        int32_t count = 0;
        for (int32_t expert = first; expert < last; expert += 8) {
            count += EightOffsets::n_tiles(EightOffsets::of(p, expert, last), shape);
        }
        const int32_t through = warp_prefix_sum(count);
        return {first, last, through - count, shuffle(through, 31)};
    }

    DEVICE Tile find(const LaneTiles& lane, const Problem& p, const Shape& shape, int32_t number) {
        Search search = {number, lane.before, {p.n_experts, 0, 0}, false};
        for (int32_t expert = lane.first; expert < lane.last; expert += 8) {
            Search::look(search, shape, EightOffsets::of(p, expert, lane.last), expert);
        }
        const int32_t owner = lowest_bit(warp_ballot(search.is_found));
        return {shuffle(search.tile.expert, owner), shuffle(search.tile.first, owner), shuffle(search.tile.end, owner)};
    }
};

// The tile's activations for a stage's weights, chunk after chunk.
DEVICE void copy_columns(const Problem& p, const Shape& shape, int32_t group, int32_t n_groups, int32_t first_weight,
                         uint8_t* columns, uint64_t* full) {
    const int32_t first = first_weight / CHUNK, last = min(first + shape.segment / CHUNK, shape.n_chunks);
    const int32_t n_bytes = n_groups * GROUP_BYTES;
    barrier_expect(full, (last - first) * n_bytes);
    for (int32_t chunk = first; chunk < last; ++chunk, columns += N_TILES * GROUP_BYTES) {
        copy_bulk(columns, arranged_at(p, chunk, group), n_bytes, full);
    }
}

// A stage's weights of an item's rows.
DEVICE void copy_rows(const Problem& p, const Shape& shape, const TensorMap& map, int32_t first_row,
                      int32_t first_weight, uint8_t* stage, uint64_t* full) {
    const int32_t box_rows = shape.rows / shape.line_rows, packed_bytes = static_cast<int32_t>(row_bytes(p.n_cols));
    const int32_t first_line = static_cast<int32_t>(row_bytes(first_weight)) / 16;
    barrier_expect(full, shape.rows * shape.row_slot);
    for (int32_t i = 0; i < shape.line_rows; ++i) {
        copy_box(stage + i * box_rows * shape.row_slot, map, (i * packed_bytes / 16 + first_line) * (16 / kBoxUnit),
                 first_row / shape.line_rows, full);
    }
}

// Blocks take turns at items, so that all are at the same few tiles at any time: their activations stay in the L2 cache.
DEVICE void copy_items(const Problem& p, const Shape& shape, const TensorMap& map, const Shared& s) {
    const LaneTiles tiles = LaneTiles::of(p, shape);
    const int64_t n_items = static_cast<int64_t>(tiles.n_tiles) * shape.n_row_tiles;
    Ring ring = {0, 1};  // the first round finds every stage empty
    for (int64_t number = block_index(); number < n_items; number += block_count()) {
        const int32_t tile_number = static_cast<int32_t>(quotient(number, shape.n_row_tiles));
        const int32_t row_tile = static_cast<int32_t>(number - static_cast<int64_t>(tile_number) * shape.n_row_tiles);
        const Tile tile = LaneTiles::find(tiles, p, shape, tile_number);
        const WideItem item = {tile.first, count_of(shape, tile), row_tile, 0};
        const int32_t in_expert = tile.first - p.expert_offsets[tile.expert];
        const int32_t group = first_group(p, tile.expert) + in_expert / GROUP_DISPATCHES;
        for (int32_t weight = 0; weight < p.n_cols; weight += shape.segment) {
            barrier_wait(s.empty + ring.slot, ring.parity);
            uint8_t* const stage = s.stages + ring.slot * shape.stage_bytes;
            uint64_t* const full = s.full + ring.slot;
            if (lane_index() == 0) {
                stage_items(s)[ring.slot] = item;
                copy_columns(p, shape, group, WideItem::n_groups(item), weight, stage + shape.columns_at, full);
                copy_rows(p, shape, map, tile.expert * p.n_rows_per_expert + row_tile * shape.rows, weight, stage,
                          full);
                barrier_arrive(full);
            }
            Ring::advance(shape, ring);
        }
    }
    barrier_wait(s.empty + ring.slot, ring.parity);
    if (lane_index() > 0) return;
    stage_items(s)[ring.slot] = {};
    barrier_arrive(s.full + ring.slot);
}

// ---- The multiplying warps.

// Where a stage's weights begin in lines of 16 bytes that begin with a row.
DEVICE int32_t segment_phase(int32_t first_weight) {
    return MMVQ_TYPE_SIZE % 16 == 0 ? 0 : static_cast<int32_t>(row_bytes(first_weight)) % 16;
}

// A row of an item: `number` counts as rows lie in a stage, box after box.
struct WideRow {
    int32_t in_item;
    int32_t at;  // bytes in a stage

    DEVICE WideRow of(const Problem& p, const Shape& shape, int32_t number) {
        const int32_t box_rows = shape.rows / shape.line_rows, in_line = number / box_rows;
        const int32_t phase = MMVQ_TYPE_SIZE % 16 == 0 ? 0 : in_line * static_cast<int32_t>(row_bytes(p.n_cols)) % 16;
        return {(number - in_line * box_rows) * shape.line_rows + in_line, number * shape.row_slot + phase};
    }
};

// Stores a lane's sums: of its two rows, and of mma columns 8n + 2 * (lane % 4) and the next.
template <int N>
DEVICE void store_sums(const Problem& p, const Shape& shape, const WideItem& item, const WideRow (&rows)[2],
                       const float (&sums)[N][4]) {
    constexpr int VALUES = 2 / PARTS;  // dispatches of a lane and eight mma columns
    constexpr float low = 1.0f / kLowPart;
#pragma unroll
    for (int n = 0; n < N; ++n) {
        const int32_t column = (4 * n + lane_index() % 4) * VALUES;
        float factors[VALUES];
        int64_t places[VALUES];
#pragma unroll
        for (int v = 0; v < VALUES; ++v) {
            const int32_t dispatch = item.first + min(column + v, item.count - 1);
            factors[v] = dispatch_weight(p, dispatch);
            places[v] = place_of(p, dispatch);
        }
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const int32_t row = item.row_tile * shape.rows + rows[half].in_item;
            const float* const of_row = sums[n] + 2 * half;
            float values[VALUES];
            bool are_wanted[VALUES];
#pragma unroll
            for (int v = 0; v < VALUES; ++v) {
                const float sum = PARTS == 1 ? of_row[v] : fused_multiply_add(of_row[1], low, of_row[0]);
                values[v] = factors[v] * sum;
                are_wanted[v] = column + v < item.count && row < p.n_rows_per_expert;
            }
            store(p, places, are_wanted, row, values);
        }
    }
}

// An item whose tile has up to N groups of columns.
template <int N>
DEVICE void multiply_item(const Problem& p, const Shape& shape, const Shared& s, const WideItem& item, Ring& ring) {
    const Grid grid = grid_of(shape, s);
    const int32_t upper_number = 16 * warp_index() + lane_index() / 4;
    const WideRow rows[2] = {WideRow::of(p, shape, upper_number), WideRow::of(p, shape, upper_number + 8)};
    float sums[N][4] = {};
    for (int32_t weight = 0; weight < p.n_cols; weight += shape.segment) {
        barrier_wait(s.full + ring.slot, ring.parity);
        const uint8_t* const stage = s.stages + ring.slot * shape.stage_bytes;
        const uint8_t* const begin = stage + segment_phase(weight);
        const int32_t n_segment = min(shape.segment, p.n_cols - weight);
#pragma unroll 1
        for (int32_t chunk = 0; chunk * CHUNK < n_segment; ++chunk) {
            const uint8_t* const row = begin + chunk * PACKED_CHUNK;
            const uint8_t* const columns = stage + shape.columns_at + chunk * (N_TILES * GROUP_BYTES);
            multiply_wide_chunk(row + rows[0].at, row + rows[1].at, grid, n_segment - chunk * CHUNK,
                                WideColumns::of(columns), sums);
        }
        arrive_as_warp(s.empty + ring.slot);
        Ring::advance(shape, ring);
    }
    store_sums(p, shape, item, rows, sums);
}

// The same with as few groups as the tile needs.
template <int N = N_TILES>
DEVICE void multiply_columns_of(const Problem& p, const Shape& shape, const Shared& s, const WideItem& item,
                                Ring& ring) {
    constexpr int FEWER = N - (N_TILES + 3) / 4;
    if constexpr (FEWER > 0) {
        if (WideItem::n_groups(item) <= FEWER) return multiply_columns_of<FEWER>(p, shape, s, item, ring);
    }
    multiply_item<N>(p, shape, s, item, ring);
}

DEVICE void multiply_items(const Problem& p, const Shape& shape, const Shared& s) {
    Ring ring = {0, 0};
    for (;;) {
        barrier_wait(s.full + ring.slot, ring.parity);
        const WideItem item = stage_items(s)[ring.slot];
        if (item.count == 0) return;
        multiply_columns_of(p, shape, s, item, ring);
    }
}

// Columns that tiles have not are multiplied as well: by all threads, they become zero.
DEVICE void clear_columns(const Shape& shape, const Shared& s) {
    for (int32_t stage = 0; stage < shape.n_stages; ++stage) {
        uint8_t* const begin = s.stages + stage * shape.stage_bytes;
        for (int32_t at = shape.columns_at + 16 * thread_index(); at < shape.stage_bytes; at += 16 * block_size()) {
            *reinterpret_cast<uint4*>(begin + at) = {0, 0, 0, 0};
        }
    }
    stores_before_copies();
}

KERNEL_BOUNDED(MMVQ_THREADS, 1)
wide(const GRID_CONSTANT Problem p, const GRID_CONSTANT Shape shape, const GRID_CONSTANT TensorMap map) {
    const Shared s = Shared::at(dynamic_shared(), shape);
    if (thread_index() == 0) {
        for (int32_t i = 0; i < shape.n_stages; ++i) {
            barrier_init(s.full + i, 1);
            barrier_init(s.empty + i, shape.warps);
        }
        barrier_init_done();
        prefetch_map(map);
    }
    copy_grid(shape, s);
    clear_columns(shape, s);
    block_barrier();  // shows the initialized barriers, the codebook and the zeros to all threads
    start_overlapped();
    if (warp_index() < shape.warps) multiply_items(p, shape, s);
    else copy_items(p, shape, map, s);
}
