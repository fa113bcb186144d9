// The one argument of every kernel. mmvq_cli/op/problem.py states the same struct; the source builder appends static
// assertions on its size and offsets, so the two cannot drift.

#include "ptx.cuh"

struct Problem {
    const uint8_t* weights;           // packed rows [n_experts, n_rows_per_expert, n_cols]
    const void* activations;          // [m_tokens or m_total, n_cols] of the activation dtype
    const int32_t* sorted_token_ids;  // [m_total], dispatches ordered by expert
    const int32_t* expert_offsets;    // [n_experts + 1], expert e owns dispatches [offsets[e], offsets[e + 1])
    const float* topk_weights;        // [m_total], or null for 1.0
    void* output;                     // [m_tokens or m_total, n_rows_per_expert] of the activation dtype
    float* partials;  // workspace [m_total, n_rows_per_expert]: weighted rows before the ordered sum, sums of parts
    int32_t* token_counts;      // workspace [m_tokens]: dispatches of each token
    int32_t* token_dispatches;  // workspace [m_tokens, top_k]: their positions, in no order
    uint8_t* arranged;          // workspace: activations as wide.cu multiplies them
    int32_t n_experts;
    int32_t n_rows_per_expert;
    int32_t n_cols;
    int32_t m_total;
    int32_t m_tokens;
    int32_t top_k;
    // 0 or 1:
    int32_t activation_rows_are_dispatches;
    int32_t output_rows_are_dispatches;
    int32_t adds;       // the old output counts
    int32_t is_atomic;  // accumulate with atomics
    int32_t combines;   // rows go to `partials`, and `combine` sums them
};

// The token of dispatch i: no need to read which where there is one.
DEVICE int32_t token_of(const Problem& p, int32_t i) { return p.m_tokens == 1 ? 0 : p.sorted_token_ids[i]; }

// The row of activations that dispatch i reads.
DEVICE int64_t activation_row(const Problem& p, int32_t i) {
    return p.activation_rows_are_dispatches ? i : token_of(p, i);
}

// The row of output that dispatch i writes.
DEVICE int64_t output_row(const Problem& p, int32_t i) { return p.output_rows_are_dispatches ? i : token_of(p, i); }

DEVICE float dispatch_weight(const Problem& p, int32_t i) { return p.topk_weights ? p.topk_weights[i] : 1.0f; }
