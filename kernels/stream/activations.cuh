// A tile's activations in shared memory, as its operands are, and where a lane finds its own.
#include "stream/share.cuh"

// Where a step's activations of a column begin in a chunk.
DEVICE constexpr int32_t step_place(int32_t step) { return IS_INTEGER ? 64 * (step / 2) + 8 * (step % 2) : 64 * step; }

// The sums of the groups of a chunk's activations as bfloat16 parts, by a warp whose lanes have an octet each: lane 4i + t has those of
// pair i of lane t's strip, where the strip has so many; a word for each part, a half for each group. `wanted` is 0 where the column
// is a low part.
DEVICE uint4 group_sums(const float (&x)[8], float wanted) {
    float sums[2];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        const float* y = x + 4 * half;
        float sum = y[0] + y[1] + (y[2] + y[3]);
#pragma unroll
        for (int distance = MIN_PAIRS; distance < 8; distance *= 2) sum += shuffle_xor(sum, 4 * distance);
        sums[half] = sum * wanted;
    }
    const BfloatParts first = BfloatParts::of(sums[0]), second = BfloatParts::of(sums[1]);
    uint32_t words[3];
#pragma unroll
    for (int part = 0; part < 3; ++part) words[part] = first.part[part] >> 16 | second.part[part];
    return {words[0], words[1], words[2], 0};
}

// Behind a chunk of a column: lane t of an mma finds its strip's.
DEVICE void stage_group_sums(uint8_t* chunk, const float (&x)[8], float wanted) {
    const int32_t t = lane_index() % 4, i = lane_index() / 4;
    const uint4 sums = group_sums(x, wanted);
    if (i < MIN_PAIRS) *reinterpret_cast<uint4*>(chunk + SUMS_AT + 16 * (4 * i + t)) = sums;
}

// The same for digits, with the first of them: lane 4i + t has octet t of group i, and lane q of an mma finds groups 2q and 2q + 1.
DEVICE void stage_digit_sums(uint8_t* target, const float (&x)[8], int32_t column_bytes) {
    const int32_t t = lane_index() % 4, i = lane_index() / 4;
    float sum = (x[0] + x[1] + (x[2] + x[3])) + (x[4] + x[5] + (x[6] + x[7]));
    sum += shuffle_xor(sum, 1);
    sum += shuffle_xor(sum, 2);
    const float other = shuffle_xor(sum, 4);
    if (i % 2 || t >= PARTS) return;
    const float unit = t == 0 ? 1.0f / (kLowPart * kLowPart) : 0.0f;
    const BfloatParts first = BfloatParts::of(sum * unit), second = BfloatParts::of(other * unit);
    uint32_t words[4] = {};
#pragma unroll
    for (int part = 0; part < 3; ++part) words[part] = first.part[part] >> 16 | second.part[part];
    *reinterpret_cast<uint4*>(target + t * column_bytes + SUMS_AT + 8 * i) = {words[0], words[1], words[2], words[3]};
}

// The digits of a chunk's activations: a lane's bytes of two steps of 32 lie together.
DEVICE void stage_digits(const float (&x)[8], uint8_t* target, int32_t column_bytes) {
    uint2 digits[PARTS];
    to_digits(x, digits);
    const int32_t t = lane_index() % 4, step = lane_index() / 4;
#pragma unroll
    for (int part = 0; part < PARTS; ++part) {
        *reinterpret_cast<uint2*>(target + part * column_bytes + step_place(step) + 16 * t) = digits[part];
    }
    if constexpr (MIN_GROUPS > 0) stage_digit_sums(target, x, column_bytes);
}

// Multiplies a chunk's activations by their power of two, by a warp whose lanes have an octet each.
DEVICE Powers scale_chunk(float (&x)[8]) {
    uint32_t largest = 0;
#pragma unroll
    for (int i = 0; i < 8; ++i) largest = max(largest, finite_magnitude(x[i]));
    largest = warp_max(largest);
    Powers powers = IS_INTEGER ? Powers::of_digits(largest) : Powers::of(largest);
    if constexpr (IS_INTEGER) {  // which have no other way to say that an activation is not finite
        bool is_finite = true;
#pragma unroll
        for (int i = 0; i < 8; ++i) is_finite &= x[i] - x[i] == 0.0f;
        if (warp_ballot(!is_finite)) powers.down[0] = bits_to_float(0x7FC00000u);
    }
#pragma unroll
    for (int i = 0; i < 8; ++i) x[i] = x[i] * powers.up[0] * powers.up[1];
    return powers;
}

// A chunk of one dispatch's activations becomes f16 parts or digits, by a warp: lane 4i + t has octet i of lane t. `target` is the chunk's
// place in the first part's column.
DEVICE void stage_chunk(const Element (&octet)[8], uint8_t* target, int32_t column_bytes) {
    if constexpr (IS_PLAIN) {
        uint4 vectors[sizeof(octet) / sizeof(uint4)];
        memcpy(vectors, octet, sizeof(octet));
#pragma unroll
        for (int i = 0; i < sizeof(octet) / sizeof(uint4); ++i) {
            reinterpret_cast<uint4*>(target + lane_index() * sizeof(octet))[i] = vectors[i];
        }
        return;
    }
    float x[8];
#pragma unroll
    for (int i = 0; i < 8; ++i) x[i] = to_float(octet[i]);
    if constexpr (IS_SCALED) {
        const Powers powers = scale_chunk(x);
        if (lane_index() == 0) *reinterpret_cast<float2*>(target + POWERS_AT) = {powers.down[0], powers.down[1]};
    }
    if constexpr (IS_INTEGER) return stage_digits(x, target, column_bytes);
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
    const int32_t n_chunks = shape.n_chunks;
    named_barrier(1, 32 * shape.warps);  // all are past the last use of the old columns
    const int32_t n = n_columns * n_chunks;
    constexpr int AT_ONCE = 2;  // loads on their way
    for (int32_t begin = warp_index(); begin < n; begin += AT_ONCE * shape.warps) {
        Element octets[AT_ONCE][8];
        uint8_t* targets[AT_ONCE];
#pragma unroll
        for (int i = 0; i < AT_ONCE; ++i) {
            const int32_t number = min(begin + i * shape.warps, n - 1);
            const int32_t column = static_cast<int32_t>(static_cast<int64_t>(number) * shape.chunk_inverse >> 30);
            const int32_t chunk = number - column * n_chunks;
            const bool is_first = column < n_first;
            const int32_t in_tile = is_first ? column : column - n_first,
                          slot = is_first ? in_tile : shape.columns + in_tile;
            const Element* row = static_cast<const Element*>(p.activations) +
                                 activation_row(p, (is_first ? first : second).first + in_tile) * p.n_cols;
            const int32_t first = chunk * CHUNK;
            load_mma_octet(row + first, lane_index() % 4, lane_index() / 4, p.n_cols - first, whole_vectors, octets[i]);
            targets[i] = s.columns + slot * PARTS * shape.column_bytes + chunk * CHUNK_BYTES;
        }
#pragma unroll
        for (int i = 0; i < AT_ONCE; ++i) {
            if (begin + i * shape.warps < n) stage_chunk(octets[i], targets[i], shape.column_bytes);
        }
    }
    if (item.number == 0) arrive_as_warp(s.staged);
    named_barrier(1, 32 * shape.warps);
    return are_two ? 2 : 1;
}

// What a lane multiplies with: its activations of each group of 8 mma columns; those of the first column where the tile has not
// so many. (A load that may not happen would keep its registers throughout the loop.)
struct Columns {
    const uint8_t* starts[N_TILES];  // of the octets that this lane takes
    const uint8_t* all;
    int32_t bytes, last;  // of a dispatch; the last dispatch

    // Of a tile of `count` dispatches whose columns begin at `all`.
    DEVICE Columns of(const Shape& shape, const uint8_t* all, int32_t count) {
        Columns columns;
        columns.all = all;
        columns.bytes = PARTS * shape.column_bytes;
        columns.last = count - 1;
#pragma unroll
        for (int32_t n = 0; n < N_TILES; ++n) {
            const int32_t slot = 8 * n + lane_index() / 4;
            int32_t column = slot < count * COLUMN_SLOTS ? slot : 0;
            // A dispatch's fourth column repeats its second: the third, beside it, is in other banks.
            if constexpr (COLUMN_SLOTS != PARTS) column = column / 4 * PARTS + (column % 4 < 3 ? column % 4 : 1);
            columns.starts[n] = columns.all + column * shape.column_bytes + 16 * (lane_index() & 3);
        }
        return columns;
    }

    // What the lane's sums of mma column 8n + 2 * (lane % 4) + c must be multiplied by, one after the other; of columns that
    // the tile has not, what any other's must.
    DEVICE float2 powers(const Columns& columns, int32_t n, int32_t c, int32_t offset) {
        const int32_t pair = 8 * n + 2 * (lane_index() & 3);
        const int32_t column = min(COLUMN_SLOTS == 1 ? pair + c : pair / COLUMN_SLOTS, columns.last);
        return load<float2>(columns.all + column * columns.bytes + offset + POWERS_AT);
    }
};
