"""What a plan promises about its arithmetic, and the error bound that the promise means."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class PrecisionGuarantee:
    """Proven properties of one plan.

    `error_constant` is c in `|y - ref| <= u_out*|ref| + c * 2^-24 * sum_i |w_i| * sum_k |W_rk * x_k|`; u_out is the
    unit roundoff of the output dtype. `batch_invariant`: a token's row has the same bits alone and in any batch.
    """

    math: str
    accumulator: str
    error_constant: float
    deterministic: bool
    bit_stable_on_same_hardware: bool
    batch_invariant: bool


# The largest c that a default plan may promise, by activation dtype: the arithmetic must not dominate the rounding
# to the dtype itself.
DEFAULT_ERROR_CONSTANT = {"f32": 32.0, "f16": 128.0, "bf16": 1024.0}
