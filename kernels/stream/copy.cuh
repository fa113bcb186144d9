// The copying warp: rows on their way from memory, as many stages ahead as shared memory has room for.
#include "stream/box.cuh"

// Copies the segment's bytes of an item's rows, where boxes cannot: from the 16-byte line that a copy begins in to the line that
// it ends in. Lanes take turns at asking, some 60 ns for each copy, so short rows are copied together.
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

// The same without bulk copies: lines of 16 bytes, by as many lanes as a row has lines. Rows follow each other in the inner loop,
// for a lane to ask for several lines at once. Of the tensor's last line, only the bytes inside are read.
DEVICE void copy_by_lines(const Problem& p, const Shape& shape, Tile tile, int32_t first_row, int32_t first_weight,
                          uint8_t* stage, uint64_t* full) {
    const int64_t packed_bytes = row_bytes(p.n_cols);
    const int64_t row_of_all = static_cast<int64_t>(tile.expert) * p.n_rows_per_expert + first_row;
    const int64_t from_start = row_of_all * packed_bytes + row_bytes(first_weight);
    const int64_t rest = p.n_experts * (p.n_rows_per_expert * packed_bytes) - from_start;
    const uint8_t* const first = p.weights + from_start;
    const int32_t inside = rest < 1 << 30 ? static_cast<int32_t>(rest) : 1 << 30;  // more than an item's rows have
    const int32_t pitch = static_cast<int32_t>(packed_bytes),
                  first_phase = static_cast<int32_t>(address_of(first) % 16);
    const int32_t n_bytes = static_cast<int32_t>(row_bytes(min(shape.segment, p.n_cols - first_weight)));
    const int32_t n_rows = min(shape.rows, p.n_rows_per_expert - first_row);
    int32_t lane_shift = 5;  // log2(lanes of a row)
    while (lane_shift > 0 && 15 + n_bytes <= 8 << lane_shift) --lane_shift;
    const int32_t lanes = 1 << lane_shift;
    for (int32_t at = 16 * (lane_index() & (lanes - 1)); at < 15 + n_bytes; at += 16 * lanes) {
#pragma unroll 4
        for (int32_t row = lane_index() >> lane_shift; row < n_rows; row += 32 >> lane_shift) {
            const int32_t phase = (first_phase + row * pitch) & 15;
            const int32_t begin = row * pitch - phase + at;  // from `first` on
            if (at >= phase + n_bytes) continue;
            copy_line(stage + row * shape.row_slot + at, first + begin, min(16, inside - begin));
        }
    }
    barrier_arrive_behind_copies(full);
}

// Units that a stage from `weight` on has not, because rows end in it: nobody else says that they are done.
DEVICE int32_t missing(const Problem& p, const Shape& shape, int32_t weight) {
    return weight + shape.segment < p.n_cols ? 0 : shape.n_segments * shape.units - shape.item_units;
}

// As many stages ahead as there is room; but the first activations, which multiplication waits for, come before most weights:
// they would queue up behind all that is on its way. Where a stage lies empty, its copies are asked for first: all other warps
// wait for this one.
DEVICE void copy_items(const Problem& p, const Shape& shape, const TensorMap& map, const Shared& s,
                       const Share& share) {
    int32_t stage = 0, n_copied = 0;
    uint32_t parity = 1;  // the first round finds every stage empty
    for (Item item = share.first; item.number < share.n_items; advance(p, shape, item)) {
        const Tile tile = item.tile;
        const int32_t first_row = item.row_tile * shape.rows;
        const int32_t first_line = (tile.expert * p.n_rows_per_expert + first_row) >> shape.line_shift;
        int32_t in_line = 0;
        for (int32_t weight = 0; weight < p.n_cols; weight += shape.segment, in_line += shape.packed_segment) {
            if (n_copied++ == shape.early_stages) barrier_wait(s.staged, 0);
            uint8_t* const target = s.stages + stage * shape.stage_bytes;
            barrier_wait(s.empty + stage, parity);
            if constexpr (!HAS_BULK_COPIES) {
                copy_by_lines(p, shape, tile, first_row, weight, target, s.full + stage);
            } else if (!shape.has_boxes) {
                copy_segment(p, shape, tile, first_row, weight, target, s.full + stage);
            } else if (lane_index() == 0) {
                copy_as_boxes(p, shape, map, first_line, in_line, target, s.full + stage);
            }
            if (lane_index() == 0) {
                publish(s.n_issued, n_copied);
#pragma unroll 1
                for (int32_t i = missing(p, shape, weight); i > 0; --i) barrier_arrive(s.empty + stage);
            }
            if (++stage == shape.n_stages) stage = 0, parity ^= 1;
        }
    }
}
