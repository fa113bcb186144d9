"""Problems and arrays that are valid by default; a test breaks what it is about."""

import numpy as np

from mmvq_cli.engine.elements import narrow
from mmvq_cli.model.synthetic import random_blocks
from mmvq_cli.op import FORMATS, Args, Descriptor, Dtype, Rows, find_device
from mmvq_cli.routing import Routing


def make_descriptor(**changes):
    values = {
        "n_experts": 3,
        "n_rows_per_expert": 5,
        "n_cols": 64,
        "m_total": 8,
        "m_tokens": 4,
        "top_k": 2,
        "format": FORMATS["Q8_0"],
    }
    return Descriptor(**(values | changes))


H200 = find_device("H200")
_STREAMED = {"n_experts": 128, "n_rows_per_expert": 768, "n_cols": 2048, "m_total": 64, "m_tokens": 8, "top_k": 8}


def problem(**changes):
    """A problem of ordinary size, Qwen3-30B's gate with 8 tokens."""
    return make_descriptor(**(_STREAMED | {"format": FORMATS["Q4_K"], "dtype": Dtype.F16} | changes))


def make_routing(d, seed=0):
    """Any experts, also repeated within a token; as many -1 slots as m_total leaves open."""
    rng = np.random.default_rng(seed)
    ids = rng.integers(0, d.n_experts, (d.m_tokens, d.top_k)).astype(np.int32)
    gaps = rng.permutation(ids.size)[: ids.size - d.m_total]
    ids.reshape(-1)[gaps] = -1
    weights = rng.standard_normal(ids.shape, dtype=np.float32)
    return Routing(ids, weights, d.n_experts, "test", seed)


def make_args(d, routing=None, weighted=False, seed=0, **changes):
    """NumPy arrays of the problem, with activations of sigma 1 and random valid blocks."""
    rng = np.random.default_rng([seed, 1])
    dispatch = (routing or make_routing(d, seed)).dispatch()
    n_blocks = d.weight_bytes // d.format.type_size
    values = rng.standard_normal((d.activation_row_count, d.n_cols), dtype=np.float32)
    output = np.zeros((d.output_row_count, d.n_rows_per_expert), np.float32)
    arrays = {
        "weights": random_blocks(d.format, n_blocks, rng).reshape(-1),
        "activations": narrow(values, d.dtype),
        "sorted_token_ids": dispatch.sorted_token_ids,
        "expert_offsets": dispatch.expert_offsets,
        "topk_weights": dispatch.topk_weights if weighted else None,
        "output": narrow(output, d.dtype),
    }
    return Args(**(arrays | changes))


def dense_product(d, args, weights):
    """The operation, written as in the contract: float64 loops over dispatches; weights [experts, rows, cols]."""
    from mmvq_cli.engine.elements import widen

    x = widen(np.asarray(args.activations), d.dtype).astype(np.float64)
    values = np.zeros((d.output_row_count, d.n_rows_per_expert))
    magnitude = np.zeros_like(values)
    for i in range(d.m_total):
        token = args.sorted_token_ids[i]
        expert = max(e for e in range(d.n_experts) if args.expert_offsets[e] <= i)
        w = 1.0 if args.topk_weights is None else float(args.topk_weights[i])
        row = x[token if d.activation_rows is Rows.TOKEN else i]
        target = token if d.output_rows is Rows.TOKEN else i
        for r in range(d.n_rows_per_expert):
            terms = weights[expert, r].astype(np.float64) * row
            values[target, r] += w * terms.sum()
            magnitude[target, r] += abs(w) * np.abs(terms).sum()
    return values, magnitude
