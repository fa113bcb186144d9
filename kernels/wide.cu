// Batched mat-vec over experts that have many dispatches each: rows and activations stream side by side, and each row's weights
// are unpacked once for up to 64 mma columns.
//
//   y[i, r] = topk_weights[i] * sum_k W[expert(i), r, k] * x[row(i), k]         for every dispatch i and row r
//
// Two launches. `arrange`, a warp for 256 activations of a dispatch: they become f16 parts in the order of the format's octets,
// those of neighbouring dispatches side by side, so that one copy brings a tile's. `wide`: persistent; block b takes an equal,
// contiguous share of the items (tile of some dispatches of one expert) x (some rows). A stage holds some chunks of 256 weights of
// an item's rows and the tile's activations for them. Some warps copy: boxes, by one lane, or lines of 16 bytes. The others
// multiply: each has 16 rows with all their weights, so that sums stay in registers from a row's begin to its end; or two have them
// and take turns at chunks.
//
// Where stream.cu keeps the activations of whole rows in shared memory, which leaves room for few columns, stages are bound to
// no length of rows here. In return activations are read again for each item, from the L2 cache: 512 bytes for each column
// where 16 rows of 256 4-bit weights are 2,304. The plan picks it for experts with many dispatches. What limits it: columns are
// read from shared memory for each 16 rows, and 8 to 64 of them are multiplied at half the rate that wgmma has.
//
// Arithmetic: exact products of f16 as in stream.cu; chunks are added up in ascending order in f32, those of two warps apart. The
// order depends on the plan's shape only, so a dispatch has the same bits in any batch that is multiplied with that. Bytes: packed
// rows once per tile, activations once per item.
#include "output.cuh"
#include "stream/box.cuh"
#include "stream/chunk.cuh"

static_assert(!IS_INTEGER && !IS_PLAIN, "only f16 columns are as many");
static_assert(WIDE_COLUMN == MMVQ_WIDE_COLUMN, "the plan has columns of another size");

// Where activations of a dispatch's chunk are: [n_chunks][m_total][PARTS] of WIDE_COLUMN bytes.
DEVICE uint8_t* arranged_at(const Problem& p, const Shape& shape, int32_t chunk, int32_t dispatch) {
    return p.arranged + (static_cast<int64_t>(chunk) * p.m_total + dispatch) * (PARTS * WIDE_COLUMN);
}

// What of the columns is copied, but not said by activations.
DEVICE void clear_ends(uint8_t* columns) {
    constexpr int32_t LINES = (WIDE_COLUMN - POWERS_AT) / 16;
    if (LINES == 0) return;
    for (int32_t i = lane_index(); i < LINES * PARTS; i += 32) {
        reinterpret_cast<uint4*>(columns + i / LINES * WIDE_COLUMN + POWERS_AT)[i % LINES] = {0, 0, 0, 0};
    }
    warp_barrier();
}

KERNEL arrange(const GRID_CONSTANT Problem p, const GRID_CONSTANT Shape shape, const GRID_CONSTANT TensorMap) {
    start_overlapped();
    const bool whole_vectors = rows_are_whole_vectors(p.activations, p.n_cols);
    const int64_t n = static_cast<int64_t>(shape.n_chunks) * p.m_total;
    for (int64_t i = thread_in_grid() / 32; i < n; i += threads_in_grid() / 32) {
        const int32_t chunk = static_cast<int32_t>(quotient(i, p.m_total));
        const int32_t dispatch = static_cast<int32_t>(i - static_cast<int64_t>(chunk) * p.m_total);
        const Element* row = static_cast<const Element*>(p.activations) + activation_row(p, dispatch) * p.n_cols;
        Element octet[8];
        load_mma_octet(row + chunk * CHUNK, lane_index() % 4, lane_index() / 4, p.n_cols - chunk * CHUNK, whole_vectors,
                       octet);
        uint8_t* const target = arranged_at(p, shape, chunk, dispatch);
        clear_ends(target);
        stage_chunk(octet, target, WIDE_COLUMN);
    }
}

// Where a warp is in the ring of stages.
struct Ring {
    int32_t slot;
    uint32_t parity;  // of the round

    DEVICE void advance(const Shape& shape, Ring& ring) {
        if (++ring.slot == shape.n_stages) ring.slot = 0, ring.parity ^= 1;
    }
};

// ---- The copying warps.

// Which lines of a stage a copying lane takes: the first, and how far the next is.
struct Turn {
    int32_t row, line, row_step, line_step;

    DEVICE Turn of(const Shape& shape) {
        const int32_t first = thread_index() - 32 * shape.warps, step = block_size() - 32 * shape.warps;
        const int32_t row = first / shape.row_lines, row_step = step / shape.row_lines;
        return {row, first - row * shape.row_lines, row_step, step - row_step * shape.row_lines};
    }
};

// An item's rows in a stage, as lines of 16 bytes: from the one that the segment begins in to the one that it ends in. The copying
// lanes take them by turns.
struct Lines {
    const uint8_t* first;  // weight of the segment
    int32_t inside;        // bytes of the tensor from there on, if fewer than an item's rows have
    int32_t pitch, n_rows, n_bytes;

    DEVICE Lines of(const Problem& p, const Shape& shape, const Item& item, int32_t first_weight) {
        const int64_t packed_bytes = row_bytes(p.n_cols);
        const int32_t first_row = item.row_tile * shape.rows;
        const int64_t row_of_all = static_cast<int64_t>(item.tile.expert) * p.n_rows_per_expert + first_row;
        const int64_t from_start = row_of_all * packed_bytes + row_bytes(first_weight);
        const int64_t rest = p.n_experts * (p.n_rows_per_expert * packed_bytes) - from_start;
        return {p.weights + from_start, rest < 1 << 30 ? static_cast<int32_t>(rest) : 1 << 30,
                static_cast<int32_t>(packed_bytes), min(shape.rows, p.n_rows_per_expert - first_row),
                static_cast<int32_t>(row_bytes(min(shape.segment, p.n_cols - first_weight)))};
    }

    // Whether all lines that rows may have are inside the tensor, so that none must be cut.
    DEVICE bool are_inside(const Lines& lines, const Shape& shape) {
        return lines.n_rows * lines.pitch + 16 * shape.row_lines < lines.inside;
    }
};

// By steps of as many lines as there are lanes: few instructions for each, since a copying warp has more to ask for than to wait.
template <bool Whole>
DEVICE void copy_lines(const Shape& shape, const Lines& lines, const Turn& turn, uint8_t* stage) {
    const int32_t first_phase = static_cast<int32_t>(address_of(lines.first) % 16);
    int32_t row = turn.row, line = turn.line;
    int32_t source = row * lines.pitch + 16 * line;
    uint8_t* target = stage + row * shape.row_slot + 16 * line;
    const int32_t source_step = turn.row_step * lines.pitch + 16 * turn.line_step,
                  target_step = turn.row_step * shape.row_slot + 16 * turn.line_step;
    const int32_t source_wrap = lines.pitch - 16 * shape.row_lines, target_wrap = shape.row_slot - 16 * shape.row_lines;
#pragma unroll 2
    while (row < lines.n_rows) {
        const int32_t phase = MMVQ_TYPE_SIZE % 16 == 0 ? 0 : (first_phase + row * lines.pitch) & 15;
        const int32_t begin = source - phase;
        if constexpr (Whole) copy_line(target, lines.first + begin, 16);
        else if (16 * line < phase + lines.n_bytes) {
            copy_line(target, lines.first + begin, min(16, lines.inside - begin));
        }
        row += turn.row_step, line += turn.line_step, source += source_step, target += target_step;
        if (line >= shape.row_lines) {
            row += 1, line -= shape.row_lines, source += source_wrap, target += target_wrap;
        }
    }
}

DEVICE void copy_rows(const Problem& p, const Shape& shape, const Item& item, int32_t first_weight, const Turn& turn,
                      uint8_t* stage) {
    const Lines lines = Lines::of(p, shape, item, first_weight);
    if (Lines::are_inside(lines, shape)) copy_lines<true>(shape, lines, turn, stage);
    else copy_lines<false>(shape, lines, turn, stage);
}

// The tile's activations for the segment, chunk after chunk.
DEVICE void copy_columns(const Problem& p, const Shape& shape, const Tile& tile, int32_t first_weight, uint8_t* columns,
                         uint64_t* full) {
    const int32_t lane = thread_index() - 32 * shape.warps;  // of all that copy
    const int32_t first = first_weight / CHUNK, last = min(first + shape.segment / CHUNK, shape.n_chunks);
    const int32_t n_bytes = count_of(shape, tile) * PARTS * WIDE_COLUMN;
    for (int32_t chunk = first; chunk < last; ++chunk, columns += shape.columns * PARTS * WIDE_COLUMN) {
        const uint8_t* const source = arranged_at(p, shape, chunk, tile.first);
        if constexpr (HAS_BULK_COPIES) {
            if (lane > 0) continue;
            barrier_expect(full, n_bytes);
            copy_bulk(columns, source, n_bytes, full);
        } else {
            const int32_t step = 16 * (block_size() - 32 * shape.warps);
            for (int32_t at = 16 * lane; at < n_bytes; at += step) copy_line(columns + at, source + at, 16);
        }
    }
}

DEVICE void copy_items(const Problem& p, const Shape& shape, const TensorMap& map, const Shared& s,
                       const Share& share) {
    const Turn turn = Turn::of(shape);
    if (shape.has_boxes && warp_index() > shape.warps) return;  // one lane asks for all
    Ring ring = {0, 1};                                         // the first round finds every stage empty
    for (Item item = share.first; item.number < share.n_items; advance(p, shape, item)) {
        for (int32_t weight = 0; weight < p.n_cols; weight += shape.segment) {
            barrier_wait(s.empty + ring.slot, ring.parity);
            uint8_t* const stage = s.stages + ring.slot * shape.stage_bytes;
            uint64_t* const full = s.full + ring.slot;
            copy_columns(p, shape, item.tile, weight, stage + shape.columns_at, full);
            if (HAS_BULK_COPIES && shape.has_boxes) {
                if (lane_index() == 0) {
                    copy_as_box(p, shape, map, item.tile, item.row_tile * shape.rows, weight, stage, full);
                }
            } else {
                copy_rows(p, shape, item, weight, turn, stage);
                barrier_arrive_behind_copies(full);
            }
            Ring::advance(shape, ring);
        }
    }
}

// ---- The multiplying warps.

// Which 16 of the rows are the warp's, and which of a stage's chunks: all, or every second one.
DEVICE int32_t warp_slice(const Shape& shape) { return warp_index() >= shape.row_groups; }
DEVICE int32_t row_group(const Shape& shape) { return warp_index() - warp_slice(shape) * shape.row_groups; }

// The two rows of a lane: where they begin in a stage, without the phase of a segment's first byte in 16. Rows past the expert's
// end are multiplied as its last one, but not stored.
struct LaneRows {
    int32_t upper, lower;               // bytes
    uint32_t upper_phase, lower_phase;  // of the rows' first bytes

    DEVICE LaneRows of(const Problem& p, const Shape& shape, const Item& item) {
        const int32_t row = 16 * row_group(shape) + lane_index() / 4, first_row = item.row_tile * shape.rows;
        const int32_t last = min(shape.rows, p.n_rows_per_expert - first_row) - 1;
        const int32_t upper = min(row, last), lower = min(row + 8, last);
        const uint32_t pitch = static_cast<uint32_t>(row_bytes(p.n_cols));
        const uint32_t row_in_tensor = static_cast<uint32_t>(item.tile.expert) * p.n_rows_per_expert + first_row;
        const uint32_t phase = static_cast<uint32_t>(address_of(p.weights)) + row_in_tensor * pitch;
        return {upper * shape.row_slot, lower * shape.row_slot, phase + upper * pitch, phase + lower * pitch};
    }

    DEVICE const uint8_t* in_stage(const uint8_t* stage, int32_t row, uint32_t phase, uint32_t segment_bytes) {
        if constexpr (MMVQ_TYPE_SIZE % 16 == 0) return stage + row;
        else return stage + row + (phase + segment_bytes) % 16;
    }
};

// Stores a lane's sums: of its two rows, and of mma columns 8n + 2 * (lane % 4) and the next.
DEVICE void store_sums(const Problem& p, const Shape& shape, const Item& item, const float (&sums)[N_TILES][4]) {
    constexpr int VALUES = 2 / PARTS;  // dispatches of a lane and eight mma columns
    constexpr float low = 1.0f / kLowPart;
    const int32_t count = count_of(shape, item.tile), first_row = item.row_tile * shape.rows;
    const int32_t upper = 16 * row_group(shape) + lane_index() / 4;
#pragma unroll
    for (int n = 0; n < N_TILES; ++n) {
        const int32_t column = (4 * n + lane_index() % 4) * VALUES;
        float factors[VALUES];
        int64_t places[VALUES];
#pragma unroll
        for (int v = 0; v < VALUES; ++v) {
            const int32_t dispatch = item.tile.first + min(column + v, count - 1);
            factors[v] = dispatch_weight(p, dispatch);
            places[v] = place_of(p, dispatch);
        }
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const int32_t in_item = upper + 8 * half, row = first_row + in_item;
            const float* const of_row = sums[n] + 2 * half;
            float values[VALUES];
            bool are_wanted[VALUES];
#pragma unroll
            for (int v = 0; v < VALUES; ++v) {
                const float sum = PARTS == 1 ? of_row[v] : fused_multiply_add(of_row[1], low, of_row[0]);
                values[v] = factors[v] * sum;
                are_wanted[v] = column + v < count && row < p.n_rows_per_expert;
            }
            store(p, places, are_wanted, row, values);
        }
    }
}

// The sums of the two warps that share rows, to the first of them.
DEVICE void add_slices(const Shape& shape, const Shared& s, float (&sums)[N_TILES][4]) {
    const int32_t group = row_group(shape);
    float4* const exchange = reinterpret_cast<float4*>(s.sums) + 32 * N_TILES * group + lane_index();
    if (warp_slice(shape) == 1) {
#pragma unroll
        for (int n = 0; n < N_TILES; ++n) {
            exchange[32 * n] = make_float4(sums[n][0], sums[n][1], sums[n][2], sums[n][3]);
        }
    }
    named_barrier(1 + group, 64);
    if (warp_slice(shape) == 0) {
#pragma unroll
        for (int n = 0; n < N_TILES; ++n) {
            const float4 other = exchange[32 * n];
            sums[n][0] += other.x, sums[n][1] += other.y, sums[n][2] += other.z, sums[n][3] += other.w;
        }
    }
    named_barrier(1 + group, 64);  // read before the next item's are written
}

// Up to 256 weights of both rows times the first 8 * N mma columns, added to their sums.
template <int N>
DEVICE void multiply_first(const uint8_t* upper, const uint8_t* lower, const Grid& grid, int32_t n_weights,
                           const Columns& columns, int32_t offset, float (&sums)[N_TILES][4]) {
    multiply_chunk(upper, lower, grid, n_weights, columns, offset, reinterpret_cast<float (&)[N][4]>(sums));
}

// The same with so many quarters of the mma columns as the tile has dispatches for.
DEVICE void multiply_quarters_of_tile(int32_t n_quarters, const uint8_t* upper, const uint8_t* lower, const Grid& grid,
                                      int32_t n_weights, const Columns& columns, int32_t offset,
                                      float (&sums)[N_TILES][4]) {
    constexpr int QUARTER = N_TILES / 4;
    if (n_quarters == 1) multiply_first<QUARTER>(upper, lower, grid, n_weights, columns, offset, sums);
    else if (n_quarters == 2) multiply_first<2 * QUARTER>(upper, lower, grid, n_weights, columns, offset, sums);
    else if (n_quarters == 3) multiply_first<3 * QUARTER>(upper, lower, grid, n_weights, columns, offset, sums);
    else multiply_first<N_TILES>(upper, lower, grid, n_weights, columns, offset, sums);
}

DEVICE void multiply_items(const Problem& p, const Shape& shape, const Shared& s, const Share& share) {
    const Grid grid = grid_of(shape, s);
    const int32_t tile_bytes = shape.columns * PARTS * WIDE_COLUMN;  // of a chunk
    Ring ring = {0, 0};
    for (Item item = share.first; item.number < share.n_items; advance(p, shape, item)) {
        const LaneRows rows = LaneRows::of(p, shape, item);
        const int32_t count = count_of(shape, item.tile);
        const int32_t n_quarters = (count * PARTS + 2 * N_TILES - 1) / (2 * N_TILES);
        float sums[N_TILES][4] = {};
        uint32_t segment_bytes = 0;  // packed, before this segment
        for (int32_t weight = 0; weight < p.n_cols; weight += shape.segment) {
            barrier_wait(s.full + ring.slot, ring.parity);
            const uint8_t* const stage = s.stages + ring.slot * shape.stage_bytes;
            const uint8_t* upper = LaneRows::in_stage(stage, rows.upper, rows.upper_phase, segment_bytes);
            const uint8_t* lower = LaneRows::in_stage(stage, rows.lower, rows.lower_phase, segment_bytes);
            const Columns columns = Columns::of(shape, stage + shape.columns_at, count);
            const int32_t n_segment = min(shape.segment, p.n_cols - weight);
            int32_t chunk = warp_slice(shape);
#pragma unroll 1
            for (; chunk * CHUNK < n_segment; chunk += shape.slices) {
                multiply_quarters_of_tile(n_quarters, upper + chunk * PACKED_CHUNK, lower + chunk * PACKED_CHUNK, grid,
                                          n_segment - chunk * CHUNK, columns, chunk * tile_bytes, sums);
            }
            arrive_as_warp(s.empty + ring.slot);
            segment_bytes += shape.packed_segment;
            Ring::advance(shape, ring);
        }
        if (shape.slices == 2) add_slices(shape, s, sums);
        if (warp_slice(shape) == 0) store_sums(p, shape, item, sums);
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
            barrier_init(s.full + i, shape.has_boxes ? 1 : block_size() - 32 * shape.warps);
            barrier_init(s.empty + i, shape.warps);
        }
        barrier_init_done();
    }
    copy_grid(shape, s);
    clear_columns(shape, s);
    block_barrier();  // shows the initialized barriers, the codebook and the zeros to all threads
    start_overlapped();
    const Share share = share_of_block(p, shape);
    if (warp_index() < shape.warps) multiply_items(p, shape, s, share);
    else copy_items(p, shape, map, s, share);
}
