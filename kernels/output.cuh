// Where a finished value goes: the workspace of the ordered sum, or the output in the plan's mode.
#include "activation.cuh"
#include "problem.cuh"

// Where the rows of a dispatch begin among the values that `store` writes.
DEVICE int64_t place_of(const Problem& p, int32_t dispatch) {
    return (p.combines ? dispatch : output_row(p, dispatch)) * p.n_rows_per_expert;
}

template <int N, typename Write>
DEVICE void for_each_wanted(const bool (&are_wanted)[N], Write write) {
#pragma unroll
    for (int i = 0; i < N; ++i) {
        if (are_wanted[i]) write(i);
    }
}

// Writes what is wanted of the weighted sums of one row for the dispatches whose rows begin at `places`.
template <int N>
DEVICE void store(const Problem& p, const int64_t (&places)[N], const bool (&are_wanted)[N], int32_t row,
                  const float (&values)[N]) {
    Element* const output = static_cast<Element*>(p.output) + row;
    if (p.combines) {
        for_each_wanted(are_wanted, [&](int i) { p.partials[places[i] + row] = values[i]; });
    } else if (p.is_atomic) {
        for_each_wanted(are_wanted, [&](int i) { atomic_add(output + places[i], values[i]); });
    } else if (p.adds) {
        for_each_wanted(are_wanted, [&](int i) {
            Element& target = output[places[i]];
            target = from_float(to_float(target) + values[i]);
        });
    } else {
        for_each_wanted(are_wanted, [&](int i) { output[places[i]] = from_float(values[i]); });
    }
}
