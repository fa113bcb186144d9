"""What GPUs before sm_90 run: compiled for them as PTX, which the driver compiles for the GPU that is here."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from mmvq_cli.edges.routings import edge_routing
from mmvq_cli.engine.cuda import CudaEngine, launch
from mmvq_cli.engine.cuda.build import OPTIONS, cached_compile
from mmvq_cli.engine.discovery import cuda_available
from mmvq_cli.op import Dtype, Plan, Preference
from tests.gpu.problems import N_EXPERTS, N_TOKENS, TOP_K, arguments, assert_right, descriptor, result

USABLE, REASON = cuda_available()
pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not USABLE, reason=REASON)]

OLD = (8, 0)


def ptx_of(source, name):
    """The intermediate code for the old architecture, as NVRTC writes it."""
    from cupy_backends.cuda.libs import nvrtc

    program = nvrtc.createProgram(source.text, name, (), ())
    options = tuple(option for option in OPTIONS if "ptxas" not in option)
    nvrtc.compileProgram(program, ("--gpu-architecture=compute_80", *options))
    return nvrtc.getPTX(program)


@pytest.fixture
def cuda(monkeypatch):
    engine = CudaEngine(0)

    def load_module(source, name, device_index):
        module = engine.xp.cuda.function.Module()
        module.load(ptx_of(source, name))
        return cached_compile(source, name, "sm_80"), module

    monkeypatch.setattr(launch, "_load_module", load_module)
    launch._load.cache_clear()
    yield engine
    launch._load.cache_clear()


@pytest.mark.parametrize("n_cols", [768, 3840, 7168])
@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        ("Q4_K", Dtype.F16),
        ("Q5_0", Dtype.F16),
        ("Q6_K", Dtype.BF16),
        ("MXFP4", Dtype.BF16),
        ("IQ1_S", Dtype.F32),
        ("IQ2_XXS", Dtype.F16),
        ("F16", Dtype.F16),
        ("BF16", Dtype.F32),
    ],
)
def test_rows_that_are_copied_by_lines(cuda, name, dtype, n_cols):
    d = descriptor(name, dtype, n_cols=n_cols)
    args = arguments(cuda, d, edge_routing("uniform", N_EXPERTS, TOP_K, N_TOKENS, 0))
    plan = Plan.select(d, replace(cuda.device, compute_capability=OLD), Preference.FASTEST)
    assert any(("MMVQ_BULK_COPIES", 0) in step.defines for step in plan.launches)
    outputs = [result(cuda, plan, args) for _ in range(3)]
    assert_right(cuda, plan, args, outputs[0])
    for output in outputs[1:]:
        np.testing.assert_array_equal(output.view(np.uint8), outputs[0].view(np.uint8))
