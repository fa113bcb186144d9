"""Crowds of dispatches: rows and activations stream side by side."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from mmvq_cli.edges.routings import edge_routing
from mmvq_cli.engine.cuda import CudaEngine
from mmvq_cli.engine.discovery import cuda_available
from mmvq_cli.op import Dtype, Plan, Preference, Rows
from mmvq_cli.op.wide import wide_shape
from tests.gpu.problems import arguments, assert_right, descriptor, result

USABLE, REASON = cuda_available()
pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not USABLE, reason=REASON)]


@pytest.mark.parametrize("output_rows", Rows)
@pytest.mark.parametrize("m_tokens", [17, 40, 150])
@pytest.mark.parametrize(
    ("name", "dtype", "n_cols"),
    [
        ("Q4_K", Dtype.F16, 4096),
        ("Q6_K", Dtype.BF16, 7168),
        ("Q4_1", Dtype.F16, 2048),
        ("F32", Dtype.F16, 4096),
        ("Q5_0", Dtype.F16, 2880),
        ("MXFP4", Dtype.F32, 2880),
        ("IQ2_XXS", Dtype.F16, 2048),
        ("F16", Dtype.F16, 2056),
    ],
)
def test_a_crowd_is_right_whoever_comes_first(name, dtype, n_cols, m_tokens, output_rows):
    cuda = CudaEngine(0)
    sizes = {"n_experts": 2, "top_k": 2, "m_tokens": m_tokens, "m_total": 2 * m_tokens, "n_rows_per_expert": 304}
    d = replace(descriptor(name, dtype, output_rows, n_cols=n_cols), **sizes)
    plan = Plan.select(d, cuda.device, Preference.AUTO)
    assert (plan.rule == "wide") == (wide_shape(d, cuda.device) is not None)  # on sm_90
    args = arguments(cuda, d, edge_routing("uniform", 2, 2, m_tokens, 0))
    outputs = [result(cuda, plan, args) for _ in range(3)]
    assert_right(cuda, plan, args, outputs[0])
    for output in outputs[1:]:
        np.testing.assert_array_equal(output.view(np.uint8), outputs[0].view(np.uint8))
