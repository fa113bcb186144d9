// How the streaming kernel's work is cut: the plan's shape, tiles and items, a block's share of them, its shared memory.
#include "mma.cuh"

constexpr int N_TILES = MMVQ_COLUMN_TILES;          // of 8 mma columns
constexpr int SUMMING_WARPS = MMVQ_SUMMING_WARPS;   // 1, or 2 that take turns
constexpr bool HAS_BULK_COPIES = MMVQ_BULK_COPIES;  // from sm_90 on
constexpr int MIN_GROUPS = MMVQ_MIN_GROUPS;         // of 256 weights, where the format has Mins; else 0
constexpr int MAX_STAGES = 8, MAX_BUFFERS = 8;
constexpr int CHUNK = 256;

constexpr int COLUMN_SLOTS =
    PARTS == 3 ? 4 : PARTS;  // mma columns per dispatch; a lane's two are of one unless it has one
constexpr int SUM_STRIDE = 8 * N_TILES;
constexpr int PACKED_CHUNK = CHUNK / MMVQ_BLOCK_SIZE * MMVQ_TYPE_SIZE;  // bytes
constexpr int MIN_PAIRS = MIN_GROUPS / 8;                               // of a lane's strip
// Of a column: activations; four 16-bit parts of each group's sum; the powers of two of 256 activations.
constexpr int SUMS_AT = (IS_INTEGER ? 1
                         : IS_PLAIN ? sizeof(Element)
                                    : 2) *
                        CHUNK,
              POWERS_AT = SUMS_AT + 8 * MIN_GROUPS, CHUNK_BYTES = POWERS_AT + (IS_SCALED ? 16 : 0);
constexpr int GRID_WORDS = MMVQ_GRID_WORDS;  // of the format's codebook, if strips or integers look it up
static_assert(CHUNK % MMVQ_BLOCK_SIZE == 0, "chunks are whole blocks");
static_assert(!IS_PLAIN || N_TILES == 1, "floats are multiplied eight columns at a time");
static_assert(IS_FOLDED || IS_INTEGER || GRID_WORDS == 0, "only strips and integers have such");
static_assert(IS_FOLDED || HAS_QUARTERS || MIN_GROUPS == 0, "only strips and quarters have such");

// How the plan cuts a problem (op/stream.py computes it): by value beside the problem, so that one kernel serves
// all sizes and every figure is read from constant memory.
struct Shape {
    int32_t warps;            // that multiply
    int32_t columns;          // dispatches per tile, at most 8 * N_TILES / COLUMN_SLOTS, a power of two
    int32_t column_shift;     // log2(columns)
    int32_t tile_slots;       // tiles whose activations are kept, 1 or 2
    int32_t row_groups;       // of 16 rows per item, a power of two
    int32_t group_shift;      // log2(row_groups)
    int32_t rows;             // per item
    int32_t n_row_tiles;      // items per tile
    int32_t run;              // chunks per slice
    int32_t slice_columns;    // bytes of a column
    int32_t row_columns;      // of whole rows
    int32_t slice;            // weights of a row
    int32_t packed_slice;     // bytes
    int32_t n_slices;         // per row
    int32_t n_chunks;         // per row
    int32_t chunk_inverse;    // 2^30 / n_chunks, rounded up: divides what is below 2^30 / n_chunks
    int32_t slices;           // per stage
    int32_t units;            // per stage
    int32_t item_units;       // per item, without those past the row's end
    int32_t segment;          // weights of a row per stage, whole slices
    int32_t n_segments;       // per row
    int32_t segment_inverse;  // 2^8 / slices, rounded up: divides what is below n_slices
    int32_t packed_segment;   // bytes
    int32_t row_slot;         // bytes from row to row in a stage
    int32_t copy_rows;        // with one copy: an item's, or 1; a power of two
    int32_t has_boxes;        // 1 where an item's rows are boxes
    int32_t line_rows;        // of the boxes' tensor, which begin at a multiple of 16 bytes together; a power of two
    int32_t line_shift;       // log2(line_rows)
    int32_t box_shift;        // log2(rows / line_rows), of each of so many boxes
    int32_t box_bytes;        // from box to box in a stage, with what fills it up
    int32_t stage_bytes;
    int32_t n_stages;
    int32_t stage_inverse;  // 2^32 / n_stages, rounded up: divides what is below 2^29
    int32_t early_stages;   // copied before the first activations are there
    int32_t column_bytes;   // of one 16-bit activation column
    int32_t item_sums;      // floats of an item's unfinished sums [n_slices][rows][SUM_STRIDE]
    int32_t n_buffers;      // of such sums, a power of two
    int32_t buffer_shift;   // log2(n_buffers)
    int32_t sums_at;        // where the parts of dynamic shared memory start, in bytes
    int32_t columns_at;     // of wide.cu from a stage's start
    int32_t stages_at;
    int32_t grid_at;
    int32_t grid_copies;  // of each entry, a power of two up to 32
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

// On to the first item of the next tile, where the share has one.
DEVICE void skip_tile(const Problem& p, const Shape& shape, const Share& share, Item& item) {
    item.number += shape.n_row_tiles - item.row_tile;
    item.row_tile = 0;
    if (item.number < share.n_items) item.tile = next_tile(p, shape, item.tile);
}

// Everything in dynamic shared memory, in this order.
struct Shared {
    uint64_t* full;        // [MAX_STAGES] of copying
    uint64_t* empty;       // [MAX_STAGES]
    uint64_t* multiplied;  // [MAX_BUFFERS] of an item
    uint64_t* staged;      // [1], the first activations
    uint64_t* found;       // [1], the share
    int32_t* n_summed;     // [MAX_BUFFERS], items
    int32_t* n_issued;     // [1], stages whose copies have been asked for
    Share* share;          // [1]
    float* sums;           // [n_buffers][item_sums]
    uint8_t* columns;      // [tile_slots][columns * PARTS] of column_bytes
    uint8_t* stages;       // [n_stages] of stage_bytes
    uint8_t* grid;         // [entry][grid_copies] of one or two words

    DEVICE Shared at(uint8_t* base, const Shape& shape) {
        Shared s;
        s.full = reinterpret_cast<uint64_t*>(keep_in_register(base));
        s.empty = s.full + MAX_STAGES;
        s.multiplied = s.empty + MAX_STAGES;
        s.staged = s.multiplied + MAX_BUFFERS;
        s.found = s.staged + 1;
        s.n_summed = reinterpret_cast<int32_t*>(s.found + 1);
        s.n_issued = s.n_summed + MAX_BUFFERS;
        s.share = reinterpret_cast<Share*>(s.n_issued + 1);
        s.sums = reinterpret_cast<float*>(base + shape.sums_at);
        s.columns = base + shape.columns_at;
        s.stages = base + shape.stages_at;
        s.grid = base + shape.grid_at;
        return s;
    }
};

// Words of a codebook's entry.
template <typename F = WeightFormat>
DEVICE constexpr int32_t entry_words() {
    if constexpr (IS_INTEGER || GRID_WORDS == 0) return 1;
    else return F::entry_words;
}

// The codebook as this lane reads it.
template <typename F = WeightFormat>
DEVICE Grid grid_of(const Shape& shape, const Shared& s) {
    if constexpr (GRID_WORDS == 0) {
        return {nullptr, 0};
    } else {
        constexpr int32_t ENTRY_BYTES = 4 * entry_words<F>();
        const int32_t copy = lane_index() & (shape.grid_copies - 1);
        return {s.grid + ENTRY_BYTES * copy, ENTRY_BYTES * shape.grid_copies};
    }
}

template <typename F = WeightFormat>
DEVICE uint32_t grid_word(int32_t i) {
    if constexpr (IS_INTEGER) return F::digit_grid_word(i);
    else return F::grid_word(i);
}

// The format's codebook into shared memory, by all threads of the block, each entry as often as the plan has room for.
template <typename F = WeightFormat>
DEVICE void copy_grid(const Shape& shape, const Shared& s) {
    if constexpr (GRID_WORDS > 0) {
        constexpr int32_t WORDS = entry_words<F>();
        if constexpr (IS_INTEGER)
            static_assert(GRID_WORDS == F::digit_grid_words, "MMVQ_GRID_WORDS is not the format's");
        else static_assert(GRID_WORDS == F::grid_words, "MMVQ_GRID_WORDS is not the format's");
        for (int32_t i = thread_index(); i < GRID_WORDS; i += block_size()) {
            const int32_t entry = i / WORDS, in_entry = i % WORDS;
            const uint32_t word = grid_word<F>(i);
            for (int32_t k = 0; k < shape.grid_copies; ++k) {
                const int32_t copy = (k + entry) & (shape.grid_copies - 1);  // another bank for each lane
                const int32_t at = (entry * shape.grid_copies + copy) * WORDS + in_entry;
                reinterpret_cast<uint32_t*>(s.grid)[at] = word;
            }
        }
    }
}

// Where the dispatches of eight experts from `expert` on begin and end; those from `last` on have none. The loads go out together.
struct EightOffsets {
    int32_t at[9];

    DEVICE EightOffsets of(const Problem& p, int32_t expert, int32_t last) {
        EightOffsets offsets;
#pragma unroll
        for (int i = 0; i < 9; ++i) offsets.at[i] = p.expert_offsets[min(expert + i, last)];
        return offsets;
    }

    DEVICE int32_t n_tiles(const EightOffsets& offsets, const Shape& shape, int i) {
        return (offsets.at[i + 1] - offsets.at[i] + shape.columns - 1) >> shape.column_shift;
    }

    DEVICE int32_t n_tiles(const EightOffsets& offsets, const Shape& shape) {
        int32_t count = 0;
#pragma unroll
        for (int i = 0; i < 8; ++i) count += n_tiles(offsets, shape, i);
        return count;
    }
};

// The tile that a block begins with, as the lane that has it in its run of experts finds it.
struct Search {
    int32_t wanted;  // its number
    int32_t before;  // tiles of the experts that were looked at
    Tile tile;
    bool is_found;

    DEVICE void look(Search& search, const Shape& shape, const EightOffsets& offsets, int32_t expert) {
#pragma unroll
        for (int i = 0; i < 8; ++i) {
            const int32_t n_tiles = EightOffsets::n_tiles(offsets, shape, i), ahead = search.wanted - search.before;
            if (ahead >= 0 && ahead < n_tiles) {
                search.tile = {expert + i, offsets.at[i] + (ahead << shape.column_shift), offsets.at[i + 1]};
                search.is_found = true;
            }
            search.before += n_tiles;
        }
    }
};

// Block b's equal, contiguous share of the items, by a warp: a lane counts the tiles of a run of experts, the counts are summed up
// over the warp, and the lane that meets the block's first tile tells the others. Up to 256 experts are read once.
DEVICE Share share_of_block(const Problem& p, const Shape& shape) {
    const int32_t run = (p.n_experts + 31) >> 5;
    const int32_t first = min(lane_index() * run, p.n_experts), last = min(first + run, p.n_experts);
    const EightOffsets eight = EightOffsets::of(p, first, last);
    int32_t count = EightOffsets::n_tiles(eight, shape);
    for (int32_t expert = first + 8; expert < last; expert += 8) {
        count += EightOffsets::n_tiles(EightOffsets::of(p, expert, last), shape);
    }
    const int32_t through = warp_prefix_sum(count);  // of this lane and the lanes before it
    const int64_t n_items = static_cast<int64_t>(shuffle(through, 31)) * shape.n_row_tiles;
    const int64_t each = quotient(n_items, block_count());
    const int32_t rest = static_cast<int32_t>(n_items - each * block_count());  // the first blocks take one more
    const int64_t begin = each * block_index() + min(block_index(), rest);
    Search search = {
        static_cast<int32_t>(quotient(begin, shape.n_row_tiles)), through - count, {p.n_experts, 0, 0}, false};
    Search::look(search, shape, eight, first);
    for (int32_t expert = first + 8; expert < last; expert += 8) {
        Search::look(search, shape, EightOffsets::of(p, expert, last), expert);
    }
    const uint32_t owners = warp_ballot(search.is_found);
    const int32_t owner = owners == 0 ? 0 : lowest_bit(owners);
    const Tile tile = {shuffle(search.tile.expert, owner), shuffle(search.tile.first, owner),
                       shuffle(search.tile.end, owner)};
    return {{tile, static_cast<int32_t>(begin - static_cast<int64_t>(search.wanted) * shape.n_row_tiles), 0},
            static_cast<int32_t>(each) + (block_index() < rest ? 1 : 0)};
}

// The same for all warps, by the one that needs it first: if each found it for itself, they would stand in each other's way.
DEVICE Share find_share(const Problem& p, const Shape& shape, const Shared& s) {
    const Share share = share_of_block(p, shape);
    if (lane_index() == 0) {
        *s.share = share;
        barrier_arrive(s.found);
    }
    return share;
}

DEVICE Share found_share(const Shared& s) {
    barrier_wait(s.found, 0);
    return *s.share;
}
