// Batched mat-vec over experts at the speed of the memory: each tile's rows are copied once into shared memory by the copy
// engine and multiplied on the tensor cores.
//
//   y[i, r] = topk_weights[i] * sum_k W[expert(i), r, k] * x[row(i), k]         for every dispatch i and row r
//
// Persistent: block b takes an equal, contiguous share of the items (tile of up to COLUMNS dispatches of one expert) x (ROWS
// rows), so its activations stay in shared memory from item to item. One producer warp keeps as many segments (SEGMENT
// weights of ROWS rows) in flight as shared memory has room for; ROW_GROUPS * SLICES consumer warps take 16 rows each and every SLICES-th 256 weights.
//
// Arithmetic: a format's byte codes become exact 16-bit floats (integers, or their 2^-24 multiples), activations are exact
// 16-bit floats (f32 in three bfloat16 parts that sum to it exactly), products are exact in the tensor cores' f32 sums of 16
// or 32 weights that share a scale; scale and offset are applied to these sums in f32. A sum's order depends on the format,
// n_cols and the plan's SLICES only, never on the other dispatches of a tile.
// Bytes: packed rows once per tile; activations once per tile and block.
#include "activation.cuh"
#include "format.cuh"
#include "mma.cuh"
#include "output.cuh"

constexpr int COLUMNS = MMVQ_COLUMNS;        // dispatches per tile
constexpr int ROW_GROUPS = MMVQ_ROW_GROUPS;  // of 16 rows per block
constexpr int SLICES = MMVQ_SLICES;          // warps that share a row group
constexpr int SEGMENT = MMVQ_SEGMENT;        // weights of a row per stage
constexpr int MAX_STAGES = 8;
constexpr int CHUNK = 256;  // weights of a row that one warp takes at a time

constexpr int ROWS = 16 * ROW_GROUPS;
constexpr int CONSUMERS = ROW_GROUPS * SLICES;
constexpr int PARTS = MMVQ_ACTIVATION == 0 ? 3 : 1;  // 16-bit floats per activation
constexpr int COLUMN_SLOTS = PARTS == 1 ? 1 : 4;     // mma columns per dispatch
constexpr int N_TILES = (COLUMNS * COLUMN_SLOTS + 7) / 8;
constexpr int SEGMENT_BYTES = SEGMENT / MMVQ_BLOCK_SIZE * MMVQ_TYPE_SIZE;
constexpr int ROW_SLOT =
    (SEGMENT_BYTES + 31) / 64 * 64 + 96;  // room for 15 bytes of phase; 32 mod 64 spreads the banks
constexpr int STAGE_BYTES = ROWS * ROW_SLOT;
constexpr int SCALE_GROUP = WeightFormat::scale_group < 32 ? 16 : 32;  // weights of a step that share a scale
constexpr bool HAS_OFFSET = decltype(WeightFormat::unpack(nullptr, 0))::has_offset;
static_assert(SEGMENT % CHUNK == 0 && MMVQ_BLOCK_SIZE > 1 && CHUNK % MMVQ_BLOCK_SIZE == 0, "segments are whole chunks");

// A tile of the work list.
struct Tile {
    int32_t expert;
    int32_t first;  // sorted position of its first dispatch
};

// Bytes of one 16-bit activation column in shared memory; 64 mod 128 spreads the banks.
DEVICE int32_t column_bytes(int32_t n_cols) { return (2 * n_cols + 63) / 128 * 128 + 64; }

// Everything in dynamic shared memory, in this order; op/stream.py adds up the same bytes.
struct Shared {
    uint64_t* full;    // [MAX_STAGES]
    uint64_t* empty;   // [MAX_STAGES]
    int32_t* totals;   // [32], of the scan over experts
    Tile* tiles;       // [at most one per dispatch, and one per expert and COLUMNS dispatches]
    float* sums;       // [2][SLICES][ROWS][8 * N_TILES]
    uint8_t* columns;  // [COLUMNS * PARTS] of column_bytes
    uint8_t* stages;   // [n_stages][ROWS][ROW_SLOT]
    int32_t n_stages;  // what fits in the memory that the launch asked for

    DEVICE Shared at(uint8_t* base, const Problem& p) {
        const int32_t tile_limit = min(p.m_total, p.n_experts + p.m_total / COLUMNS);
        Shared s;
        s.full = reinterpret_cast<uint64_t*>(base);
        s.empty = s.full + MAX_STAGES;
        s.totals = reinterpret_cast<int32_t*>(s.empty + MAX_STAGES);
        s.tiles = reinterpret_cast<Tile*>(s.totals + 32);
        s.sums = reinterpret_cast<float*>(s.tiles + tile_limit);
        s.columns = reinterpret_cast<uint8_t*>(s.sums + 2 * SLICES * ROWS * 8 * N_TILES);
        s.columns += (128 - shared_address(s.columns) % 128) % 128;
        s.stages = s.columns + COLUMNS * PARTS * column_bytes(p.n_cols);
        s.stages += (128 - shared_address(s.stages) % 128) % 128;
        s.n_stages = min(MAX_STAGES, (dynamic_shared_bytes() - static_cast<int32_t>(s.stages - base)) / STAGE_BYTES);
        return s;
    }
};

// The tiles of all experts, in order, by all threads of the block: each thread counts a run of experts, the counts are
// summed up over the block, and each thread writes its tiles behind those before it.
DEVICE int32_t list_tiles(const Problem& p, const Shared& s) {
    const int32_t run = (p.n_experts + block_size() - 1) / block_size();
    const int32_t first = min(thread_index() * run, p.n_experts), end = min(first + run, p.n_experts);
    int32_t count = 0;
    for (int32_t e = first; e < end; ++e) {
        count += (p.expert_offsets[e + 1] - p.expert_offsets[e] + COLUMNS - 1) / COLUMNS;
    }
    const int32_t through = warp_prefix_sum(count);  // of this lane and the lanes before it
    if (lane_index() == 31) s.totals[warp_index()] = through;
    block_barrier();
    int32_t before = through - count, all = 0;
    for (int32_t w = 0; w < block_size() / 32; ++w) {
        if (w < warp_index()) before += s.totals[w];
        all += s.totals[w];
    }
    for (int32_t e = first; e < end; ++e) {
        for (int32_t i = p.expert_offsets[e]; i < p.expert_offsets[e + 1]; i += COLUMNS) s.tiles[before++] = {e, i};
    }
    block_barrier();
    return all;
}

// Dispatches of a tile.
DEVICE int32_t tile_count(const Problem& p, Tile tile) {
    return min(COLUMNS, p.expert_offsets[tile.expert + 1] - tile.first);
}

// Copies the segment's bytes of this lane's rows, from the 16-byte line that each begins in to the line that it ends in.
// The last line of the tensor may lie partly outside: its bytes inside are copied by hand.
DEVICE void copy_segment(const Problem& p, Tile tile, int32_t first_row, int32_t first_weight, uint8_t* stage,
                         uint64_t* full) {
    const int64_t packed_bytes = row_bytes(p.n_cols);
    const uint8_t* const limit = p.weights + p.n_experts * (p.n_rows_per_expert * packed_bytes);
    const int32_t n_bytes = static_cast<int32_t>(row_bytes(min(SEGMENT, p.n_cols - first_weight)));
    uint32_t bytes[(ROWS + 31) / 32], all_bytes = 0;
#pragma unroll
    for (int32_t i = 0; i < (ROWS + 31) / 32; ++i) {
        const int32_t row = lane_index() + 32 * i;
        bytes[i] = 0;
        if (row >= ROWS || first_row + row >= p.n_rows_per_expert) continue;
        const uint8_t* source =
            p.weights + (static_cast<int64_t>(tile.expert) * p.n_rows_per_expert + first_row + row) * packed_bytes +
            row_bytes(first_weight);
        const uint32_t phase = address_of(source) % 16;
        const uint32_t wanted = phase + n_bytes, lines = (wanted + 15) / 16 * 16;
        const int64_t inside = limit - (source - phase);
        bytes[i] = static_cast<uint32_t>(min(static_cast<int64_t>(lines), inside / 16 * 16));
        for (uint32_t b = bytes[i]; b < wanted; ++b)
            stage[row * ROW_SLOT + b] = source[static_cast<int64_t>(b) - phase];
        all_bytes += bytes[i];
    }
    barrier_arrive_expect(full, all_bytes);
#pragma unroll
    for (int32_t i = 0; i < (ROWS + 31) / 32; ++i) {
        if (bytes[i] == 0) continue;
        const int32_t row = lane_index() + 32 * i;
        const uint8_t* source =
            p.weights + (static_cast<int64_t>(tile.expert) * p.n_rows_per_expert + first_row + row) * packed_bytes +
            row_bytes(first_weight);
        copy_bulk(stage + row * ROW_SLOT, source - address_of(source) % 16, bytes[i], full);
    }
}

// Activations of the tile's dispatches as 16-bit floats, by all consumer threads.
DEVICE void stage_columns(const Problem& p, Tile tile, int32_t count, const Shared& s, int32_t thread) {
    const bool whole_vectors = rows_are_whole_vectors(p.activations, p.n_cols);
    const int32_t n_octets = p.n_cols / 8;
    for (int32_t item = thread; item < count * n_octets; item += 32 * CONSUMERS) {
        const int32_t column = item / n_octets, octet = item % n_octets;
        const Element* row =
            static_cast<const Element*>(p.activations) + activation_row(p, tile.first + column) * p.n_cols;
        uint4 parts[PARTS];
        load_mma_columns(row, octet, p.n_cols, whole_vectors, parts);
#pragma unroll
        for (int32_t part = 0; part < PARTS; ++part) {
            uint8_t* target = s.columns + (column * PARTS + part) * column_bytes(p.n_cols);
            reinterpret_cast<uint4*>(target)[octet] = parts[part];
        }
    }
}

// 32 weights of rows g and g + 8 (g = lane / 4) times the tile's columns, added to `sums`; each lane unpacks one octet of
// each row. `columns[n]` is where this lane's activations of mma column group n start.
template <typename AnyOctet>
DEVICE void multiply_step(AnyOctet upper, AnyOctet lower, const uint8_t* const (&columns)[N_TILES], int32_t offset,
                          float (&sums)[N_TILES][4]) {
    uint32_t high[4], low[4];
    to_mma_weights(upper, high);
    to_mma_weights(lower, low);
    const uint32_t first[4] = {high[0], low[0], high[1], low[1]}, second[4] = {high[2], low[2], high[3], low[3]};
    const bool is_right = lane_index() & 2;  // of a step's two groups of 16
    const float scales[2] = {upper.scale, lower.scale};
    float offsets[2] = {};
    if constexpr (AnyOctet::has_offset) {
        offsets[0] = upper.offset;
        offsets[1] = lower.offset;
    }
#pragma unroll
    for (int n = 0; n < N_TILES; ++n) {
        const uint4 x = load<uint4>(columns[n] + offset);
#pragma unroll
        for (int group = 0; group < 32 / SCALE_GROUP; ++group) {
            const bool is_mine = SCALE_GROUP == 32 || is_right == (group == 1);
            const uint32_t x0[2] = {is_mine ? x.x : 0, is_mine ? x.y : 0},
                           x1[2] = {is_mine ? x.z : 0, is_mine ? x.w : 0};
            float part[4] = {};
            mma_activation(part, first, x0);
            mma_activation(part, second, x1);
            float total[4] = {};
            if constexpr (AnyOctet::has_offset) {
                const uint32_t ones[4] = {kMmaOne, kMmaOne, kMmaOne, kMmaOne};
                mma_activation(total, ones, x0);
                mma_activation(total, ones, x1);
            }
#pragma unroll
            for (int r = 0; r < 2; ++r) {
                float scale = scales[r], shift = offsets[r];
                if constexpr (SCALE_GROUP == 16) {
                    const float other = shuffle_xor(scale, 2);
                    if (!is_mine) scale = other;
                    if constexpr (AnyOctet::has_offset) {
                        const float other_shift = shuffle_xor(shift, 2);
                        if (!is_mine) shift = other_shift;
                    }
                }
#pragma unroll
                for (int c = 2 * r; c < 2 * r + 2; ++c) {
                    sums[n][c] = fused_multiply_add(scale, part[c], sums[n][c]);
                    if constexpr (AnyOctet::has_offset) sums[n][c] = fused_multiply_add(shift, total[c], sums[n][c]);
                }
            }
        }
    }
}

// One segment's share of this warp: every SLICES-th chunk.
DEVICE void multiply_segment(const uint8_t* upper, const uint8_t* lower, int32_t n_weights, int32_t slice,
                             const uint8_t* const (&columns)[N_TILES], float (&sums)[N_TILES][4]) {
    const int32_t quarter = lane_index() & 3;
    for (int32_t chunk = slice; chunk * CHUNK < n_weights; chunk += SLICES) {
#pragma unroll
        for (int32_t step = 0; step < CHUNK / 32; ++step) {
            const int32_t weight = chunk * CHUNK + 32 * step;
            if (MMVQ_BLOCK_SIZE < CHUNK && weight >= n_weights) break;
            const uint32_t octet = static_cast<uint32_t>(chunk * (CHUNK / 8)) + (4 * step | quarter);
            multiply_step(unpack_octet(upper, octet), unpack_octet(lower, octet), columns, 2 * weight, sums);
        }
    }
}

// The sums of the slices, and of an activation's parts, into the output.
DEVICE void store_item(const Problem& p, Tile tile, int32_t count, int32_t first_row, const float* sums,
                       int32_t thread) {
    for (int32_t item = thread; item < count * ROWS; item += 32 * CONSUMERS) {
        const int32_t row = item % ROWS, column = item / ROWS;
        if (first_row + row >= p.n_rows_per_expert) continue;
        float value = 0.0f;
#pragma unroll
        for (int32_t part = 0; part < PARTS; ++part) {
#pragma unroll
            for (int32_t slice = 0; slice < SLICES; ++slice) {
                value += sums[(slice * ROWS + row) * 8 * N_TILES + column * COLUMN_SLOTS + part];
            }
        }
        const int32_t dispatch = tile.first + column;
        store(p, dispatch, first_row + row, dispatch_weight(p, dispatch) * (value * mma_unit<HAS_OFFSET>()));
    }
}

DEVICE void produce(const Problem& p, const Shared& s, int64_t begin, int64_t end, int32_t n_row_tiles) {
    int32_t stage = 0;
    uint32_t parity = 1;  // the first round finds every stage empty
    for (int64_t item = begin; item < end; ++item) {
        const Tile tile = s.tiles[item / n_row_tiles];
        const int32_t first_row = static_cast<int32_t>(item % n_row_tiles) * ROWS;
        for (int32_t weight = 0; weight < p.n_cols; weight += SEGMENT) {
            barrier_wait(s.empty + stage, parity);
            copy_segment(p, tile, first_row, weight, s.stages + stage * STAGE_BYTES, s.full + stage);
            if (++stage == s.n_stages) stage = 0, parity ^= 1;
        }
    }
}

DEVICE void consume(const Problem& p, const Shared& s, int64_t begin, int64_t end, int32_t n_row_tiles) {
    const int32_t thread = thread_index(), warp = warp_index(), lane = lane_index();
    const int32_t group = warp % ROW_GROUPS, slice = warp / ROW_GROUPS;
    const int64_t packed_bytes = row_bytes(p.n_cols);
    int32_t stage = 0, staged = -1, count = 0;
    uint32_t parity = 0;
    for (int64_t item = begin; item < end; ++item) {
        const int32_t listed = static_cast<int32_t>(item / n_row_tiles);
        const Tile tile = s.tiles[listed];
        const int32_t first_row = static_cast<int32_t>(item % n_row_tiles) * ROWS;
        if (listed !=
            staged) {  // all consumers are past the last use of the old columns: they met when its sums were stored
            count = tile_count(p, tile);
            stage_columns(p, tile, count, s, thread);
            named_barrier(1, 32 * CONSUMERS);
            staged = listed;
        }
        const uint8_t* columns[N_TILES];
#pragma unroll
        for (int32_t n = 0; n < N_TILES; ++n) {
            const int32_t slot = 8 * n + lane / 4;
            const int32_t column = min(slot / COLUMN_SLOTS, count - 1), part = min(slot % COLUMN_SLOTS, PARTS - 1);
            columns[n] = s.columns + (column * PARTS + part) * column_bytes(p.n_cols) + 16 * (lane & 3);
        }
        const int32_t row = 16 * group + lane / 4;
        // Rows past the end repeat the last one and are not stored.
        const int32_t last_row = min(ROWS, p.n_rows_per_expert - first_row) - 1;
        const int32_t upper = min(row, last_row), lower = min(row + 8, last_row);
        const uint64_t tile_address =
            address_of(p.weights) +
            (static_cast<int64_t>(tile.expert) * p.n_rows_per_expert + first_row) * packed_bytes;
        float sums[N_TILES][4] = {};
        for (int32_t weight = 0; weight < p.n_cols; weight += SEGMENT) {
            barrier_wait(s.full + stage, parity);
            const uint8_t* slots = s.stages + stage * STAGE_BYTES;
            const uint64_t source = tile_address + row_bytes(weight);
            const uint8_t* moved[N_TILES];
#pragma unroll
            for (int32_t n = 0; n < N_TILES; ++n) moved[n] = columns[n] + 2 * weight;
            multiply_segment(slots + upper * ROW_SLOT + (source + upper * packed_bytes) % 16,
                             slots + lower * ROW_SLOT + (source + lower * packed_bytes) % 16,
                             min(SEGMENT, p.n_cols - weight), slice, moved, sums);
            warp_barrier();
            if (lane == 0) barrier_arrive(s.empty + stage);
            if (++stage == s.n_stages) stage = 0, parity ^= 1;
        }
        float* const block_sums = s.sums + (item & 1) * (SLICES * ROWS * 8 * N_TILES);
#pragma unroll
        for (int32_t n = 0; n < N_TILES; ++n) {
            float* target = block_sums + (slice * ROWS + row) * 8 * N_TILES + 8 * n + 2 * (lane & 3);
            target[0] = sums[n][0];
            target[1] = sums[n][1];
            target[8 * 8 * N_TILES] = sums[n][2];
            target[8 * 8 * N_TILES + 1] = sums[n][3];
        }
        named_barrier(1, 32 * CONSUMERS);
        store_item(p, tile, count, first_row, block_sums, thread);
    }
}

KERNEL_ALONE(32 * (CONSUMERS + 1)) stream(const GRID_CONSTANT Problem p) {
    const Shared s = Shared::at(dynamic_shared(), p);
    if (thread_index() == 0) {
        for (int32_t i = 0; i < s.n_stages; ++i) {
            barrier_init(s.full + i, 32);
            barrier_init(s.empty + i, CONSUMERS);
        }
        barrier_init_done();
    }
    const int32_t n_tiles = list_tiles(p, s);  // its barriers also show the initialized ones to all threads
    const int32_t n_row_tiles = (p.n_rows_per_expert + ROWS - 1) / ROWS;
    const int64_t n_items = static_cast<int64_t>(n_tiles) * n_row_tiles;
    const int64_t begin = n_items * block_index() / block_count(), end = n_items * (block_index() + 1) / block_count();
    if (warp_index() == CONSUMERS) produce(p, s, begin, end, n_row_tiles);
    else consume(p, s, begin, end, n_row_tiles);
}
