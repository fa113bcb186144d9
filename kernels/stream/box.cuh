// Rows as boxes: one instruction for a stage, or for each row of a line.
//
// Where rows begin at multiples of 16 bytes only together, as boxes must, `line_rows` of them are a line of the tensor. A box has
// one row of each of an item's lines, from the 16 bytes on that the segment's first weight lies in; a stage has such a box for
// each row of a line, one behind the other. So units have neighbouring rows of a box, and only where rows begin and where their
// sums go depends on lines.
#include "stream/share.cuh"

// Copies a stage's bytes of an item's rows, by one lane: of lines from `first_line` on, the box from byte `in_line` on for each row
// of a line. Rows of the next expert are copied too where the item ends there.
DEVICE void copy_as_boxes(const Problem& p, const Shape& shape, const TensorMap& map, int32_t first_line,
                          int32_t in_line, uint8_t* stage, uint64_t* full) {
    barrier_arrive_expect(full, shape.rows * shape.row_slot);
    copy_box(stage, map, (in_line >> 4) * (16 / kBoxUnit), first_line, full);
#pragma unroll 1
    for (int32_t i = 1; i < shape.line_rows; ++i) {
        stage += shape.box_bytes;
        in_line += static_cast<int32_t>(row_bytes(p.n_cols));
        copy_box(stage, map, (in_line >> 4) * (16 / kBoxUnit), first_line, full);
    }
}

// Where an item's row `number`, as units and sums count them, begins in the stage whose first weight is byte `first_byte` of a row.
DEVICE uint32_t place_in_boxes(const Problem& p, const Shape& shape, int32_t number, int32_t first_byte) {
    const int32_t in_line = number >> shape.box_shift, line = number - (in_line << shape.box_shift);
    const uint32_t phase = (in_line * static_cast<uint32_t>(row_bytes(p.n_cols)) + first_byte) % 16;
    return in_line * shape.box_bytes + line * shape.row_slot + phase;
}

// Which of the item's rows in the expert that is.
DEVICE int32_t row_of_number(const Shape& shape, int32_t number) {
    const int32_t in_line = number >> shape.box_shift, line = number - (in_line << shape.box_shift);
    return (line << shape.line_shift) + in_line;
}
