// Which dispatches a block works on, found from expert_offsets alone: no host synchronization, no list in memory.
//
// A tile is up to `COLUMNS` dispatches of one expert that share one read of its rows. Blocks walk over slots, and a slot
// is a tile or nothing. Two numberings exist, and the one with fewer slots is taken:
//   one slot per dispatch            m_total slots; active when it is the first of its tile
//   offsets[e] / COLUMNS + e + j     n_experts + m_total / COLUMNS slots for tile j of expert e. Expert e gets
//                                    floor(end / C) - floor(begin / C) + 1 slots, never fewer than ceil(count / C).
// Both are monotone in the expert, so a binary search over n_experts finds it.

#include "problem.cuh"

struct Tile {
    int32_t expert;
    int32_t first;  // sorted position of its first dispatch
    int32_t count;  // dispatches, 0 when the slot is empty
};

template <int COLUMNS>
DEVICE int32_t slot_count(const Problem& p) {
    return min(p.m_total, p.n_experts + p.m_total / COLUMNS);
}

template <int COLUMNS>
DEVICE Tile tile_of_slot(const Problem& p, int32_t slot) {
    const bool per_dispatch = p.m_total <= p.n_experts + p.m_total / COLUMNS;
    int32_t low = 0, high = p.n_experts;  // the last expert whose first slot is <= slot lies in [low, high)
    while (high - low > 1) {
        const int32_t middle = low + (high - low) / 2;
        const int32_t offset = p.expert_offsets[middle];
        const int32_t first_slot = per_dispatch ? offset : offset / COLUMNS + middle;
        if (first_slot <= slot) low = middle;
        else high = middle;
    }
    const int32_t begin = p.expert_offsets[low], end = p.expert_offsets[low + 1];
    const int32_t first = per_dispatch ? slot : begin + (slot - begin / COLUMNS - low) * COLUMNS;
    const bool starts_a_tile = first < end && (first - begin) % COLUMNS == 0;
    return {low, first, starts_a_tile ? min(COLUMNS, end - first) : 0};
}
