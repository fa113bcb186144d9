// Units of plain floats: products and sums in f32, so that subnormal weights count.
#include "stream/unit.cuh"

// The sums of Rows rows over 32 lanes: halves of the rows go to halves of the lanes, so that lane l ends with row
// l / (32 / Rows)'s.
template <int Rows>
DEVICE float sum_rows(float (&sums)[Rows]) {
#pragma unroll
    for (int width = Rows / 2; width > 0; width /= 2) {
        const int distance = 32 / Rows * width;
        const bool is_upper = lane_index() & distance;
#pragma unroll
        for (int i = 0; i < width; ++i) {
            const float other = shuffle_xor(is_upper ? sums[i] : sums[i + width], distance);
            sums[i] = (is_upper ? sums[i + width] : sums[i]) + other;
        }
    }
    float sum = sums[0];
#pragma unroll
    for (int distance = 16 / Rows; distance > 0; distance /= 2) sum += shuffle_xor(sum, distance);
    return sum;
}

// A unit of plain floats: 16 of an item's rows, `row_slot` bytes apart, and the columns. Those behind `last_row` repeat it and are
// not stored.
struct PlainUnit {
    const uint8_t *rows, *columns;  // of the item; from the slice's first weight on
    int32_t first_row, last_row, row_slot, n_weights, column_bytes, n_columns, run;
    float* target;  // [16][SUM_STRIDE]
};

// Eight activations of the lane from each of Count columns.
template <int Count>
DEVICE void load_plain_columns(const PlainUnit& unit, int32_t first_column, int32_t chunk, float (&x)[Count][8]) {
#pragma unroll
    for (int c = 0; c < Count; ++c) {
        const int32_t column = min(first_column + c, unit.n_columns - 1);
        const uint8_t* const at =
            unit.columns + column * unit.column_bytes + chunk * CHUNK_BYTES + lane_index() * sizeof(Element[8]);
        Element octet[8];
        uint4 vectors[sizeof(octet) / sizeof(uint4)];
#pragma unroll
        for (int i = 0; i < sizeof(octet) / sizeof(uint4); ++i) vectors[i] = load<uint4>(at + i * sizeof(uint4));
        memcpy(octet, vectors, sizeof(octet));
#pragma unroll
        for (int i = 0; i < 8; ++i) x[c][i] = to_float(octet[i]);
    }
}

// A chunk of Rows rows, added to `sums`; in the last one of a row (not Whole) some lanes have no weights.
template <bool Whole, int Rows, int Count, typename F = WeightFormat>
DEVICE void multiply_plain_chunk(const PlainUnit& unit, int32_t first_row, int32_t first_column, int32_t chunk,
                                 int32_t n_weights, float (&sums)[Count][Rows]) {
    float x[Count][8];
    load_plain_columns(unit, first_column, chunk, x);
    const bool has_weights = Whole || 8 * lane_index() < n_weights;
    const uint8_t* const octets =
        unit.rows + chunk * PACKED_CHUNK + (has_weights ? lane_index() : 0) * (8 * MMVQ_TYPE_SIZE);
#pragma unroll
    for (int row = 0; row < Rows; ++row) {
        float w[8];
        F::decode_octet(octets + min(unit.first_row + first_row + row, unit.last_row) * unit.row_slot, w);
#pragma unroll
        for (int i = 0; i < 8; ++i) {
            if (!has_weights) w[i] = 0.0f;
#pragma unroll
            for (int c = 0; c < Count; ++c) sums[c][row] = fused_multiply_add(w[i], x[c][i], sums[c][row]);
        }
    }
}

// The sums of Rows rows from `first_row` on and up to Count columns from `first_column` on: a lane takes eight weights of each
// row and chunk.
template <int Rows, int Count>
DEVICE void multiply_columns(const PlainUnit& unit, int32_t first_row, int32_t first_column) {
    constexpr int LANES = 32 / Rows;
    float sums[Count][Rows] = {};
    int32_t n_weights = unit.n_weights;
#pragma unroll 1
    for (int32_t chunk = 0; chunk < unit.run && n_weights > 0; ++chunk, n_weights -= CHUNK) {
        if (n_weights >= CHUNK) multiply_plain_chunk<true>(unit, first_row, first_column, chunk, n_weights, sums);
        else multiply_plain_chunk<false>(unit, first_row, first_column, chunk, n_weights, sums);
    }
    float total[4] = {};
#pragma unroll
    for (int c = 0; c < Count; ++c) total[c] = sum_rows<Rows>(sums[c]);
    // Of a row's lanes the first stores four columns, the second the other four where nobody comes back for them.
    float* const target = unit.target + (first_row + lane_index() / LANES) * SUM_STRIDE + first_column;
    const int32_t lane = lane_index() % LANES;
    if (lane == 0) *reinterpret_cast<float4*>(target) = {total[0], total[1], total[2], total[3]};
    if (lane == 1 && unit.n_columns <= 4) *reinterpret_cast<float4*>(target + 4) = {};
}

template <int Rows, int Count>
DEVICE void multiply_all_columns(const PlainUnit& unit) {
    for (int32_t row = 0; row < 16; row += Rows) {
        for (int32_t column = 0; column < unit.n_columns; column += Count)
            multiply_columns<Rows, Count>(unit, row, column);
    }
}

// The more rows at once, the fewer times activations are read, and the more columns, the fewer times weights become floats; as
// far as registers go.
template <typename F = WeightFormat>
DEVICE void multiply_plain_unit(const Problem& p, const Shape& shape, const Shared& s, const Columns& columns,
                                const Unit& where, int32_t row_tile, float* target) {
    constexpr int ROWS = 16 / sizeof(typename F::Block);
    const PlainUnit unit = {s.stages + where.slot * shape.stage_bytes + where.in_slot,
                            columns.all + where.slice * shape.slice_columns,
                            16 * where.group,
                            min(shape.rows, p.n_rows_per_expert - row_tile * shape.rows) - 1,
                            shape.row_slot,
                            p.n_cols - where.slice * shape.slice,
                            columns.bytes,
                            columns.last + 1,
                            shape.run,
                            target};
    if (unit.n_columns == 1) multiply_all_columns<ROWS, 1>(unit);
    else if (unit.n_columns == 2) multiply_all_columns<ROWS, 2>(unit);
    else multiply_all_columns<ROWS, 4>(unit);
}
