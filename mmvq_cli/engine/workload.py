"""The arrays of one problem on a device: weights (one or more copies) and seeded draws of activations and routing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmvq_cli.engine.base import Engine
from mmvq_cli.engine.elements import narrow
from mmvq_cli.op import Args, Descriptor, Dtype, Plan, Rows
from mmvq_cli.routing import Dispatch

_OUTLIER_SHARE = 0.001
_OUTLIER_SIGMA = 50.0


@dataclass(frozen=True, slots=True)
class Draw:
    """One routing with its activations; `dispatch` on the host, the rest on the device."""

    dispatch: Dispatch
    activations: Any
    sorted_token_ids: Any
    expert_offsets: Any
    topk_weights: Any

    @property
    def touched_experts(self) -> NDArray[np.intp]:
        """Experts with at least one dispatch, ascending."""
        return np.flatnonzero(np.diff(self.dispatch.expert_offsets))


@dataclass(slots=True)
class Workload:
    """Weights u8 [bytes], in as many copies as cold rotation needs, and the draws that share them."""

    descriptor: Descriptor
    weights: list[Any]
    draws: tuple[Draw, ...]

    def descriptor_of(self, draw: Draw) -> Descriptor:
        """The problem with this draw's number of dispatches."""
        return self.descriptor.with_dispatches(draw.dispatch.m_total)

    def args(self, draw: Draw, output: Any, copy: int = 0) -> Args:
        """The arguments of one run."""
        return Args(
            weights=self.weights[copy],
            activations=draw.activations,
            sorted_token_ids=draw.sorted_token_ids,
            expert_offsets=draw.expert_offsets,
            topk_weights=draw.topk_weights,
            output=output,
        )

    def unique_bytes(self, draw: Draw) -> int:
        """Packed bytes of the experts that a draw touches, each once."""
        return len(draw.touched_experts) * self.descriptor.expert_bytes


def random_activations(n_rows: int, n_cols: int, dtype: Dtype, key: Sequence[int]) -> NDArray[Any]:
    """Gaussian activations [n_rows, n_cols] in storage form, 0.1 % of them outliers of 50 sigma, as MoE layers have."""
    rng = np.random.default_rng(list(key))
    values = rng.standard_normal((n_rows, n_cols), dtype=np.float32)
    values[rng.random(values.shape, dtype=np.float32) < _OUTLIER_SHARE] *= _OUTLIER_SIGMA
    return narrow(values, dtype)


def upload_draw(engine: Engine, dispatch: Dispatch, activations: NDArray[Any], weighted: bool) -> Draw:
    """Copy a sorted routing and its activations, in storage form, to the device."""
    return Draw(
        dispatch=dispatch,
        activations=engine.upload(activations),
        sorted_token_ids=engine.upload(dispatch.sorted_token_ids),
        expert_offsets=engine.upload(dispatch.expert_offsets),
        topk_weights=engine.upload(dispatch.topk_weights) if weighted else None,
    )


def token_alone(engine: Engine, workload: Workload, draw: Draw, token: int) -> tuple[Descriptor, Draw]:
    """The same problem with one token only: its dispatches in the same order, its activations, its weights."""
    d = workload.descriptor
    positions = np.flatnonzero(draw.dispatch.sorted_token_ids == token)
    experts = np.searchsorted(draw.dispatch.expert_offsets, positions, side="right") - 1
    offsets = np.zeros(d.n_experts + 1, np.int32)
    np.cumsum(np.bincount(experts, minlength=d.n_experts), out=offsets[1:])
    weights = None if draw.topk_weights is None else draw.dispatch.topk_weights[positions]
    dispatch = Dispatch(np.zeros(len(positions), np.int32), offsets, draw.dispatch.topk_weights[positions])
    rows = [token] if d.activation_rows is Rows.TOKEN else positions
    alone = Draw(
        dispatch=dispatch,
        activations=engine.upload(engine.download(draw.activations)[rows]),
        sorted_token_ids=engine.upload(dispatch.sorted_token_ids),
        expert_offsets=engine.upload(offsets),
        topk_weights=None if weights is None else engine.upload(weights),
    )
    single = Descriptor(
        n_experts=d.n_experts,
        n_rows_per_expert=d.n_rows_per_expert,
        n_cols=d.n_cols,
        m_total=len(positions),
        m_tokens=1,
        top_k=d.top_k,
        format=d.format,
        dtype=d.dtype,
        activation_rows=d.activation_rows,
        output_rows=d.output_rows,
    )
    return single, alone


def problem_bytes(plan: Plan, n_draws: int) -> int:
    """Device bytes that a checked case needs: weights, draws, output, workspace and the float64 answer."""
    d = plan.descriptor
    activations = d.activation_row_count * d.n_cols * d.dtype.itemsize
    routing = 4 * (2 * d.m_total + d.n_experts + 1)
    output = d.output_row_count * d.n_rows_per_expert * d.dtype.itemsize
    answer = 2 * 8 * d.m_total * d.n_rows_per_expert
    return d.weight_bytes + n_draws * (activations + routing) + 2 * output + plan.workspace_size() + answer
