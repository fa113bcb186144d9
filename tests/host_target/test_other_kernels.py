"""The kernels that no plan launches: decoding, the oracle, routing checks, fills and the canary's read, on the host."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest

from mmvq_cli.engine.cpu.dequantize import oracle_dequantizer
from mmvq_cli.engine.cpu.product import HostArgs
from mmvq_cli.engine.cpu.reference import exact_product
from mmvq_cli.engine.cuda.source import format_defines
from mmvq_cli.engine.elements import narrow
from mmvq_cli.model.synthetic import random_blocks
from mmvq_cli.op import FORMATS, Dtype, Rows
from mmvq_cli.op.launches import format_defines as product_defines
from mmvq_cli.op.problem import Problem
from tests.host_target.driver import Array, HostLaunch, find_compiler, kernel_library, pointer_to, run_job
from tests.op.problems import make_args, make_descriptor

pytestmark = pytest.mark.skipif(bool(find_compiler().missing), reason=find_compiler().missing)


def launch(source, entry, defines, arrays, arguments, n_blocks=3, n_threads=64):
    """Run one kernel; arrays with bytes become arguments in the order given, numbers stay. Returns the written ones."""
    compiled = kernel_library(source, defines)
    return run_job(arrays, [HostLaunch(compiled, entry, n_blocks, n_threads, tuple(arguments))], 3, 20)


def array(name, data, writes=False):
    return Array(name, data, data.nbytes, writes)


def address(index):
    return ctypes.c_void_p(pointer_to(index))


@pytest.mark.parametrize("name", FORMATS)
def test_dequantize(name):
    format = FORMATS[name]
    n_rows, n_cols = 3, 37 if format.is_float else 2 * format.block_size
    packed = random_blocks(format, n_rows * n_cols // format.block_size, np.random.default_rng(format.id))
    expected, out = np.empty((n_rows, n_cols), np.float32), np.full((n_rows, n_cols), np.nan, np.float32)
    oracle_dequantizer().decode(format, packed.reshape(n_rows, -1), expected)
    arguments = (address(0), address(1), ctypes.c_int64(n_rows), ctypes.c_int32(n_cols))
    arrays = [array("weights", packed), array("out", out, writes=True)]
    found = launch("dequantize.cu", "dequantize", format_defines(format), arrays, arguments)[0]
    assert found == expected.tobytes()


@pytest.mark.parametrize("dtype", Dtype)
@pytest.mark.parametrize("name", ["Q4_K", "MXFP4", "F32"])
def test_oracle(name, dtype):
    d = make_descriptor(format=FORMATS[name], n_cols=512, dtype=dtype, output_rows=Rows.DISPATCH)
    args = make_args(d)
    parts = (args.weights, args.activations, args.sorted_token_ids, args.expert_offsets)
    names = ("weights", "activations", "sorted_token_ids", "expert_offsets")
    sizes = {field: getattr(d, field) for field in ("n_experts", "n_rows_per_expert", "n_cols", "m_total", "m_tokens")}
    problem = Problem(**{field: pointer_to(i) for i, field in enumerate(names)}, **sizes, top_k=d.top_k)
    out = np.full((d.m_total, d.n_rows_per_expert), np.nan)
    arrays = [array(field, part) for field, part in zip(names, parts, strict=True)]
    arrays += [array("values", out, writes=True), array("magnitudes", out, writes=True)]
    found = launch(
        "oracle.cu", "oracle_dispatches", dict(product_defines(d)), arrays, (problem, address(4), address(5))
    )
    expected = exact_product(d, HostArgs(*parts, None, narrow(out.astype(np.float32), dtype)))
    for bits, reference in zip(found, (expected.values, expected.magnitude), strict=True):
        np.testing.assert_allclose(np.frombuffer(bits).reshape(out.shape), reference, rtol=1e-12, atol=1e-12)


# Token ids, offsets, and the report: rule, position, value.
RULES = {
    "legal": ([0, 1, 2], [0, 2, 3], [0, 0, 0]),
    "token outside": ([0, 3, 2], [0, 2, 3], [1, 1, 3]),
    "negative token": ([0, -1, 2], [0, 2, 3], [1, 1, -1]),
    "offsets fall": ([0, 1, 2], [0, 4, 3], [2, 2, 3]),
    "first offset": ([0, 1, 2], [1, 2, 3], [3, 0, 1]),
    "last offset": ([0, 1, 2], [0, 2, 2], [4, 2, 2]),
    "too many of a token": ([1, 1, 2], [0, 2, 3], [5, 1, 2]),
}


@pytest.mark.parametrize("name", RULES)
def test_validate_routing(name):
    ids, offsets, expected = RULES[name]
    arrays = [
        array("sorted_token_ids", np.array(ids, np.int32)),
        array("expert_offsets", np.array(offsets, np.int32)),
        array("token_counts", np.zeros(3, np.int32), writes=True),
        array("report", np.zeros(3, np.int32), writes=True),
    ]
    pointers = {"sorted_token_ids": pointer_to(0), "expert_offsets": pointer_to(1), "token_counts": pointer_to(2)}
    problem = Problem(**pointers, n_experts=2, m_total=3, m_tokens=3, top_k=1)
    report = launch("validate.cu", "validate_routing", {}, arrays, (problem, address(3)))[1]
    assert np.frombuffer(report, np.int32).tolist() == expected


def test_fill():
    pool = np.arange(5 * 18, dtype=np.uint8).reshape(5, 18)
    arrays = [array("out", np.zeros(50 * 18, np.uint8), writes=True), array("pool", pool)]
    numbers = (ctypes.c_int64(50), ctypes.c_int32(5), ctypes.c_int32(18), ctypes.c_uint64(7))
    filled = launch("fill.cu", "fill_blocks", {}, arrays, (address(0), address(1), *numbers))[0]
    blocks = np.frombuffer(filled, np.uint8).reshape(50, 18)
    assert {tuple(block) for block in blocks} == {tuple(block) for block in pool}


def test_canary():
    n_vectors = 1401  # two rounds of four loads of 192 threads, the second for some, and a tail
    data = np.random.default_rng(0).integers(0, 2**32, 4 * n_vectors, dtype=np.uint32)
    arrays = [array("data", data), array("sum", np.zeros(1, np.uint64), writes=True)]
    total = launch("canary.cu", "canary_read", {}, arrays, (address(0), ctypes.c_int64(n_vectors), address(1)))[0]
    assert np.frombuffer(total, np.uint64)[0] == data.sum(dtype=np.uint64)
