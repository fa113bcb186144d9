"""A small problem on a GPU, its arguments, and what its result must be."""

from __future__ import annotations

import numpy as np

from mmvq_cli.engine.elements import narrow, widen
from mmvq_cli.model.synthetic import random_blocks
from mmvq_cli.op import FORMATS, Args, Descriptor, Dtype, Rows

N_EXPERTS, N_TOKENS, TOP_K = 6, 9, 3


def descriptor(name, dtype=Dtype.F32, output_rows=Rows.TOKEN, n_cols=0):
    """Rows of `n_cols` weights; of 37, or of three blocks, where it is 0."""
    format = FORMATS[name]
    return Descriptor(
        n_experts=N_EXPERTS,
        n_rows_per_expert=50,
        n_cols=n_cols or (37 if format.is_float else 3 * format.block_size),
        m_total=N_TOKENS * TOP_K,
        m_tokens=N_TOKENS,
        top_k=TOP_K,
        format=format,
        dtype=dtype,
        output_rows=output_rows,
    )


def arguments(cuda, d, routing):
    """Random inputs for the routing, the output full of NaN."""
    rng = np.random.default_rng(3)
    dispatch = routing.dispatch()
    nan = np.full((d.output_row_count, d.n_rows_per_expert), np.nan, np.float32)
    return Args(
        weights=cuda.upload(random_blocks(d.format, d.weight_bytes // d.format.type_size, rng).reshape(-1)),
        activations=cuda.upload(narrow(rng.standard_normal((d.m_tokens, d.n_cols), dtype=np.float32), d.dtype)),
        sorted_token_ids=cuda.upload(dispatch.sorted_token_ids),
        expert_offsets=cuda.upload(dispatch.expert_offsets),
        topk_weights=cuda.upload(dispatch.topk_weights),
        output=cuda.upload(narrow(nan, d.dtype)),
    )


def result(cuda, plan, args):
    plan.run(args, cuda.xp.empty(max(1, plan.workspace_size()), np.uint8))
    cuda.synchronize()
    return cuda.download(args.output)


def assert_right(cuda, plan, args, output):
    d, reference = plan.descriptor, cuda.reference(plan.descriptor, args)
    error = np.abs(widen(output, d.dtype).astype(np.float64) - reference.values)
    c = plan.precision_guarantee.error_constant
    bound = d.dtype.unit_roundoff * np.abs(reference.values) + c * 2.0**-24 * reference.magnitude
    assert (error <= bound).all()
