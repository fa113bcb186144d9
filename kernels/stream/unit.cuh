// A unit of multiplication: 16 rows of a stage and a slice of their weights.
#include "stream/box.cuh"
#include "stream/chunk.cuh"

// Where a multiplying warp is.
struct Place {
    int32_t item, unit;  // of the share, of the item
    int32_t n_issued;    // stages that are known to be on their way

    DEVICE void advance(const Shape& shape, Place& place) {
        place.unit += shape.warps;
        while (place.unit >= shape.item_units) {
            place.unit -= shape.item_units;
            ++place.item;
        }
    }
};

// A unit: 16 of an item's rows, a slice of their weights, and where they lie.
struct Unit {
    int32_t slice, group;   // of the row, of the item's rows
    int32_t stage;          // of the share
    int32_t slot, in_slot;  // of the stage in the ring, in bytes from there to the slice
    uint32_t parity;        // of the ring's round

    DEVICE Unit of(const Shape& shape, const Place& place) {
        Unit unit;
        unit.slice = place.unit >> shape.group_shift;
        unit.group = place.unit & (shape.row_groups - 1);
        const int32_t segment = unit.slice * shape.segment_inverse >> 8;
        unit.stage = place.item * shape.n_segments + segment;
        const uint32_t round = multiply_high(unit.stage, shape.stage_inverse);
        unit.slot = unit.stage - round * shape.n_stages;
        unit.parity = round & 1;
        unit.in_slot = (unit.slice - segment * shape.slices) * shape.packed_slice;
        return unit;
    }
};

// The two rows of a lane, from the slice's first weight on. Rows past the expert's end are multiplied too, but not stored.
struct Rows {
    const uint8_t *upper, *lower;

    DEVICE Rows of(const Problem& p, const Shape& shape, const Shared& s, const Unit& unit, int32_t expert,
                   int32_t row_tile) {
        const uint8_t* const begin = s.stages + unit.slot * shape.stage_bytes + unit.in_slot;
        if (shape.has_boxes) {
            const int32_t number = 16 * unit.group + lane_index() / 4;
            const int32_t first_byte = (unit.slice * shape.segment_inverse >> 8) * shape.packed_segment;
            if (MMVQ_TYPE_SIZE % 16 == 0 || IS_FLOAT || shape.line_shift == 0) {
                const int32_t phase = MMVQ_TYPE_SIZE % 16 == 0 || IS_FLOAT ? 0 : first_byte & 15;
                const uint8_t* const upper = begin + number * shape.row_slot + phase;
                return {upper, upper + 8 * shape.row_slot};
            }
            return {begin + place_in_boxes(p, shape, number, first_byte),
                    begin + place_in_boxes(p, shape, number + 8, first_byte)};
        }
        const int32_t row = 16 * unit.group + lane_index() / 4, first_row = row_tile * shape.rows;
        const int32_t last_row = min(shape.rows, p.n_rows_per_expert - first_row) - 1;
        const int32_t upper = min(row, last_row), lower = min(row + 8, last_row);  // what is not copied is not read
        uint32_t upper_phase = 0, lower_phase = 0;  // of where their copies begin in 16 bytes
        if constexpr (MMVQ_TYPE_SIZE % 16 != 0) {
            const uint32_t row_phase = static_cast<uint32_t>(row_bytes(p.n_cols));
            const uint32_t row_in_tensor = static_cast<uint32_t>(expert) * p.n_rows_per_expert + first_row;
            const uint32_t segment = unit.slice * shape.segment_inverse >> 8;
            const uint32_t phase = static_cast<uint32_t>(address_of(p.weights)) + row_in_tensor * row_phase +
                                   segment * shape.packed_segment;
            const uint32_t first_of_copy = -static_cast<uint32_t>(shape.copy_rows);
            upper_phase = (phase + (upper & first_of_copy) * row_phase) % 16;
            lower_phase = (phase + (lower & first_of_copy) * row_phase) % 16;
        }
        return {begin + upper * shape.row_slot + upper_phase, begin + lower * shape.row_slot + lower_phase};
    }
};

// The products of a unit are added to `sums`.
DEVICE void multiply_unit(const Problem& p, const Shape& shape, const Shared& s, const Columns& columns,
                          const Unit& unit, int32_t expert, int32_t row_tile, float (&sums)[N_TILES][4]) {
    Rows rows = Rows::of(p, shape, s, unit, expert, row_tile);
    const Grid grid = grid_of(shape, s);
    int32_t offset = unit.slice * shape.slice_columns;
    const int32_t end = min(offset + shape.slice_columns, shape.row_columns);
    int32_t n_weights = p.n_cols - unit.slice * shape.slice;
#pragma unroll 1
    do {
        multiply_chunk(rows.upper, rows.lower, grid, n_weights, columns, offset, sums);
        rows.upper += PACKED_CHUNK;
        rows.lower += PACKED_CHUNK;
        n_weights -= CHUNK;
        offset += CHUNK_BYTES;
    } while (offset < end);
}

// A unit's sums to `target` [16][SUM_STRIDE].
DEVICE void store_sums(const float (&sums)[N_TILES][4], float* target) {
    const int32_t lane = lane_index();
#pragma unroll
    for (int32_t n = 0; n < N_TILES; ++n) {
        float* const mine = target + lane / 4 * SUM_STRIDE + 8 * n + 2 * (lane & 3);
        *reinterpret_cast<float2*>(mine) = {sums[n][0], sums[n][1]};
        *reinterpret_cast<float2*>(mine + 8 * SUM_STRIDE) = {sums[n][2], sums[n][3]};
    }
}
