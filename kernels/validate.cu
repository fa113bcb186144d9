// Is a routing legal? Run on request before a launch, because the product itself trusts its indices.
//
// report[0] is the code of a broken rule (0 when none is), report[1] the position, report[2] the value seen there. When
// several rules are broken, the first that any thread meets is kept.
// Rules: 1 token id outside [0, m_tokens); 2 offsets not monotone; 3 first offset not 0; 4 last offset not m_total;
//        5 a token with more than top_k dispatches. Needs `token_counts` [m_tokens], zeroed.
#include "problem.cuh"

DEVICE void complain(int32_t* report, int32_t rule, int32_t position, int32_t value) {
    if (atomic_compare_and_swap(report, 0, rule) != 0) return;
    report[1] = position;
    report[2] = value;
}

KERNEL validate_routing(const GRID_CONSTANT Problem p, int32_t* report) {
    for (int64_t i = thread_in_grid(); i < p.m_total; i += threads_in_grid()) {
        const int32_t token = p.sorted_token_ids[i];
        if (token < 0 || token >= p.m_tokens) complain(report, 1, static_cast<int32_t>(i), token);
        else if (atomic_add(p.token_counts + token, 1) == p.top_k) complain(report, 5, token, p.top_k + 1);
    }
    for (int64_t e = thread_in_grid(); e <= p.n_experts; e += threads_in_grid()) {
        const int32_t offset = p.expert_offsets[e];
        if (e == 0 && offset != 0) complain(report, 3, 0, offset);
        if (e == p.n_experts && offset != p.m_total) complain(report, 4, static_cast<int32_t>(e), offset);
        if (e > 0 && offset < p.expert_offsets[e - 1]) complain(report, 2, static_cast<int32_t>(e), offset);
    }
}
