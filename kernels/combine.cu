// What surrounds the product: zeroing rows that no dispatch writes, and the ordered sum for top_k > 1.
//
//   output[t, r] (+)= sum over the dispatches i of token t, in ascending i, of partials[i, r]        f32, one rounding
//
// The first kernels collect each token's dispatches in any order; combine ranks them by position, so the sum does not depend
// on the order in which they were appended. Bytes: partials once, output once.
#include "activation.cuh"
#include "problem.cuh"

constexpr int SORTED_AT_ONCE = 256;  // dispatches of one token ranked in shared memory per pass; more take more passes
constexpr int ROWS_PER_BLOCK = MMVQ_COMBINE_ROWS;

KERNEL clear_output(const GRID_CONSTANT Problem p) {
    start_overlapped();
    const int64_t n_rows = p.output_rows_are_dispatches ? p.m_total : p.m_tokens;
    Element* output = static_cast<Element*>(p.output);
    for (int64_t i = thread_in_grid(); i < n_rows * p.n_rows_per_expert; i += threads_in_grid())
        output[i] = from_float(0.0f);
}

DEVICE void clear_counts(const Problem& p, int64_t first, int64_t step) {
    for (int64_t token = first; token < p.m_tokens; token += step) p.token_counts[token] = 0;
}

DEVICE void append(const Problem& p, int64_t first, int64_t step) {
    for (int64_t i = first; i < p.m_total; i += step) {
        const int32_t token = p.sorted_token_ids[i];
        const int32_t slot = atomic_add(p.token_counts + token, 1);
        // A routing with more than top_k dispatches of a token breaks the contract; it must not write out of bounds.
        if (slot < p.top_k) p.token_dispatches[static_cast<int64_t>(token) * p.top_k + slot] = static_cast<int32_t>(i);
    }
}

// Few dispatches: one block clears and appends, which saves a launch.
KERNEL index_dispatches(const GRID_CONSTANT Problem p) {
    start_overlapped();
    clear_counts(p, thread_index(), block_size());
    block_barrier();
    append(p, thread_index(), block_size());
}

// Many dispatches: the whole device does both, with a launch between.
KERNEL clear_token_counts(const GRID_CONSTANT Problem p) {
    start_overlapped();
    clear_counts(p, thread_in_grid(), threads_in_grid());
}

KERNEL append_dispatches(const GRID_CONSTANT Problem p) {
    start_overlapped();
    append(p, thread_in_grid(), threads_in_grid());
}

// One block per token and ROWS_PER_BLOCK rows. A pass sums SORTED_AT_ONCE dispatches; between passes the running sum waits,
// unrounded, in the partial row of the token's first dispatch, which no later pass reads.
DEVICE void combine_rows(const Problem& p, int64_t token, int32_t first_row, int32_t end_row) {
    SHARED int32_t sorted[SORTED_AT_ONCE];
    const int32_t count = min(p.token_counts[token], p.top_k);
    const int32_t* dispatches = p.token_dispatches + token * p.top_k;
    Element* output = static_cast<Element*>(p.output) + token * p.n_rows_per_expert;
    float* carried = p.partials;
    for (int32_t begin = 0; begin == 0 || begin < count; begin += SORTED_AT_ONCE) {
        const int32_t n_sorted = min(SORTED_AT_ONCE, count - begin);
        for (int32_t j = thread_index(); j < count; j += block_size()) {
            int32_t rank = 0;
            for (int32_t other = 0; other < count; ++other) rank += dispatches[other] < dispatches[j];
            if (rank >= begin && rank < begin + n_sorted) sorted[rank - begin] = dispatches[j];
        }
        block_barrier();
        if (begin == 0 && count > 0) carried += static_cast<int64_t>(sorted[0]) * p.n_rows_per_expert;
        const bool is_last = begin + n_sorted == count;
        for (int32_t row = first_row + thread_index(); row < end_row; row += block_size()) {
            float sum = begin == 0 ? 0.0f : carried[row];
            for (int32_t j = 0; j < n_sorted; ++j) {
                sum += p.partials[static_cast<int64_t>(sorted[j]) * p.n_rows_per_expert + row];
            }
            if (is_last) output[row] = from_float(p.adds ? to_float(output[row]) + sum : sum);
            else carried[row] = sum;
        }
        block_barrier();
    }
}

KERNEL combine(const GRID_CONSTANT Problem p) {
    start_overlapped();
    const int64_t n_chunks = (p.n_rows_per_expert + ROWS_PER_BLOCK - 1) / ROWS_PER_BLOCK;
    for (int64_t item = block_index(); item < p.m_tokens * n_chunks; item += block_count()) {
        const int32_t first_row = static_cast<int32_t>(item % n_chunks) * ROWS_PER_BLOCK;
        combine_rows(p, item / n_chunks, first_row, min(first_row + ROWS_PER_BLOCK, p.n_rows_per_expert));
    }
}
