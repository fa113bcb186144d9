"""Is an output right? Every element against its own error bound, with the coordinates of the worst ones.

    |y - ref| <= u_out*|ref| + c * 2^-24 * magnitude + half the output dtype's smallest subnormal

The first two terms are the contract's. The last one is no margin: no number of the dtype lies nearer to a tiny result.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mmvq_cli.engine.base import Reference
from mmvq_cli.op import Descriptor, Dtype, PrecisionGuarantee, Rows

TILE_ROWS = 64  # output rows of one expert that share an NMSE figure
_BLOCK_ELEMENTS = 2**16  # judged at once: what stays in a processor's cache

_MAX_FINITE = {Dtype.F32: float(np.finfo(np.float32).max), Dtype.F16: 65504.0, Dtype.BF16: 2.0**127 * (2 - 2.0**-7)}
_SMALLEST_SUBNORMAL = {Dtype.F32: 2.0**-149, Dtype.F16: 2.0**-24, Dtype.BF16: 2.0**-133}
_RELATIVE_FLOOR = 1e-3  # max_rel looks at elements above this fraction of their row's rms


@dataclass(frozen=True, slots=True)
class WorstTile:
    """The (expert, tile of 64 rows) with the largest NMSE."""

    expert: int
    first_row: int
    nmse: float


@dataclass(frozen=True, slots=True)
class Verdict:
    """How far an output is from the exact one.

    `bound_used` is the largest error as a fraction of its bound (pass: <= 1, inf for a wrong kind of value);
    `worst_index` its (output row, row of the expert). NMSE is sum((y - ref)^2) / sum(ref^2), over everything, per
    output row and per tile; max_rel covers elements above 1e-3 of their output row's rms.
    """

    bound_used: float
    n_wrong: int
    worst_index: tuple[int, int] | None
    nmse: float
    worst_row: int | None
    worst_row_nmse: float
    worst_tile: WorstTile | None
    max_abs: float
    max_rel: float

    @property
    def passed(self) -> bool:
        """Whether every element is within its bound."""
        return self.n_wrong == 0


@dataclass(frozen=True, slots=True)
class _RowErrors:
    """Errors of some output rows.

    used, column: the largest error over its bound and where it is, per row. squares, energy [rows, tiles]: squared
    errors and results of each tile.
    """

    used: NDArray[np.float64]
    column: NDArray[np.int64]
    squares: NDArray[np.float64]
    energy: NDArray[np.float64]
    n_wrong: int
    max_abs: float
    max_rel: float


def judge(
    output: NDArray[np.float32],
    reference: Reference,
    descriptor: Descriptor,
    guarantee: PrecisionGuarantee,
    sorted_token_ids: NDArray[np.int32],
    expert_offsets: NDArray[np.int32],
) -> Verdict:
    """Judge output [output rows, n_rows_per_expert], widened to f32, against the reference with the plan's bound."""
    if output.size == 0:
        return Verdict(0.0, 0, None, 0.0, None, 0.0, None, 0.0, 0.0)
    step = max(1, _BLOCK_ELEMENTS // output.shape[1])
    blocks = [
        _row_errors(
            output[begin : begin + step].astype(np.float64),
            reference.values[begin : begin + step],
            reference.magnitude[begin : begin + step],
            descriptor.dtype,
            guarantee.error_constant,
        )
        for begin in range(0, len(output), step)
    ]
    used = np.concatenate([block.used for block in blocks])
    squares, energy = (np.concatenate([getattr(block, name) for block in blocks]) for name in ("squares", "energy"))
    worst, column = int(used.argmax()), np.concatenate([block.column for block in blocks])
    row_nmse = _ratio(squares.sum(axis=1), energy.sum(axis=1))
    worst_row = int(row_nmse.argmax())
    return Verdict(
        bound_used=float(used[worst]),
        n_wrong=sum(block.n_wrong for block in blocks),
        worst_index=(worst, int(column[worst])),
        nmse=float(_ratio(squares.sum(), energy.sum())),
        worst_row=worst_row,
        worst_row_nmse=float(row_nmse[worst_row]),
        worst_tile=_worst_tile(squares, energy, descriptor, sorted_token_ids, expert_offsets),
        max_abs=max(block.max_abs for block in blocks),
        max_rel=max(block.max_rel for block in blocks),
    )


def _row_errors(
    y: NDArray[np.float64], ref: NDArray[np.float64], magnitude: NDArray[np.float64], dtype: Dtype, c: float
) -> _RowErrors:
    used = _bound_used(y, ref, magnitude, dtype, c)
    error = _error(y, ref, used)
    with np.errstate(over="ignore"):
        squares, energy = error * error, np.where(np.isfinite(ref), ref * ref, 0.0)
    column = used.argmax(axis=1)
    starts = np.arange(0, ref.shape[1], TILE_ROWS)
    return _RowErrors(
        used=used[np.arange(len(used)), column],
        column=column,
        squares=np.add.reduceat(squares, starts, axis=1),
        energy=np.add.reduceat(energy, starts, axis=1),
        n_wrong=int(np.count_nonzero(~(used <= 1.0))),
        max_abs=float(np.abs(error).max()),
        max_rel=_max_relative(error, ref),
    )


def _bound_used(
    y: NDArray[np.float64], ref: NDArray[np.float64], magnitude: NDArray[np.float64], dtype: Dtype, c: float
) -> NDArray[np.float64]:
    """Error over bound per element; inf where the kind of value (finite, infinite, NaN) is wrong."""
    with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
        bound = dtype.unit_roundoff * np.abs(ref) + c * 2.0**-24 * magnitude + 0.5 * _SMALLEST_SUBNORMAL[dtype]
        used = np.abs(y - ref) / bound
        # Beyond the largest finite value, less what the bound leaves open, an infinite result is the right rounding.
        overflows = np.isfinite(ref) & (np.abs(ref) + bound >= _MAX_FINITE[dtype])
        right_infinity = overflows & np.isinf(y) & (np.sign(y) == np.sign(ref))
    expected_nonfinite = ~np.isfinite(ref)
    used = np.where(expected_nonfinite, np.where(np.isfinite(y), np.inf, 0.0), used)
    used = np.where(~expected_nonfinite & ~np.isfinite(y) & ~right_infinity, np.inf, used)
    return np.where(right_infinity, 0.0, used)


def _error(y: NDArray[np.float64], ref: NDArray[np.float64], used: NDArray[np.float64]) -> NDArray[np.float64]:
    """y - ref where both are finite; 0 for a right non-finite value, inf for a wrong one."""
    with np.errstate(invalid="ignore", over="ignore"):
        return np.where(np.isfinite(y) & np.isfinite(ref), y - ref, np.where(used <= 1.0, 0.0, np.inf))


def _ratio(numerator: NDArray[np.float64], denominator: NDArray[np.float64]) -> NDArray[np.float64]:
    """Error energy over signal energy; 0 for no error, inf for an error where the exact result is zero."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(numerator == 0, 0.0, numerator / denominator)


def _worst_tile(
    squares: NDArray[np.float64],
    energy: NDArray[np.float64],
    d: Descriptor,
    token_ids: NDArray[np.int32],
    offsets: NDArray[np.int32],
) -> WorstTile | None:
    """Sum the error energy [output rows, tiles] by expert; a token's row counts for each of its experts."""
    if d.m_total == 0:
        return None
    targets = token_ids if d.output_rows is Rows.TOKEN else np.arange(d.m_total)
    experts = np.repeat(np.arange(d.n_experts), np.diff(offsets))
    shape = (d.n_experts, squares.shape[1])
    expert_squares, expert_energy = np.zeros(shape), np.zeros(shape)
    np.add.at(expert_squares, experts, squares[targets])
    np.add.at(expert_energy, experts, energy[targets])
    nmse = _ratio(expert_squares, expert_energy)
    expert, tile = np.unravel_index(int(nmse.argmax()), shape)
    return WorstTile(int(expert), int(tile) * TILE_ROWS, float(nmse[expert, tile]))


def _max_relative(error: NDArray[np.float64], ref: NDArray[np.float64]) -> float:
    finite = np.where(np.isfinite(ref), ref, 0.0)
    rms = np.sqrt(np.mean(finite * finite, axis=1, keepdims=True))
    relevant = np.abs(finite) > _RELATIVE_FLOOR * rms
    if not relevant.any():
        return 0.0
    with np.errstate(divide="ignore", invalid="ignore"):
        relative = np.where(relevant, np.abs(error) / np.abs(finite), 0.0)
    return float(relative.max()) if math.isfinite(float(relative.max())) else math.inf
