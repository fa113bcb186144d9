// Batched mat-vec over experts at the speed of the memory: each tile's rows are copied once into shared memory by the copy
// engine and multiplied on the tensor cores.
//
//   y[i, r] = topk_weights[i] * sum_k W[expert(i), r, k] * x[row(i), k]         for every dispatch i and row r
//
// Persistent: block b takes an equal, contiguous share of the items (tile of some dispatches of one expert) x (some rows),
// so its activations stay in shared memory from item to item. A stage holds one segment of an item's rows. Three kinds of warps work at their own pace: one copies (as many stages ahead as shared memory has room for), WARPS
// multiply, one sums up and stores. A unit of multiplication is 16 rows x one slice (a run of chunks of 256 weights); units go
// around the warps in order, from stage to stage, so that all get the same share.
//
// Arithmetic: a format's byte codes become exact 16-bit floats (integers), activations are exact 16-bit floats (f32 in three bfloat16 parts that sum to it exactly), products are exact in the tensor cores' f32 sums of 16
// or 32 weights that share a scale; scale and offset are applied to these sums in f32. Offsets that are a small integer
// times one float per 256 weights (Mins) are multiplied, as bfloat16, with the sums of the activations of their group, which
// are kept beside the activations as three bfloat16 parts.
// A sum's order depends on format and n_cols only, never on the other dispatches of a tile, the tile's width or the device.
// Bytes: packed rows once per tile; activations once per tile and block.
#include "mma.cuh"
#include "output.cuh"

constexpr int N_TILES = MMVQ_COLUMN_TILES;   // of 8 mma columns
constexpr int WARPS = MMVQ_WARPS;            // that multiply
constexpr int MIN_GROUPS = MMVQ_MIN_GROUPS;  // of 256 weights, where the format has Mins; else 0
constexpr int MAX_STAGES = 8;
constexpr int CHUNK = 256;

constexpr int PARTS = MMVQ_ACTIVATION == 0 ? 3 : 1;  // 16-bit floats per activation
constexpr int COLUMN_SLOTS = PARTS == 1 ? 1 : 4;     // mma columns per dispatch
constexpr int SUM_STRIDE = 8 * N_TILES;
constexpr int PACKED_CHUNK = CHUNK / MMVQ_BLOCK_SIZE * MMVQ_TYPE_SIZE;  // bytes
constexpr int CHUNK_BYTES = 2 * CHUNK + 8 * MIN_GROUPS;  // of a column: activations, and four 16-bit parts of each sum
using Operands = decltype(unpack_operands(nullptr, 0));
constexpr int N_SCALES = Operands::n_scales;
// Octets of 8 neighbours under scales for 16: half the lanes' weights belong to either scale.
constexpr bool MIXED_SCALES = WeightFormat::scale_group < 32 && N_SCALES == 1;
static_assert(MMVQ_BLOCK_SIZE > 1 && CHUNK % MMVQ_BLOCK_SIZE == 0, "chunks are whole blocks");
static_assert(!(MIXED_SCALES && Operands::has_offset), "no format needs it");

// How the plan cuts a problem (op/stream.py computes and explains it): by value beside the problem, so that one kernel serves
// all sizes and every figure is read from constant memory.
struct Shape {
    int32_t columns;         // dispatches per tile, at most 8 * N_TILES / COLUMN_SLOTS
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
    int32_t row_slot;        // bytes of a row in a stage
    int32_t stage_bytes;
    int32_t n_stages;
    int32_t column_bytes;  // of one 16-bit activation column
    int32_t item_sums;     // floats of an item's unfinished sums [n_slices][rows][SUM_STRIDE]
    int32_t sums_at;       // where the parts of dynamic shared memory start, in bytes
    int32_t columns_at;
    int32_t stages_at;
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

// The first tile of the next expert that has one; none is left when `expert` is n_experts.
DEVICE Tile first_tile_from(const Problem& p, int32_t expert) {
    for (; expert < p.n_experts; ++expert) {
        const int32_t first = p.expert_offsets[expert], end = p.expert_offsets[expert + 1];
        if (first < end) return {expert, first, end};
    }
    return {expert, 0, 0};
}

// On to the next item; true when it has another tile.
DEVICE bool advance(const Problem& p, const Shape& shape, Item& item) {
    ++item.number;
    if (++item.row_tile < shape.n_row_tiles) return false;
    item.row_tile = 0;
    item.tile.first += shape.columns;
    if (item.tile.first >= item.tile.end) item.tile = first_tile_from(p, item.tile.expert + 1);
    return true;
}

// Everything in dynamic shared memory, in this order.
struct Shared {
    uint64_t* full;        // [MAX_STAGES] of copying
    uint64_t* empty;       // [MAX_STAGES]
    uint64_t* multiplied;  // [2] of an item
    uint64_t* summed;      // [2]
    int32_t* totals;       // [32], of the scan over experts
    Tile* start;           // [1], where the block starts
    uint32_t* large;       // [2], columns with an activation that is not tiny, of this tile and the next
    float* sums;           // [2][item_sums]
    uint8_t* columns;      // [columns * PARTS] of column_bytes
    uint8_t* stages;       // [n_stages][rows][row_slot]

    DEVICE Shared at(uint8_t* base, const Shape& shape) {
        Shared s;
        s.full = reinterpret_cast<uint64_t*>(keep_in_register(base));
        s.empty = s.full + MAX_STAGES;
        s.multiplied = s.empty + MAX_STAGES;
        s.summed = s.multiplied + 2;
        s.totals = reinterpret_cast<int32_t*>(s.summed + 2);
        s.start = reinterpret_cast<Tile*>(s.totals + 32);
        s.large = reinterpret_cast<uint32_t*>(s.start + 1);
        s.sums = reinterpret_cast<float*>(base + shape.sums_at);
        s.columns = base + shape.columns_at;
        s.stages = base + shape.stages_at;
        return s;
    }
};

// Block b's equal, contiguous share of the items, by all threads of the block: each thread counts the tiles of a run of
// experts, the counts are summed up over the block, and the thread that meets the block's first tile tells where it is.
DEVICE Share share_of_block(const Problem& p, const Shape& shape, const Shared& s) {
    const int32_t run = (p.n_experts + block_size() - 1) / block_size();
    const int32_t first = min(thread_index() * run, p.n_experts), end = min(first + run, p.n_experts);
    const auto tiles_of = [&](int32_t e) {
        return (p.expert_offsets[e + 1] - p.expert_offsets[e] + shape.columns - 1) / shape.columns;
    };
    int32_t count = 0;
    for (int32_t e = first; e < end; ++e) count += tiles_of(e);
    const int32_t through = warp_prefix_sum(count);  // of this lane and the lanes before it
    if (lane_index() == 31) s.totals[warp_index()] = through;
    block_barrier();
    int32_t before = through - count, all = 0;
    for (int32_t w = 0; w < block_size() / 32; ++w) {
        if (w < warp_index()) before += s.totals[w];
        all += s.totals[w];
    }
    const int64_t n_items = static_cast<int64_t>(all) * shape.n_row_tiles;
    const int64_t begin = n_items * block_index() / block_count();
    const int32_t wanted = static_cast<int32_t>(begin / shape.n_row_tiles);
    if (before <= wanted && wanted < before + count) {
        int32_t e = first;
        for (; wanted >= before + tiles_of(e); ++e) before += tiles_of(e);
        *s.start = {e, p.expert_offsets[e] + (wanted - before) * shape.columns, p.expert_offsets[e + 1]};
    }
    block_barrier();
    return {{*s.start, static_cast<int32_t>(begin % shape.n_row_tiles), 0},
            static_cast<int32_t>(n_items * (block_index() + 1) / block_count() - begin)};
}

// ---- The copying warp.

// Copies the segment's bytes of this lane's rows, from the 16-byte line that each begins in to the line that it ends in.
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
    for (int32_t row = lane_index(); row < n_rows; row += 32) {
        const uint8_t* const source = first + row * packed_bytes;
        const uint32_t phase = address_of(source) % 16, wanted = phase + n_bytes, lines = (wanted + 15) / 16 * 16;
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

DEVICE void copy_items(const Problem& p, const Shape& shape, const Shared& s, const Share& share) {
    int32_t stage = 0;
    uint32_t parity = 1;  // the first round finds every stage empty
    for (Item item = share.first; item.number < share.n_items; advance(p, shape, item)) {
        const Tile tile = item.tile;
        const int32_t first_row = item.row_tile * shape.rows;
        for (int32_t weight = 0; weight < p.n_cols; weight += shape.segment) {
            barrier_wait(s.empty + stage, parity);
            copy_segment(p, shape, tile, first_row, weight, s.stages + stage * shape.stage_bytes, s.full + stage);
            if (++stage == shape.n_stages) stage = 0, parity ^= 1;
        }
    }
}

// ---- The multiplying warps.

// The sums of a group's activations, behind the activations of its chunk: lane (t = lane % 4) of an mma finds, for each part,
// groups 2t and 2t + 1 (and 2t + 8, 2t + 9) in neighbouring halves of words. Four lanes hold a group's octets.
DEVICE void stage_group_sums(uint8_t* chunk, int32_t octet, const float (&halves)[2], int32_t slot) {
    const int32_t step = octet % (CHUNK / 8) / 4, mine = octet % 4;
    const auto stage_sum = [&](float sum, int32_t group) {
        sum += shuffle_xor(sum, 1);
        sum += shuffle_xor(sum, 2);
        const BfloatParts parts = BfloatParts::of(slot == 0 ? sum : 0.0f);
        const uint32_t part = mine == 0 ? parts.part[0] : mine == 1 ? parts.part[1] : mine == 2 ? parts.part[2] : 0;
        const int32_t words = MIN_GROUPS / 8;  // of a lane and part
        uint8_t* target =
            chunk + 2 * CHUNK + 16 * words * (group % 8 / 2) + 4 * (words * mine + group / 8) + 2 * (group % 2);
        *reinterpret_cast<uint16_t*>(target) = static_cast<uint16_t>(part >> 16);
    };
    if constexpr (MIN_GROUPS == 8) {
        stage_sum(halves[0] + halves[1], step);
    } else if constexpr (MIN_GROUPS == 16) {
        stage_sum(halves[0], 2 * step);
        stage_sum(halves[1], 2 * step + 1);
    }
}

// Activations of the tile's dispatches, those of `columns` (a bit each), as 16-bit floats, by all multiplying threads; `scale`
// as in load_mma_columns. Returns the bits of the columns in which this thread met an activation that is not tiny.
DEVICE uint32_t stage_columns(const Problem& p, const Shape& shape, const Tile& tile, const Shared& s, uint32_t columns,
                              float scale) {
    const bool whole_vectors = rows_are_whole_vectors(p.activations, p.n_cols);
    const int32_t n_octets = p.n_cols / 8;  // with Mins a multiple of 32, so that whole warps come to their shuffles
    const int32_t n_items = count_of(shape, tile) * n_octets;
    uint32_t large = 0;
    for (int32_t item = thread_index(); item < n_items; item += 32 * WARPS) {
        const int32_t column = item / n_octets, octet = item % n_octets;
        if (!(columns >> column & 1)) continue;
        const Element* row =
            static_cast<const Element*>(p.activations) + activation_row(p, tile.first + column) * p.n_cols;
        uint4 parts[PARTS];
        float halves[2];
        if (!load_mma_columns(row, octet, p.n_cols, whole_vectors, scale, parts, halves)) large |= 1u << column;
#pragma unroll
        for (int part = 0; part < PARTS; ++part) {
            uint8_t* chunk =
                s.columns + (column * PARTS + part) * shape.column_bytes + octet / (CHUNK / 8) * CHUNK_BYTES;
            reinterpret_cast<uint4*>(chunk)[octet % (CHUNK / 8)] = parts[part];
            stage_group_sums(chunk, octet, halves, part);
        }
    }
    return large;
}

// Stages a tile's activations; returns the bits of its columns that had to be scaled. `turn` counts the block's tiles.
DEVICE uint32_t stage_tile(const Problem& p, const Shape& shape, const Tile& tile, const Shared& s, int32_t turn) {
    const uint32_t all = 0xFFFFFFFFu >> (32 - count_of(shape, tile));
    named_barrier(1, 32 * WARPS);  // all are past the last use of the old columns
    uint32_t large = stage_columns(p, shape, tile, s, all, 1.0f);
    if constexpr (SCALES_TINY) {
        large = warp_or(large);
        if (lane_index() == 0) atomic_or(s.large + (turn & 1), large);
    }
    named_barrier(1, 32 * WARPS);
    if constexpr (SCALES_TINY) {
        const uint32_t tiny = all & ~s.large[turn & 1];
        if (thread_index() == 0)
            s.large[~turn & 1] = 0;  // read before this turn's first barrier, used after the next one's
        if (tiny != 0) {
            stage_columns(p, shape, tile, s, tiny, kTinyScale);
            named_barrier(1, 32 * WARPS);
        }
        return tiny;
    }
    return 0;
}

// What a lane multiplies with: its activations of each group of 8 mma columns, if the tile has that column.
struct Columns {
    const uint8_t* start[N_TILES];
    bool is_used[N_TILES];
    uint32_t tiny;  // a bit for each column that was scaled

    DEVICE Columns of(const Shape& shape, const Shared& s, int32_t count, uint32_t tiny) {
        Columns columns;
        columns.tiny = tiny;
#pragma unroll
        for (int32_t n = 0; n < N_TILES; ++n) {
            const int32_t slot = 8 * n + lane_index() / 4, column = slot / COLUMN_SLOTS, part = slot % COLUMN_SLOTS;
            columns.is_used[n] = column < count && part < PARTS;
            columns.start[n] = s.columns + (columns.is_used[n] ? column * PARTS + part : 0) * shape.column_bytes;
        }
        return columns;
    }
};

// 32 weights of rows g and g + 8 (g = lane / 4) times the tile's columns, added to `sums`; each lane has unpacked one octet
// of each row. `x` lies `offset` bytes from the start of its columns.
template <typename AnyOctet>
DEVICE void multiply_step(AnyOctet upper, AnyOctet lower, const Columns& columns, int32_t offset,
                          float (&sums)[N_TILES][4]) {
    uint32_t high[4], low[4];
    to_mma_weights(upper, high);
    to_mma_weights(lower, low);
    const uint32_t weights[2][4] = {{high[0], low[0], high[1], low[1]}, {high[2], low[2], high[3], low[3]}};
    const bool is_right = lane_index() & 2;  // of a step's two groups of 16
#pragma unroll
    for (int n = 0; n < N_TILES; ++n) {
        const uint4 x = load_shared_if(columns.is_used[n], columns.start[n] + offset + 16 * (lane_index() & 3));
        const uint32_t words[2][2] = {{x.x, x.y}, {x.z, x.w}};
        const auto add = [&](const float (&part)[4], float upper_factor, float lower_factor) {
#pragma unroll
            for (int c = 0; c < 4; ++c) {
                sums[n][c] = fused_multiply_add(c < 2 ? upper_factor : lower_factor, part[c], sums[n][c]);
            }
        };
        if constexpr (MIXED_SCALES) {
#pragma unroll
            for (int group = 0; group < 2; ++group) {
                const bool is_mine = is_right == (group == 1);
                const uint32_t first[2] = {is_mine ? words[0][0] : 0, is_mine ? words[0][1] : 0},
                               second[2] = {is_mine ? words[1][0] : 0, is_mine ? words[1][1] : 0};
                float part[4];
                multiply(part, weights[0], first);
                multiply_add(part, weights[1], second);
                const float others[2] = {shuffle_xor(upper.scale[0], 2), shuffle_xor(lower.scale[0], 2)};
                add(part, is_mine ? upper.scale[0] : others[0], is_mine ? lower.scale[0] : others[1]);
                static_assert(!(MIXED_SCALES && Operands::has_offset), "no format needs it");
            }
        } else {
#pragma unroll
            for (int group = 0; group < N_SCALES; ++group) {
                float part[4];
                multiply(part, weights[group], words[group]);
                if constexpr (N_SCALES == 1) multiply_add(part, weights[1], words[1]);
                add(part, upper.scale[group], lower.scale[group]);
                if constexpr (AnyOctet::has_offset && MIN_GROUPS == 0) {
                    const uint32_t ones[4] = {kMmaOne, kMmaOne, kMmaOne, kMmaOne};
                    float total[4];
                    multiply(total, ones, words[group]);
                    if constexpr (N_SCALES == 1) multiply_add(total, ones, words[1]);
                    add(total, upper.offset[group], lower.offset[group]);
                }
            }
        }
    }
}

// This lane's groups of the mins as bfloat16 integers: 2t and 2t + 1, and of the second half of 16 groups, if there are so
// many, 2t + 8 and 2t + 9; else the same again.
template <typename AnyMins>
DEVICE void to_mma_mins(AnyMins mins, uint32_t (&pairs)[2]) {
    const int32_t t = lane_index() & 3;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        const int first = AnyMins::n_groups == 16 ? 2 * half : 0;
        const uint32_t four = t < 2 ? mins.codes[first] : mins.codes[first + 1];
        const uint32_t above_128 = byte_permute(four, 0x43434343u, t & 1 ? 0x4342u : 0x4140u);
        pairs[half] = bfloat2_subtract(above_128, 0x43004300u);
    }
}

// The offsets of a chunk: the mins, as a matrix of 16 rows, times the sums of the groups' activations.
template <typename F = WeightFormat>
DEVICE void subtract_mins(const uint8_t* upper, const uint8_t* lower, const Columns& columns, int32_t offset,
                          float (&sums)[N_TILES][4]) {
    if constexpr (MIN_GROUPS > 0) {
        const auto upper_mins = F::mins(upper), lower_mins = F::mins(lower);
        static_assert(decltype(F::mins(upper))::n_groups == MIN_GROUPS, "MMVQ_MIN_GROUPS is not the format's");
        uint32_t high[2], low[2];
        to_mma_mins(upper_mins, high);
        to_mma_mins(lower_mins, low);
        const uint32_t mins[4] = {high[0], low[0], high[1], low[1]};
        const float factors[2] = {-upper_mins.factor / mma_unit<Operands>(), -lower_mins.factor / mma_unit<Operands>()};
#pragma unroll
        for (int n = 0; n < N_TILES; ++n) {
            const uint8_t* source = columns.start[n] + offset + 2 * CHUNK + 2 * MIN_GROUPS * (lane_index() & 3);
            const uint4 x = load_shared_if(columns.is_used[n], source);
            float total[4];
            if constexpr (MIN_GROUPS == 8) {
                mma_bf16(total, mins, {x.x, x.y}, {0.0f, 0.0f, 0.0f, 0.0f});
                mma_bf16(total, mins, {x.z, 0}, total);
            } else {
                const uint4 rest = load_shared_if(columns.is_used[n], source + 16);
                mma_bf16(total, mins, {x.x, x.y}, {0.0f, 0.0f, 0.0f, 0.0f});
                mma_bf16(total, mins, {x.z, x.w}, total);
                mma_bf16(total, mins, {rest.x, rest.y}, total);
            }
#pragma unroll
            for (int c = 0; c < 4; ++c) sums[n][c] = fused_multiply_add(factors[c / 2], total[c], sums[n][c]);
        }
    }
}

// 256 weights of both rows; `offset` is where the chunk starts in the columns.
DEVICE void multiply_steps(const uint8_t* upper, const uint8_t* lower, const Columns& columns, int32_t offset,
                           float (&sums)[N_TILES][4]) {
    const uint32_t quarter = lane_index() & 3;
#pragma unroll N_TILES == 1 ? 8 : N_TILES == 2 ? 4 : 2  // wide tiles have no registers for more
    for (int32_t step = 0; step < CHUNK / 32; ++step) {
        const uint32_t octet = 4 * step | quarter;
        multiply_step(unpack_operands(upper, octet), unpack_operands(lower, octet), columns, offset + 64 * step, sums);
    }
}

// One block of each row: the factor that its scales share goes on the block's sum.
template <typename F = WeightFormat>
DEVICE void multiply_block(const uint8_t* upper, const uint8_t* lower, const Columns& columns, int32_t offset,
                           float (&sums)[N_TILES][4]) {
    float of_block[N_TILES][4] = {};
    multiply_steps(upper, lower, columns, offset, of_block);
    const uint32_t quarter = lane_index() & 3;
    const float factors[2] = {unpack_operands<F>(upper, quarter).d, unpack_operands<F>(lower, quarter).d};
#pragma unroll
    for (int n = 0; n < N_TILES; ++n) {
#pragma unroll
        for (int c = 0; c < 4; ++c) sums[n][c] = fused_multiply_add(factors[c / 2], of_block[n][c], sums[n][c]);
    }
    subtract_mins(upper, lower, columns, offset, sums);
}

// Up to 256 weights of both rows.
DEVICE void multiply_chunk(const uint8_t* upper, const uint8_t* lower, int32_t n_weights, const Columns& columns,
                           int32_t offset, float (&sums)[N_TILES][4]) {
    if constexpr (MMVQ_BLOCK_SIZE == CHUNK) {
        multiply_block(upper, lower, columns, offset, sums);
    } else if (n_weights >= CHUNK) {
        multiply_steps(upper, lower, columns, offset, sums);
    } else {
#pragma unroll 1
        for (int32_t step = 0; 32 * step < n_weights; ++step) {
            const uint32_t octet = 4 * step | (lane_index() & 3);
            multiply_step(unpack_operands(upper, octet), unpack_operands(lower, octet), columns, offset + 64 * step,
                          sums);
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
    int32_t n_chunks, n_weights;

    // Rows past the tensor's end repeat the last one and are not stored.
    // `phase` (mod 16) is that of the stage's first row in the tensor.
    DEVICE Unit of(const Problem& p, const Shape& shape, const Shared& s, const Place& place, uint32_t phase,
                   int32_t last_row) {
        const int32_t slice = place.unit >> shape.group_shift, group = place.unit & (shape.row_groups - 1);
        const int32_t first_chunk = slice * shape.run;
        const uint8_t* const stage = s.stages + place.slot * shape.stage_bytes + first_chunk * PACKED_CHUNK;
        const uint32_t row_phase = static_cast<uint32_t>(row_bytes(p.n_cols));
        const int32_t row = 16 * group + lane_index() / 4;
        const int32_t upper = min(row, last_row), lower = min(row + 8, last_row);
        return {stage + upper * shape.row_slot + (phase + upper * row_phase) % 16,
                stage + lower * shape.row_slot + (phase + lower * row_phase) % 16, shape.run,
                p.n_cols - place.segment * shape.segment - first_chunk * CHUNK};
    }
};

// A unit's sums go to `target` [16][SUM_STRIDE]; `offset` is where the slice starts in the columns.
DEVICE void multiply_unit(const Unit& unit, const Columns& columns, int32_t offset, float* target) {
    float sums[N_TILES][4] = {};
#pragma unroll 1
    for (int32_t chunk = 0; chunk < unit.n_chunks && chunk * CHUNK < unit.n_weights; ++chunk) {
        multiply_chunk(unit.upper + chunk * PACKED_CHUNK, unit.lower + chunk * PACKED_CHUNK,
                       unit.n_weights - chunk * CHUNK, columns, offset + chunk * CHUNK_BYTES, sums);
    }
    const int32_t lane = lane_index();
    if (columns.tiny != 0) {
#pragma unroll
        for (int32_t n = 0; n < N_TILES; ++n) {
#pragma unroll
            for (int32_t c = 0; c < 4; ++c) {
                const int32_t column = (8 * n + 2 * (lane & 3) + c % 2) / COLUMN_SLOTS;
                if (columns.tiny >> column & 1) sums[n][c] *= 1.0f / kTinyScale;
            }
        }
    }
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
DEVICE void multiply_stage(const Problem& p, const Shape& shape, const Shared& s, Tile tile, const Columns& columns,
                           Place& place) {
    const int32_t first_row = place.item.row_tile * shape.rows, buffer = place.item.number & 1;
    const int32_t last_row = min(shape.rows, p.n_rows_per_expert - first_row) - 1;
    const uint32_t row_in_tensor = static_cast<uint32_t>(tile.expert) * p.n_rows_per_expert + first_row;
    const uint32_t phase = static_cast<uint32_t>(address_of(p.weights)) +
                           row_in_tensor * static_cast<uint32_t>(row_bytes(p.n_cols)) +
                           place.segment * shape.packed_segment;
    for (; place.unit < shape.units; place.unit += WARPS) {
        const int32_t slice = place.segment * shape.slices + (place.unit >> shape.group_shift);
        const int32_t row = 16 * (place.unit & (shape.row_groups - 1));
        if (slice < shape.n_slices) {
            multiply_unit(Unit::of(p, shape, s, place, phase, last_row), columns, slice * shape.run * CHUNK_BYTES,
                          s.sums + buffer * shape.item_sums + (slice * shape.rows + row) * SUM_STRIDE);
        }
    }
    place.unit -= shape.units;
}

// Every warp comes to every stage and item, with a unit there or not: a barrier tells odd phases from even ones only, so
// nobody may run ahead or fall behind by two.
DEVICE void multiply_items(const Problem& p, const Shape& shape, const Shared& s, const Share& share) {
    Place place = {share.first, warp_index(), 0, 0, 0};
    Item& item = place.item;
    int32_t turn = 0;
    while (item.number < share.n_items) {
        const Tile tile = item.tile;
        const uint32_t tiny = stage_tile(p, shape, tile, s, turn++);
        const Columns columns = Columns::of(shape, s, count_of(shape, tile), tiny);
        for (bool is_other_tile = false; !is_other_tile && item.number < share.n_items;) {
            barrier_wait(s.summed + (item.number & 1), (item.number >> 1 & 1) ^ 1);
            for (place.segment = 0; place.segment < shape.n_segments; ++place.segment) {
                barrier_wait(s.full + place.slot, place.parity);
                multiply_stage(p, shape, s, tile, columns, place);
                arrive_as_warp(s.empty + place.slot);
                if (++place.slot == shape.n_stages) place.slot = 0, place.parity ^= 1;
            }
            arrive_as_warp(s.multiplied + (item.number & 1));
            is_other_tile = advance(p, shape, item);
        }
    }
}

// ---- The summing warp.

// The sums of an item's slices, and of an activation's parts, into the output. A lane takes one row and half of each eight mma
// columns.
DEVICE void store_items(const Problem& p, const Shape& shape, const Shared& s, const Share& share) {
    constexpr int VALUES = 4 / COLUMN_SLOTS;  // of a lane and eight mma columns
    const int32_t lane = lane_index(), half = lane & 1;
    int32_t count = 0;
    float factors[N_TILES][VALUES];
    bool is_other_tile = true;
    for (Item item = share.first; item.number < share.n_items; is_other_tile = advance(p, shape, item)) {
        const Tile tile = item.tile;
        if (is_other_tile) {
            count = count_of(shape, tile);
#pragma unroll
            for (int n = 0; n < N_TILES; ++n) {
#pragma unroll
                for (int v = 0; v < VALUES; ++v) {
                    const int32_t column = (2 * n + half) * VALUES + v;
                    factors[n][v] = column < count ? dispatch_weight(p, tile.first + column) : 0.0f;
                }
            }
        }
        const int32_t buffer = item.number & 1;
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
                const float values[4] = {PARTS == 1 ? total.x : total.x + total.y + total.z, total.y, total.z, total.w};
                if (row >= p.n_rows_per_expert) continue;
#pragma unroll
                for (int v = 0; v < VALUES; ++v) {
                    const int32_t column = (2 * n + half) * VALUES + v;
                    const float value = factors[n][v] * (values[v] * mma_unit<Operands>());
                    if (column < count) store(p, tile.first + column, row, value);
                }
            }
        }
        arrive_as_warp(s.summed + buffer);
    }
}

KERNEL_BOUNDED(32 * (WARPS + 2), 1) stream(const GRID_CONSTANT Problem p, const GRID_CONSTANT Shape shape) {
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
        s.large[0] = s.large[1] = 0;
        barrier_init_done();
    }
    start_overlapped();
    const Share share = share_of_block(p, shape, s);  // its barriers also show the initialized ones to all threads
    if (warp_index() < WARPS) multiply_items(p, shape, s, share);
    else if (warp_index() == WARPS) copy_items(p, shape, s, share);
    else store_items(p, shape, s, share);
}
