"""The GPU's oracle against ggml's C code and against the CPU's oracle, adversarial values included."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest

from mmvq_cli.edges import matrix_suite
from mmvq_cli.engine.cpu import CpuEngine
from mmvq_cli.engine.cuda import CudaEngine
from mmvq_cli.engine.discovery import cuda_available
from mmvq_cli.engine.elements import storage_dtype
from mmvq_cli.engine.workload import Workload, upload_draw
from mmvq_cli.op import FORMATS, Args, Dtype

USABLE, REASON = cuda_available()
pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not USABLE, reason=REASON)]

ZOO = Path(__file__).parents[1] / "data" / "models" / "format-zoo.npz"
QUANTIZED = [name for name in FORMATS if not FORMATS[name].is_float and name != "Q8_K"]
EDGES = ("no-dispatch", "no-columns", "nonfinite", "large", "subnormal", "special-scales", "zero-weights")


@pytest.fixture(scope="module")
def cuda():
    return CudaEngine(0)


def test_the_zoo_has_what_ggml_can_dequantize():
    with np.load(ZOO) as zoo:
        assert {f"{name}.f32" for name in QUANTIZED} <= set(zoo)
    assert len(QUANTIZED) == 23


@pytest.mark.parametrize("name", QUANTIZED)
def test_dequantizing_is_bit_equal_to_ggmls_c_code(cuda, name):
    with np.load(ZOO) as zoo:
        blocks, expected = zoo[f"{name}.blocks"], zoo[f"{name}.f32"]
    weights = cuda.dequantize(FORMATS[name], cuda.upload(blocks.reshape(-1)), expected.shape[-1])
    np.testing.assert_array_equal(weights.view(np.uint32), expected.reshape(weights.shape).view(np.uint32))


def problem(engine, case):
    """The case's descriptor and arguments on the engine."""
    d = case.descriptor
    own = case.own_weights()
    weights = engine.synthesize(d.format, d.weight_bytes, case.seed) if own is None else engine.upload(own)
    draw = upload_draw(engine, case.draw_routing(0).dispatch(), case.draw_activations(0), case.is_weighted)
    output = engine.upload(np.zeros((d.output_row_count, d.n_rows_per_expert), storage_dtype(d.dtype)))
    return d, Workload(d, [weights], (draw,)).args(draw, output)


@pytest.mark.parametrize("dtype", Dtype)
@pytest.mark.parametrize("name", FORMATS)
def test_both_references_are_the_same(cuda, name, dtype):
    cpu = CpuEngine()
    for case in matrix_suite("quick", (name,), (dtype,)).cases:
        if case.edge.name not in EDGES:
            continue
        d, args = problem(cuda, case)
        host = Args(
            **{
                field.name: None if (array := getattr(args, field.name)) is None else cuda.download(array)
                for field in fields(Args)
            }
        )
        gpu, expected = cuda.reference(d, args), cpu.reference(d, host)
        finite = np.isfinite(expected.values)
        assert (np.isfinite(gpu.values) == finite).all(), case.id
        error = np.abs(gpu.values - expected.values)[finite]
        assert (error <= 1e-13 * expected.magnitude[finite]).all(), case.id
        np.testing.assert_allclose(gpu.magnitude[finite], expected.magnitude[finite], rtol=1e-12, err_msg=case.id)
