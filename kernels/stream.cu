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
// Arithmetic: exact products of f16 in the tensor cores' f32 sums (mma.cuh); of whole blocks where the format's scales are folded
// into the weights, else of the 16 or 32 weights that share a scale, which goes on the sums in f32. Offsets that are a small
// integer times one float per block are multiplied, as bfloat16, with the sums of the activations of their group, which are kept
// beside the activations as three bfloat16 parts.
// A sum's order depends on format and n_cols only, never on the other dispatches of a tile, the tile's width or the device.
// Bytes: packed rows once per tile; activations once per tile and block.
#include "mma.cuh"
#include "output.cuh"

constexpr int N_TILES = MMVQ_COLUMN_TILES;         // of 8 mma columns
constexpr int WARPS = MMVQ_WARPS;                  // that multiply
constexpr int SUMMING_WARPS = MMVQ_SUMMING_WARPS;  // 1, or 2 that take turns
constexpr int MIN_GROUPS = MMVQ_MIN_GROUPS;        // of 256 weights, where the format has Mins; else 0
constexpr int THREADS = 32 * (WARPS + 1 + SUMMING_WARPS);
constexpr int MAX_STAGES = 8;
constexpr int CHUNK = 256;

constexpr int COLUMN_SLOTS = PARTS;  // mma columns per dispatch
constexpr int SUM_STRIDE = 8 * N_TILES;
constexpr int PACKED_CHUNK = CHUNK / MMVQ_BLOCK_SIZE * MMVQ_TYPE_SIZE;  // bytes
constexpr int MIN_PAIRS = MIN_GROUPS / 8;                               // of a lane's strip
// Of a column: activations; four 16-bit parts of each group's sum; the powers of two of 256 activations.
constexpr int SUMS_AT = 2 * CHUNK, POWERS_AT = SUMS_AT + 8 * MIN_GROUPS, CHUNK_BYTES = POWERS_AT + (IS_SCALED ? 16 : 0);
constexpr int GRID_WORDS = MMVQ_GRID_WORDS;  // of the format's codebook, if strips look it up
static_assert(MMVQ_BLOCK_SIZE > 1 && CHUNK % MMVQ_BLOCK_SIZE == 0, "chunks are whole blocks");
static_assert(IS_FOLDED || (MIN_GROUPS == 0 && GRID_WORDS == 0), "only strips have such");

// How the plan cuts a problem (op/stream.py computes and explains it): by value beside the problem, so that one kernel serves
// all sizes and every figure is read from constant memory.
struct Shape {
    int32_t columns;         // dispatches per tile, at most 8 * N_TILES / COLUMN_SLOTS, a power of two
    int32_t column_shift;    // log2(columns)
    int32_t tile_slots;      // tiles whose activations are kept, 1 or 2
    int32_t row_groups;      // of 16 rows per item, a power of two
    int32_t group_shift;     // log2(row_groups)
    int32_t rows;            // per item
    int32_t n_row_tiles;     // items per tile
    int32_t run;             // chunks per slice
    int32_t n_slices;        // per row
    int32_t slices;          // per stage
    int32_t units;           // per stage
    int32_t segment;         // weights of a row per stage, whole slices
    int32_t n_segments;      // per row
    int32_t packed_segment;  // bytes
    int32_t row_slot;        // bytes from row to row in a stage
    int32_t copy_rows;       // with one copy: an item's, or 1; a power of two
    int32_t stage_bytes;
    int32_t n_stages;
    int32_t early_stages;  // copied before the first activations are there
    int32_t column_bytes;  // of one 16-bit activation column
    int32_t item_sums;     // floats of an item's unfinished sums [n_slices][rows][SUM_STRIDE]
    int32_t sums_at;       // where the parts of dynamic shared memory start, in bytes
    int32_t columns_at;
    int32_t stages_at;
    int32_t grid_at;
};

// Up to `columns` dispatches of one expert.
struct Tile {
    int32_t expert;
    int32_t first, end;  // sorted positions: of the tile's first dispatch, and behind the expert's last
};

// An item of a block's share: some rows of a tile. Items follow each other row by row, tile by tile, expert by expert.
struct Item {
    Tile tile;
    int32_t row_tile;  // which of the tile's rows
    int32_t number;    // in the share
};

// What one block does.
struct Share {
    Item first;
    int32_t n_items;
};

// Dispatches of a tile.
DEVICE int32_t count_of(const Shape& shape, const Tile& tile) { return min(shape.columns, tile.end - tile.first); }

// The first tile of the next expert that has one, by a warp; none is left when its expert is n_experts.
DEVICE Tile first_tile_from(const Problem& p, int32_t expert) {
    for (; expert < p.n_experts; expert += 32) {
        const int32_t mine = expert + lane_index();
        const uint32_t busy = warp_ballot(mine < p.n_experts && p.expert_offsets[mine] < p.expert_offsets[mine + 1]);
        if (busy == 0) continue;
        const int32_t found = expert + lowest_bit(busy);
        return {found, p.expert_offsets[found], p.expert_offsets[found + 1]};
    }
    return {p.n_experts, 0, 0};
}

// The tile behind this one, by a warp.
DEVICE Tile next_tile(const Problem& p, const Shape& shape, Tile tile) {
    tile.first += shape.columns;
    return tile.first < tile.end ? tile : first_tile_from(p, tile.expert + 1);
}

// On to the next item, by a warp; true when it has another tile.
DEVICE bool advance(const Problem& p, const Shape& shape, Item& item) {
    ++item.number;
    if (++item.row_tile < shape.n_row_tiles) return false;
    item.row_tile = 0;
    item.tile = next_tile(p, shape, item.tile);
    return true;
}

// Everything in dynamic shared memory, in this order.
struct Shared {
    uint64_t* full;        // [MAX_STAGES] of copying
    uint64_t* empty;       // [MAX_STAGES]
    uint64_t* multiplied;  // [2] of an item
    uint64_t* summed;      // [2]
    uint64_t* staged;      // [1], the first activations
    float* sums;           // [2][item_sums]
    uint8_t* columns;      // [tile_slots][columns * PARTS] of column_bytes
    uint8_t* stages;       // [n_stages][rows][row_slot]
    uint8_t* grid;         // [GRID_WORDS] of 32 bits

    DEVICE Shared at(uint8_t* base, const Shape& shape) {
        Shared s;
        s.full = reinterpret_cast<uint64_t*>(keep_in_register(base));
        s.empty = s.full + MAX_STAGES;
        s.multiplied = s.empty + MAX_STAGES;
        s.summed = s.multiplied + 2;
        s.staged = s.summed + 2;
        s.sums = reinterpret_cast<float*>(base + shape.sums_at);
        s.columns = base + shape.columns_at;
        s.stages = base + shape.stages_at;
        s.grid = base + shape.grid_at;
        return s;
    }
};

// Block b's equal, contiguous share of the items, by each warp: a lane counts the tiles of a run of experts, the counts are
// summed up over the warp, and the lane that meets the block's first tile tells the others.
DEVICE Share share_of_block(const Problem& p, const Shape& shape) {
    const int32_t run = (p.n_experts + 31) >> 5;
    const int32_t first = min(lane_index() * run, p.n_experts), last = min(first + run, p.n_experts);
    int32_t count = 0;
    for (int32_t begin = first; begin < last; begin += 8) {  // eight loads at once
        int32_t offsets[9];
#pragma unroll
        for (int i = 0; i < 9; ++i) offsets[i] = p.expert_offsets[min(begin + i, last)];
#pragma unroll
        for (int i = 0; i < 8; ++i) count += (offsets[i + 1] - offsets[i] + shape.columns - 1) >> shape.column_shift;
    }
    const int32_t through = warp_prefix_sum(count);  // of this lane and the lanes before it
    const int64_t n_items = static_cast<int64_t>(shuffle(through, 31)) * shape.n_row_tiles;
    const int64_t each = quotient(n_items, block_count());
    const int32_t rest = static_cast<int32_t>(n_items - each * block_count());  // the first blocks take one more
    const int64_t begin = each * block_index() + min(block_index(), rest);
    const int32_t wanted = static_cast<int32_t>(quotient(begin, shape.n_row_tiles));
    const uint32_t reached = warp_ballot(through > wanted);
    const int32_t owner = reached == 0 ? 31 : lowest_bit(reached);
    Tile tile = {p.n_experts, 0, 0};
    if (lane_index() == owner) {
        int32_t before = through - count;
        for (int32_t e = first, from = p.expert_offsets[first]; e < last; ++e) {
            const int32_t to = p.expert_offsets[e + 1], n_tiles = (to - from + shape.columns - 1) >> shape.column_shift;
            if (wanted < before + n_tiles) {
                tile = {e, from + ((wanted - before) << shape.column_shift), to};
                break;
            }
            before += n_tiles;
            from = to;
        }
    }
    tile = {shuffle(tile.expert, owner), shuffle(tile.first, owner), shuffle(tile.end, owner)};
    return {{tile, static_cast<int32_t>(begin - static_cast<int64_t>(wanted) * shape.n_row_tiles), 0},
            static_cast<int32_t>(each) + (block_index() < rest ? 1 : 0)};
}

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

// ---- The copying warp.

// Copies the segment's bytes of an item's rows: from the 16-byte line that a copy begins in to the line that it ends in. Lanes take
// turns at asking, some 40 ns for each copy, so short rows are copied together.
// The last line of the tensor may lie partly outside: its bytes inside are copied by hand.
DEVICE void copy_segment(const Problem& p, const Shape& shape, Tile tile, int32_t first_row, int32_t first_weight,
                         uint8_t* stage, uint64_t* full) {
    const int64_t packed_bytes = row_bytes(p.n_cols);
    const uint8_t* const limit = p.weights + p.n_experts * (p.n_rows_per_expert * packed_bytes);
    const uint32_t n_bytes = static_cast<uint32_t>(row_bytes(min(shape.segment, p.n_cols - first_weight)));
    const int32_t n_rows = min(shape.rows, p.n_rows_per_expert - first_row);
    const uint8_t* const first = p.weights +
                                 (static_cast<int64_t>(tile.expert) * p.n_rows_per_expert + first_row) * packed_bytes +
                                 row_bytes(first_weight);
    for (int32_t row = lane_index() * shape.copy_rows; row < n_rows; row += 32 * shape.copy_rows) {
        const uint8_t* const source = first + row * packed_bytes;
        const uint32_t phase = address_of(source) % 16;
        const uint32_t wanted = phase + n_bytes * min(shape.copy_rows, n_rows - row), lines = (wanted + 15) / 16 * 16;
        const uint8_t* const begin = source - phase;
        const uint32_t copied = limit - begin >= lines ? lines : static_cast<uint32_t>(limit - begin) / 16 * 16;
        uint8_t* const target = stage + row * shape.row_slot;
        for (uint32_t b = copied; b < wanted; ++b) target[b] = begin[b];
        if (copied == 0) continue;
        barrier_expect(full, copied);
        copy_bulk(target, begin, copied, full);
    }
    barrier_arrive(full);
}

// As many stages ahead as there is room; but the first activations, which multiplication waits for, come before most weights:
// they would queue up behind all that is on its way.
DEVICE void copy_items(const Problem& p, const Shape& shape, const Shared& s, const Share& share) {
    int32_t stage = 0, n_copied = 0;
    uint32_t parity = 1;  // the first round finds every stage empty
    for (Item item = share.first; item.number < share.n_items; advance(p, shape, item)) {
        const Tile tile = item.tile;
        const int32_t first_row = item.row_tile * shape.rows;
        for (int32_t weight = 0; weight < p.n_cols; weight += shape.segment) {
            if (n_copied++ == shape.early_stages) barrier_wait(s.staged, 0);
            barrier_wait(s.empty + stage, parity);
            copy_segment(p, shape, tile, first_row, weight, s.stages + stage * shape.stage_bytes, s.full + stage);
            if (++stage == shape.n_stages) stage = 0, parity ^= 1;
        }
    }
}

// ---- The multiplying warps.

// The sums of the groups of a chunk's activations, behind them: lane t of an mma finds the parts of its strip's groups, which are
// pairs of halves of words. All lanes of a warp have an octet of the chunk; `wanted` is 0 where the column is a low part.
DEVICE void stage_group_sums(uint8_t* chunk, const float (&x)[8], float wanted) {
    const int32_t t = lane_index() % 4, i = lane_index() / 4;
    float sums[2];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        const float* y = x + 4 * half;
        float sum = y[0] + y[1] + (y[2] + y[3]);
#pragma unroll
        for (int distance = MIN_PAIRS; distance < 8; distance *= 2) sum += shuffle_xor(sum, 4 * distance);
        sums[half] = sum * wanted;
    }
    if (i >= MIN_PAIRS) return;
    const BfloatParts first = BfloatParts::of(sums[0]), second = BfloatParts::of(sums[1]);
    uint32_t words[4] = {};
#pragma unroll
    for (int part = 0; part < 3; ++part) words[part] = first.part[part] >> 16 | second.part[part];
    *reinterpret_cast<uint4*>(chunk + SUMS_AT + 16 * (4 * i + t)) = {words[0], words[1], words[2], words[3]};
}

// A chunk of one dispatch's activations becomes f16 parts, by a warp: lane 4i + t has octet i of lane t. `target` is the chunk's
// place in the first part's column.
DEVICE void stage_chunk(const Element (&octet)[8], uint8_t* target, int32_t column_bytes) {
    float x[8];
#pragma unroll
    for (int i = 0; i < 8; ++i) x[i] = to_float(octet[i]);
    if constexpr (IS_SCALED) {
        uint32_t largest = 0;
#pragma unroll
        for (int i = 0; i < 8; ++i) largest = max(largest, finite_magnitude(x[i]));
        const Powers powers = Powers::of(warp_max(largest));
#pragma unroll
        for (int i = 0; i < 8; ++i) x[i] *= powers.up;
        if (lane_index() == 0) *reinterpret_cast<float2*>(target + POWERS_AT) = {powers.down[0], powers.down[1]};
    }
    uint4 parts[PARTS];
    to_mma_columns(x, parts);
#pragma unroll
    for (int part = 0; part < PARTS; ++part) {
        uint8_t* const chunk = target + part * column_bytes;
        reinterpret_cast<uint4*>(chunk)[lane_index()] = parts[part];
        if constexpr (MIN_GROUPS > 0) stage_group_sums(chunk, x, part == 0 ? 1.0f : 0.0f);
    }
}

// Stages the activations of the item's tile, and of the next one if the share goes so far and there is a slot for it, by all
// multiplying warps. Returns how many tiles.
DEVICE int32_t stage_tiles(const Problem& p, const Shape& shape, const Share& share, const Item& item,
                           const Shared& s) {
    const bool are_two = shape.tile_slots == 2 && share.n_items - item.number > shape.n_row_tiles - item.row_tile;
    const Tile first = item.tile, second = are_two ? next_tile(p, shape, first) : Tile{p.n_experts, 0, 0};
    const int32_t n_first = count_of(shape, first), n_columns = n_first + count_of(shape, second);
    const bool whole_vectors = rows_are_whole_vectors(p.activations, p.n_cols);
    const int32_t n_chunks = (p.n_cols + CHUNK - 1) / CHUNK;
    named_barrier(1, 32 * WARPS);  // all are past the last use of the old columns
    const int32_t n = n_columns * n_chunks;
    constexpr int AT_ONCE = 4;  // loads on their way
    for (int32_t begin = warp_index(); begin < n; begin += AT_ONCE * WARPS) {
        Element octets[AT_ONCE][8];
        uint8_t* targets[AT_ONCE];
#pragma unroll
        for (int i = 0; i < AT_ONCE; ++i) {
            const int32_t number = min(begin + i * WARPS, n - 1), column = number / n_chunks, chunk = number % n_chunks;
            const bool is_first = column < n_first;
            const int32_t in_tile = is_first ? column : column - n_first,
                          slot = is_first ? in_tile : shape.columns + in_tile;
            const Element* row = static_cast<const Element*>(p.activations) +
                                 activation_row(p, (is_first ? first : second).first + in_tile) * p.n_cols;
            load_mma_octet(row + chunk * CHUNK, lane_index() % 4, lane_index() / 4, p.n_cols - chunk * CHUNK,
                           whole_vectors, octets[i]);
            targets[i] = s.columns + slot * PARTS * shape.column_bytes + chunk * CHUNK_BYTES;
        }
#pragma unroll
        for (int i = 0; i < AT_ONCE; ++i) {
            if (begin + i * WARPS < n) stage_chunk(octets[i], targets[i], shape.column_bytes);
        }
    }
    if (item.number == 0) arrive_as_warp(s.staged);
    named_barrier(1, 32 * WARPS);
    return are_two ? 2 : 1;
}

// What a lane multiplies with: its activations of each group of 8 mma columns; those of the first column where the tile has not
// so many. (A load that may not happen would keep its registers throughout the loop.)
struct Columns {
    const uint8_t* start[N_TILES];  // of the octets that this lane takes
    const uint8_t* all;
    int32_t bytes, last;  // of a dispatch; the last dispatch

    DEVICE Columns of(const Shape& shape, const Shared& s, int32_t tile_slot, int32_t count) {
        Columns columns;
        columns.all = s.columns + tile_slot * shape.columns * PARTS * shape.column_bytes;
        columns.bytes = PARTS * shape.column_bytes;
        columns.last = count - 1;
#pragma unroll
        for (int32_t n = 0; n < N_TILES; ++n) {
            const int32_t slot = 8 * n + lane_index() / 4;
            columns.start[n] =
                columns.all + (slot < count * COLUMN_SLOTS ? slot : 0) * shape.column_bytes + 16 * (lane_index() & 3);
        }
        return columns;
    }

    // What the lane's sums of mma column 8n + 2 * (lane % 4) + c must be multiplied by, one after the other; of columns that
    // the tile has not, what any other's must.
    DEVICE float2 powers(const Columns& columns, int32_t n, int32_t c, int32_t offset) {
        const int32_t column = min((8 * n + 2 * (lane_index() & 3) + c) / COLUMN_SLOTS, columns.last);
        return load<float2>(columns.all + column * columns.bytes + offset + POWERS_AT);
    }
};

// 32 weights of rows g and g + 8 (g = lane / 4) times the tile's columns, added to `sums`; each lane has unpacked one octet
// of each row. `x` lies `offset` bytes from the start of its columns.
template <typename AnyOctet>
DEVICE void multiply_step(AnyOctet upper, AnyOctet lower, const Columns& columns, int32_t offset,
                          float (&sums)[N_TILES][4]) {
    constexpr int N_SCALES = AnyOctet::n_scales;
    uint32_t high[4], low[4];
    to_mma_weights(upper, high);
    to_mma_weights(lower, low);
    const uint32_t weights[2][4] = {{high[0], low[0], high[1], low[1]}, {high[2], low[2], high[3], low[3]}};
#pragma unroll
    for (int n = 0; n < N_TILES; ++n) {
        const uint4 x = load<uint4>(columns.start[n] + offset);
        const uint32_t words[2][2] = {{x.x, x.y}, {x.z, x.w}};
        const auto add = [&](const float (&part)[4], float upper_factor, float lower_factor) {
#pragma unroll
            for (int c = 0; c < 4; ++c) {
                sums[n][c] = fused_multiply_add(c < 2 ? upper_factor : lower_factor, part[c], sums[n][c]);
            }
        };
#pragma unroll
        for (int group = 0; group < N_SCALES; ++group) {
            float part[4];
            multiply(part, weights[group], words[group]);
            if constexpr (N_SCALES == 1) multiply_add(part, weights[1], words[1]);
            add(part, upper.scale[group], lower.scale[group]);
            if constexpr (AnyOctet::has_offset) {
                const uint32_t ones[4] = {kMmaOne, kMmaOne, kMmaOne, kMmaOne};
                float total[4];
                multiply(total, ones, words[group]);
                if constexpr (N_SCALES == 1) multiply_add(total, ones, words[1]);
                add(total, upper.offset[group], lower.offset[group]);
            }
        }
    }
}

// Up to 256 weights of both rows in steps of 32; `offset` is where the chunk starts in the columns.
template <typename F = WeightFormat>
DEVICE void multiply_steps(const uint8_t* upper, const uint8_t* lower, int32_t n_weights, const Columns& columns,
                           int32_t offset, float (&sums)[N_TILES][4]) {
    using AnyOctet = decltype(unpack_operands<F>(nullptr, 0));
    static_assert(CHUNK % F::block_size == 0 && F::scale_group * AnyOctet::n_scales >= 32,
                  "a step's octets share its scales");
    const auto multiply_one = [&](int32_t step) {
        const uint32_t octet = 4 * step | (lane_index() & 3);
        multiply_step(unpack_operands<F>(upper, octet), unpack_operands<F>(lower, octet), columns, offset + 64 * step,
                      sums);
    };
    if (F::block_size == CHUNK || n_weights >= CHUNK) {
#pragma unroll N_TILES == 1 ? 8 : 4  // wide tiles have no registers for more
        for (int32_t step = 0; step < CHUNK / 32; ++step) multiply_one(step);
    } else {
#pragma unroll 1
        for (int32_t step = 0; 32 * step < n_weights; ++step) multiply_one(step);
    }
    if constexpr (F::block_size == CHUNK) {
        const uint32_t quarter = lane_index() & 3;
        const float factors[2] = {unpack_operands<F>(upper, quarter).d, unpack_operands<F>(lower, quarter).d};
#pragma unroll
        for (int n = 0; n < N_TILES; ++n) {
#pragma unroll
            for (int c = 0; c < 4; ++c) sums[n][c] *= factors[c / 2];
        }
    }
}

// The offsets of a chunk: the mins, as a matrix of 16 rows, times the sums of the groups' activations.
template <typename Strip>
DEVICE void subtract_mins(const Strip& upper, const Strip& lower, const Columns& columns, int32_t offset,
                          float (&sums)[N_TILES][4]) {
    constexpr int last = MIN_PAIRS - 1;
    const uint32_t mins[4] = {upper.mins[0], lower.mins[0], upper.mins[last], lower.mins[last]};
    const float factors[2] = {-upper.dmin, -lower.dmin};
#pragma unroll
    for (int n = 0; n < N_TILES; ++n) {
        const uint4 x = load<uint4>(columns.start[n] + offset + SUMS_AT);
        float total[4];
        if constexpr (MIN_PAIRS == 1) {
            mma_bf16(total, mins, {x.x, x.y}, {0.0f, 0.0f, 0.0f, 0.0f});
            mma_bf16(total, mins, {x.z, 0}, total);
        } else {
            const uint4 rest = load<uint4>(columns.start[n] + offset + SUMS_AT + 64);
            mma_bf16(total, mins, {x.x, rest.x}, {0.0f, 0.0f, 0.0f, 0.0f});
            mma_bf16(total, mins, {x.y, rest.y}, total);
            mma_bf16(total, mins, {x.z, rest.z}, total);
        }
#pragma unroll
        for (int c = 0; c < 4; ++c) sums[n][c] = fused_multiply_add(factors[c / 2], total[c], sums[n][c]);
    }
}

// Up to 256 weights of both rows, a strip for each lane.
template <typename F = WeightFormat>
DEVICE void multiply_strips(const uint8_t* upper, const uint8_t* lower, const uint8_t* grid, int32_t n_weights,
                            const Columns& columns, int32_t offset, float (&sums)[N_TILES][4]) {
    static_assert(MIN_PAIRS == min_pairs<typename F::Strip>(0), "MMVQ_MIN_GROUPS is not the format's");
    const uint32_t t = lane_index() & 3;
    uint32_t at = 0;
    if constexpr (F::block_size < CHUNK) {  // lanes past the end repeat the last block, times zero
        static_assert(F::block_size == CHUNK / 4, "a strip is a block");
        at = min(static_cast<int32_t>(t), n_weights / F::block_size - 1) * MMVQ_TYPE_SIZE;
    }
    const auto first = F::strip(upper + at, t, grid), second = F::strip(lower + at, t, grid);
    float others[N_TILES][4] = {};  // every second product: two chains of dependent sums
#pragma unroll
    for (int32_t i = 0; i < 8; ++i) {
        uint32_t high[4], low[4];
        F::fold(first, i, high);
        F::fold(second, i, low);
#pragma unroll
        for (int n = 0; n < N_TILES; ++n) {
            const uint4 x = load<uint4>(columns.start[n] + offset + 64 * i);
            multiply_add(sums[n], {high[0], low[0], high[1], low[1]}, {x.x, x.y});
            multiply_add(others[n], {high[2], low[2], high[3], low[3]}, {x.z, x.w});
        }
    }
#pragma unroll
    for (int n = 0; n < N_TILES; ++n) {
#pragma unroll
        for (int c = 0; c < 4; ++c) sums[n][c] = (sums[n][c] + others[n][c]) * (c < 2 ? first.d : second.d);
    }
    if constexpr (MIN_PAIRS > 0) subtract_mins(first, second, columns, offset, sums);
}

// Up to 256 weights of both rows, added to `sums`.
DEVICE void multiply_chunk(const uint8_t* upper, const uint8_t* lower, const uint8_t* grid, int32_t n_weights,
                           const Columns& columns, int32_t offset, float (&sums)[N_TILES][4]) {
    float of_chunk[N_TILES][4] = {};
    if constexpr (IS_FOLDED) multiply_strips(upper, lower, grid, n_weights, columns, offset, of_chunk);
    else multiply_steps(upper, lower, n_weights, columns, offset, of_chunk);
#pragma unroll
    for (int n = 0; n < N_TILES; ++n) {
#pragma unroll
        for (int c = 0; c < 2; ++c) {
            float2 powers = {are_halves() ? kHalfUnit : 1.0f, 1.0f};
            if constexpr (IS_SCALED) powers = Columns::powers(columns, n, c, offset);
#pragma unroll
            for (int row = 0; row < 4; row += 2) {
                sums[n][row + c] = fused_multiply_add(of_chunk[n][row + c] * powers.x, powers.y, sums[n][row + c]);
            }
        }
    }
}

// Where a multiplying warp is: unit `unit` of a stage.
struct Place {
    Item item;
    int32_t unit;           // the warp's next, from this stage's first on
    int32_t segment, slot;  // of the stage in its item; of the ring that it is in
    uint32_t parity;        // of the ring's round
};

// A slice of 16 rows in a stage: the two rows of this lane, from the slice's first weight on.
struct Unit {
    const uint8_t *upper, *lower;
    int32_t n_weights;  // up to the row's end

    // Rows past the tensor's end repeat the last one and are not stored.
    DEVICE Unit of(const Problem& p, const Shape& shape, const Shared& s, const Place& place) {
        const int32_t first_row = place.item.row_tile * shape.rows;
        const int32_t last_row = min(shape.rows, p.n_rows_per_expert - first_row) - 1;
        const int32_t slice = place.unit >> shape.group_shift, group = place.unit & (shape.row_groups - 1);
        const int32_t first_chunk = slice * shape.run;
        const uint8_t* const stage = s.stages + place.slot * shape.stage_bytes + first_chunk * PACKED_CHUNK;
        const int32_t row = 16 * group + lane_index() / 4;
        const int32_t upper = min(row, last_row), lower = min(row + 8, last_row);
        uint32_t upper_phase = 0, lower_phase = 0;  // of where their copies begin in 16 bytes
        if constexpr (MMVQ_TYPE_SIZE % 16 != 0) {
            const uint32_t row_phase = static_cast<uint32_t>(row_bytes(p.n_cols));
            const uint32_t row_in_tensor =
                static_cast<uint32_t>(place.item.tile.expert) * p.n_rows_per_expert + first_row;
            const uint32_t phase = static_cast<uint32_t>(address_of(p.weights)) + row_in_tensor * row_phase +
                                   place.segment * shape.packed_segment;
            const uint32_t first_of_copy = -static_cast<uint32_t>(shape.copy_rows);
            upper_phase = (phase + (upper & first_of_copy) * row_phase) % 16;
            lower_phase = (phase + (lower & first_of_copy) * row_phase) % 16;
        }
        return {stage + upper * shape.row_slot + upper_phase, stage + lower * shape.row_slot + lower_phase,
                p.n_cols - place.segment * shape.segment - first_chunk * CHUNK};
    }
};

// A unit's sums go to `target` [16][SUM_STRIDE]; `offset` is where the slice starts in the columns.
DEVICE void multiply_unit(Unit unit, int32_t run, const uint8_t* grid, const Columns& columns, int32_t offset,
                          float* target) {
    float sums[N_TILES][4] = {};
    const int32_t end = offset + run * CHUNK_BYTES;
#pragma unroll 1
    do {
        multiply_chunk(unit.upper, unit.lower, grid, unit.n_weights, columns, offset, sums);
        unit.upper += PACKED_CHUNK;
        unit.lower += PACKED_CHUNK;
        unit.n_weights -= CHUNK;
        offset += CHUNK_BYTES;
    } while (offset < end && unit.n_weights > 0);
    const int32_t lane = lane_index();
#pragma unroll
    for (int32_t n = 0; n < N_TILES; ++n) {
        float* mine = target + lane / 4 * SUM_STRIDE + 8 * n + 2 * (lane & 3);
        mine[0] = sums[n][0];
        mine[1] = sums[n][1];
        mine[8 * SUM_STRIDE] = sums[n][2];
        mine[8 * SUM_STRIDE + 1] = sums[n][3];
    }
}

// This warp's units of one stage.
DEVICE void multiply_units(const Problem& p, const Shape& shape, const Shared& s, const Columns& columns,
                           Place& place) {
    float* const sums = s.sums + (place.item.number & 1) * shape.item_sums;
    for (; place.unit < shape.units; place.unit += WARPS) {
        const int32_t slice = place.segment * shape.slices + (place.unit >> shape.group_shift);
        const int32_t row = 16 * (place.unit & (shape.row_groups - 1));
        if (slice >= shape.n_slices) continue;
        multiply_unit(Unit::of(p, shape, s, place), shape.run, s.grid, columns, slice * shape.run * CHUNK_BYTES,
                      sums + (slice * shape.rows + row) * SUM_STRIDE);
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
                const float low = 1.0f / kLowPart;
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

KERNEL_BOUNDED(THREADS, 1) stream(const GRID_CONSTANT Problem p, const GRID_CONSTANT Shape shape) {
    const Shared s = Shared::at(dynamic_shared(), shape);
    if (thread_index() == 0) {
        for (int32_t i = 0; i < shape.n_stages; ++i) {
            barrier_init(s.full + i, 32);
            barrier_init(s.empty + i, WARPS);
        }
        for (int32_t i = 0; i < 2; ++i) {
            barrier_init(s.multiplied + i, WARPS);
            barrier_init(s.summed + i, 1);
        }
        barrier_init(s.staged, WARPS);
        barrier_init_done();
    }
    copy_grid(s);
    block_barrier();  // shows the initialized barriers and the codebook to all threads
    start_overlapped();
    prefetch_inputs(p);
    const Share share = share_of_block(p, shape);
    if (warp_index() < WARPS) multiply_items(p, shape, s, share);
    else if (warp_index() == WARPS) copy_items(p, shape, s, share);
    else store_items(p, shape, s, share);
}
