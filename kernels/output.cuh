// Where a finished value goes: the workspace of the ordered sum, or the output in the plan's mode.
#include "activation.cuh"
#include "problem.cuh"

// `value` is the weighted sum of one row for one dispatch.
DEVICE void store(const Problem& p, int32_t dispatch, int32_t row, float value) {
    if (p.combines) {
        p.partials[static_cast<int64_t>(dispatch) * p.n_rows_per_expert + row] = value;
        return;
    }
    Element* target = static_cast<Element*>(p.output) + output_row(p, dispatch) * p.n_rows_per_expert + row;
    if (p.is_atomic) atomic_add(target, value);
    else *target = from_float(p.adds ? to_float(*target) + value : value);
}
