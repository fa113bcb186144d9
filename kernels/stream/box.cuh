// Rows as boxes: one instruction for a stage.
#include "stream/share.cuh"

// Copies the segment's bytes of an item's rows as a box, by one lane. Rows of the next expert are copied too where the item ends
// there.
DEVICE void copy_as_box(const Problem& p, const Shape& shape, const TensorMap& map, Tile tile, int32_t first_row,
                        int32_t first_weight, uint8_t* stage, uint64_t* full) {
    barrier_expect(full, shape.rows * shape.row_slot);
    copy_box(stage, map, static_cast<int32_t>(row_bytes(first_weight)) / kBoxUnit,
             tile.expert * p.n_rows_per_expert + first_row, full);
    barrier_arrive(full);
}
