// A unit of multiplication: 16 rows of a stage and a slice of their weights.
#include "stream/chunk.cuh"

// Where a multiplying warp is: unit `unit` of a stage.
struct Place {
    Item item;
    int32_t unit;           // the warp's next, from this stage's first on
    int32_t segment, slot;  // of the stage in its item; of the ring that it is in
    uint32_t parity;        // of the ring's round
};

// A slice of 16 rows in a stage: the two rows of this lane, from the slice's first weight on. Rows past the expert's end are
// multiplied too, but not stored.
struct Unit {
    const uint8_t *upper, *lower;
    int32_t n_weights;  // up to the row's end

    DEVICE Unit of(const Problem& p, const Shape& shape, const Shared& s, const Place& place) {
        const int32_t slice = place.unit >> shape.group_shift, group = place.unit & (shape.row_groups - 1);
        const uint8_t* const begin = s.stages + place.slot * shape.stage_bytes + slice * shape.packed_slice;
        const int32_t row = 16 * group + lane_index() / 4;
        const int32_t n_weights = p.n_cols - place.segment * shape.segment - slice * shape.slice;
        if (shape.has_boxes) return {begin + row * shape.row_slot, begin + (row + 8) * shape.row_slot, n_weights};
        const int32_t first_row = place.item.row_tile * shape.rows;
        const int32_t last_row = min(shape.rows, p.n_rows_per_expert - first_row) - 1;
        const int32_t upper = min(row, last_row), lower = min(row + 8, last_row);  // what is not copied is not read
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
        return {begin + upper * shape.row_slot + upper_phase, begin + lower * shape.row_slot + lower_phase, n_weights};
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
