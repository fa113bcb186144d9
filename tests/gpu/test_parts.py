"""Long rows in parts: each launch adds to what the ones before it left in the workspace."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from mmvq_cli.edges.routings import edge_routing
from mmvq_cli.engine.cuda import CudaEngine
from mmvq_cli.engine.discovery import cuda_available
from mmvq_cli.op import Dtype, Plan, Preference, Rows
from tests.gpu.problems import arguments, assert_right, descriptor, result

USABLE, REASON = cuda_available()
pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not USABLE, reason=REASON)]


@pytest.mark.parametrize("output_rows", Rows)
@pytest.mark.parametrize(
    ("name", "dtype", "n_cols"),
    [
        ("Q4_K", Dtype.F16, 14336),
        ("Q6_K", Dtype.BF16, 14336),
        ("Q5_0", Dtype.F16, 14304),
        ("MXFP4", Dtype.F32, 14336),
        ("IQ2_XXS", Dtype.F16, 14336),
    ],
)
def test_parts_are_summed_up(name, dtype, n_cols, output_rows):
    cuda = CudaEngine(0)
    sizes = {"n_experts": 2, "top_k": 2, "m_tokens": 17, "m_total": 34}
    d = replace(descriptor(name, dtype, output_rows, n_cols=n_cols), **sizes)
    plan = Plan.select(d, cuda.device, Preference.FASTEST)
    if cuda.device.has_bulk_copies:
        assert plan.rule == "stream_parts"
    args = arguments(cuda, d, edge_routing("uniform", 2, 2, 17, 0))
    outputs = [result(cuda, plan, args) for _ in range(3)]
    assert_right(cuda, plan, args, outputs[0])
    for output in outputs[1:]:
        np.testing.assert_array_equal(output.view(np.uint8), outputs[0].view(np.uint8))
