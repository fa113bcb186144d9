// A tile's activations as sm_90's tensor cores read them from shared memory (ptx/warpgroup.cuh), and where they are before.
//
// The dispatches of an expert are cut into groups of eight mma columns. For 256 weights a group is 32 cores, two for each product 16
// deep, in the order of the octets; then the sums of the format's groups, where it has mins; then each column's power of two.
#include "ptx/warpgroup.cuh"
#include "stream/activations.cuh"

constexpr int GROUP_COLUMNS = 8, GROUP_DISPATCHES = GROUP_COLUMNS / PARTS;
constexpr int GROUP_SUMS_AT = GROUP_COLUMNS * 2 * CHUNK;
constexpr int GROUP_POWERS_AT = GROUP_SUMS_AT + GROUP_COLUMNS * 8 * MIN_GROUPS;
constexpr int GROUP_BYTES = GROUP_POWERS_AT + (IS_SCALED ? GROUP_COLUMNS * 8 : 0);
static_assert(GROUP_BYTES == MMVQ_GROUP_BYTES, "the plan has groups of another size");

// ---- In the workspace: [n_chunks][groups_of_all] of GROUP_BYTES.

// More than experts can have, because each begins with a group of its own.
DEVICE int32_t groups_of_all(const Problem& p) { return p.m_total / GROUP_DISPATCHES + p.n_experts; }

// That an expert begins with.
DEVICE int32_t first_group(const Problem& p, int32_t expert) {
    return p.expert_offsets[expert] / GROUP_DISPATCHES + expert;
}

DEVICE uint8_t* arranged_at(const Problem& p, int32_t chunk, int32_t group) {
    return p.arranged + (static_cast<int64_t>(chunk) * groups_of_all(p) + group) * GROUP_BYTES;
}

// The last expert that begins at this group or before it, by a warp.
DEVICE int32_t expert_of_group(const Problem& p, int32_t group) {
    int32_t first = 0, end = p.n_experts;  // it is one of these
    while (end - first > 1) {
        const int32_t step = (end - first + 31) / 32, mine = first + lane_index() * step;
        const uint32_t begin_before = warp_ballot(mine < end && first_group(p, min(mine, end - 1)) <= group);
        const int32_t last = begin_before == 0xFFFFFFFFu ? 31 : lowest_bit(~begin_before) - 1;
        first += last * step;
        end = min(first + step, end);
    }
    return first;
}

// What a lane's eight octets add to the sums of the format's groups, as words of a column's cores: two groups, a part of each.
DEVICE void arrange_sums(const float (&x)[8][8], float wanted, uint8_t* column) {
#pragma unroll
    for (int pair = 0; pair < MIN_PAIRS; ++pair) {
        float sums[2] = {};
#pragma unroll
        for (int o = pair; o < 8; o += MIN_PAIRS) {
#pragma unroll
            for (int e = 0; e < 8; ++e) sums[e / 4] += x[o][e] * wanted;
        }
        const BfloatParts first = BfloatParts::of(sums[0]), second = BfloatParts::of(sums[1]);
#pragma unroll
        for (int part = 0; part < 4; ++part) {
            const uint32_t word = part < 3 ? first.part[part % 3] >> 16 | second.part[part % 3] : 0;
            *reinterpret_cast<uint32_t*>(column + GROUP_SUMS_AT + (part * MIN_PAIRS + pair) * kCoreBytes) = word;
        }
    }
}

// 256 activations of each dispatch of a group, by a warp: lane 4c + t has the octets of lane t for column c.
DEVICE void arrange_chunk(const Element (&octets)[8][8], uint8_t* group) {
    const int32_t mma_column = lane_index() / 4, t = lane_index() % 4, part = mma_column % PARTS;
    float x[8][8];
    uint32_t largest = 0;
#pragma unroll
    for (int i = 0; i < 64; ++i) {
        x[i / 8][i % 8] = to_float(octets[i / 8][i % 8]);
        largest = max(largest, finite_magnitude(x[i / 8][i % 8]));
    }
    if constexpr (IS_SCALED) {
        largest = max(largest, shuffle_xor(largest, 1));
        const Powers powers = Powers::of(max(largest, shuffle_xor(largest, 2)));
#pragma unroll
        for (int i = 0; i < 64; ++i) x[i / 8][i % 8] = x[i / 8][i % 8] * powers.up[0] * powers.up[1];
        const float2 down = {powers.down[0], powers.down[1]};
        if (t == 0) reinterpret_cast<float2*>(group + GROUP_POWERS_AT)[mma_column] = down;
    }
    uint8_t* const column = group + 16 * mma_column + 4 * t;
#pragma unroll
    for (int o = 0; o < 8; ++o) {
        uint4 parts[PARTS];
        to_mma_columns(x[o], parts);
        const uint4 mine = part == 0 ? parts[0] : parts[PARTS - 1];
        const uint32_t words[4] = {mine.x, mine.y, mine.z, mine.w};
#pragma unroll
        for (int word = 0; word < 4; ++word) {
            *reinterpret_cast<uint32_t*>(column + (4 * o + word) * kCoreBytes) = words[word];
        }
    }
    if constexpr (MIN_GROUPS > 0) arrange_sums(x, part == 0 ? 1.0f : 0.0f, column);
}

// ---- In shared memory.

// A chunk of a tile.
struct WideColumns {
    const uint8_t* first;
    SharedMatrix matrix;

    DEVICE WideColumns of(const uint8_t* first) { return {first, SharedMatrix::of(first, GROUP_BYTES)}; }

    // What the lane's sums of column 8n + 2 * (lane % 4) + c must be multiplied by, one after the other.
    DEVICE float2 powers(const WideColumns& columns, int32_t n, int32_t c) {
        return load<float2>(columns.first + n * GROUP_BYTES + GROUP_POWERS_AT + 16 * (lane_index() & 3) + 8 * c);
    }
};
