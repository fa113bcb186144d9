"""The engine's host side, with kernels played by NumPy: chunks, sums, pools, staging, too little memory."""

from __future__ import annotations

import ctypes
from dataclasses import replace

import numpy as np
import pytest

from mmvq_cli.engine.cuda import CudaEngine, memory, oracle
from mmvq_cli.errors import InvalidProblem, LaunchError, OpenError, OutOfMemory
from mmvq_cli.op import FORMATS, Args, Descriptor, Rows
from mmvq_cli.op.problem import Problem
from tests.engine.cuda.fake_cuda import GIB, on_device

MIB = 2**20


def host(address, shape, dtype):
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    return np.frombuffer((ctypes.c_uint8 * size).from_address(address), dtype).reshape(shape)


def value(parameters, index, kind):
    return kind.from_address(parameters[index]).value


def problem_of(parameters) -> Problem:
    return Problem.from_buffer_copy(ctypes.string_at(parameters[0], ctypes.sizeof(Problem)))


@pytest.fixture
def engine(cuda, monkeypatch):
    monkeypatch.setattr("mmvq_cli.engine.cuda.device.known_devices", dict)
    return CudaEngine(0)


# --- experts


class Tensor:
    """An expert tensor of which every byte is known, on no disk."""

    def __init__(self, n_experts, expert_bytes):
        self.expert_bytes = expert_bytes
        self.bytes = np.random.default_rng(1).integers(0, 256, n_experts * expert_bytes, np.uint8)
        self.n_bytes = self.bytes.size
        self.reads = []

    def read_into(self, offset, buffer):
        self.reads.append((offset, len(buffer)))
        buffer[:] = self.bytes[offset : offset + len(buffer)].data


def test_named_experts_arrive_in_place_and_only_they_are_read(engine, monkeypatch):
    monkeypatch.setattr(memory, "_HALF_BYTES", 1000)
    tensor = Tensor(n_experts=9, expert_bytes=700)
    weights = engine.load_experts(tensor, [7, 2, 3, 4, 3])
    assert weights.shape == (9 * 700,)
    for expert in (2, 3, 4, 7):
        np.testing.assert_array_equal(weights.reshape(9, 700)[expert], tensor.bytes.reshape(9, 700)[expert])
    assert sum(n for _, n in tensor.reads) == 4 * 700
    assert max(n for _, n in tensor.reads) <= 1000


def test_a_read_error_comes_through(engine):
    class Shrunk(Tensor):
        def read_into(self, offset, buffer):
            raise OpenError("the file shrank")

    with pytest.raises(OpenError):
        engine.load_experts(Shrunk(2, 64), [0])


def test_no_experts_are_no_reads(engine):
    tensor = Tensor(2, 64)
    engine.load_experts(tensor, [])
    assert tensor.reads == []


def test_too_little_memory_is_said_before_anything_is_read(engine, cuda):
    tensor = Tensor(2, 64)
    tensor.n_bytes = 50 * GIB
    cuda.free = 20 * GIB
    with pytest.raises(OutOfMemory, match=r"needs 50.00 GiB of device memory, 19.75 GiB are free") as caught:
        engine.load_experts(tensor, [0])
    assert caught.value.needed_bytes == 50 * GIB
    assert caught.value.free_bytes == 20 * GIB - memory.MARGIN_BYTES == engine.free_bytes()
    assert tensor.reads == []
    assert "free_all_blocks" in cuda.events  # not without giving back first what the pool keeps


def test_the_margin_stays_free(engine, cuda):
    cuda.free = MIB + memory.MARGIN_BYTES
    assert memory.allocate(MIB, 0).size == MIB
    with pytest.raises(OutOfMemory):
        memory.allocate(MIB + 1, 0)


# --- synthetic weights


def fill_blocks(parameters):
    """Pool block = seed + index, modulo: the real hash is tested where there is a GPU."""
    n_blocks, n_pool = value(parameters, 2, ctypes.c_int64), value(parameters, 3, ctypes.c_int32)
    type_size, seed = value(parameters, 4, ctypes.c_int32), value(parameters, 5, ctypes.c_uint64)
    out = host(value(parameters, 0, ctypes.c_uint64), (n_blocks, type_size), np.uint8)
    pool = host(value(parameters, 1, ctypes.c_uint64), (n_pool, type_size), np.uint8)
    out[...] = pool[(np.arange(n_blocks) + seed) % n_pool]


@pytest.mark.parametrize("name", ["Q4_0", "Q6_K", "F32"])
def test_synthetic_weights_are_valid_and_a_function_of_the_seed(engine, cuda, name):
    from gguf.quants import dequantize

    cuda.kernels["fill_blocks"] = fill_blocks
    format = FORMATS[name]
    n_bytes = 1000 * format.type_size
    first = engine.synthesize(format, n_bytes, seed=5)
    assert first.dtype == np.uint8
    assert first.nbytes == n_bytes
    assert np.isfinite(dequantize(np.array(first).reshape(1000, -1), format.type)).all()
    np.testing.assert_array_equal(first, engine.synthesize(format, n_bytes, seed=5))
    assert (first != engine.synthesize(format, n_bytes, seed=6)).any()


def test_the_pool_is_bounded(engine, cuda):
    sizes = []
    cuda.kernels["fill_blocks"] = lambda parameters: sizes.append(value(parameters, 3, ctypes.c_int32))
    engine.synthesize(FORMATS["Q4_0"], 18 * MIB, seed=0)
    assert sizes == [4 * MIB // 18]


# --- the oracle


def oracle_dispatches(parameters):
    """F32 weights and activations, one dispatch after the other."""
    p = problem_of(parameters)
    weights = host(p.weights, (p.n_experts, p.n_rows_per_expert, p.n_cols), np.float32).astype(np.float64)
    ids = host(p.sorted_token_ids, (p.m_total,), np.int32)
    offsets = host(p.expert_offsets, (p.n_experts + 1,), np.int32)
    n_x = p.m_total if p.activation_rows_are_dispatches else p.m_tokens
    x = host(p.activations, (n_x, p.n_cols), np.float32).astype(np.float64)
    values = host(value(parameters, 1, ctypes.c_uint64), (p.m_total, p.n_rows_per_expert), np.float64)
    magnitudes = host(value(parameters, 2, ctypes.c_uint64), values.shape, np.float64)
    for expert in range(p.n_experts):
        for i in range(offsets[expert], offsets[expert + 1]):
            products = weights[expert] * x[i if p.activation_rows_are_dispatches else ids[i]]
            values[i], magnitudes[i] = products.sum(axis=1), np.abs(products).sum(axis=1)


def make_case(activation_rows, output_rows, with_weights=True):
    rng = np.random.default_rng(3)
    ids = np.array([0, 3, 3, 1, 0, 3, 1], np.int32)  # experts 0, 0, 0, 2, 2, 3, 3: token 3 twice at expert 0
    offsets = np.array([0, 3, 3, 5, 7], np.int32)
    d = Descriptor(
        n_experts=4,
        n_rows_per_expert=3,
        n_cols=6,
        m_total=7,
        m_tokens=5,
        top_k=3,
        format=FORMATS["F32"],
        activation_rows=activation_rows,
        output_rows=output_rows,
    )
    return d, Args(
        weights=on_device(rng.normal(size=(4, 3, 6)).astype(np.float32)),
        activations=on_device(rng.normal(size=(d.activation_row_count, 6)).astype(np.float32)),
        sorted_token_ids=on_device(ids),
        expert_offsets=on_device(offsets),
        output=on_device(np.zeros((d.output_row_count, 3), np.float32)),
        topk_weights=on_device(rng.normal(size=7).astype(np.float32)) if with_weights else None,
    )


def expected(d, args):
    """op.md's formula, dispatch by dispatch."""
    values = np.zeros((d.output_row_count, d.n_rows_per_expert))
    magnitude = np.zeros_like(values)
    weights = np.array(args.weights, np.float64)
    for i, token in enumerate(np.array(args.sorted_token_ids)):
        expert = np.searchsorted(np.array(args.expert_offsets), i, side="right") - 1
        x = np.array(args.activations, np.float64)[token if d.activation_rows is Rows.TOKEN else i]
        w = 1.0 if args.topk_weights is None else float(args.topk_weights[i])
        row = token if d.output_rows is Rows.TOKEN else i
        values[row] += w * (weights[expert] @ x)
        magnitude[row] += abs(w) * (np.abs(weights[expert]) @ np.abs(x))
    return values, magnitude


@pytest.mark.parametrize("chunk", [1, 2, 3, 7, 100])
@pytest.mark.parametrize("with_weights", [True, False])
@pytest.mark.parametrize("output_rows", Rows)
@pytest.mark.parametrize("activation_rows", Rows)
def test_the_reference_is_the_formula_in_chunks_of_any_size(
    engine, cuda, monkeypatch, activation_rows, output_rows, with_weights, chunk
):
    cuda.kernels["oracle_dispatches"] = oracle_dispatches
    d, args = make_case(activation_rows, output_rows, with_weights)
    monkeypatch.setattr(oracle, "_CHUNK_BYTES", chunk * 16 * d.n_rows_per_expert)
    reference = engine.reference(d, args)
    values, magnitude = expected(d, args)
    np.testing.assert_allclose(reference.values, values, rtol=1e-14)
    np.testing.assert_allclose(reference.magnitude, magnitude, rtol=1e-14)
    assert len(cuda.launches) == -(-7 // chunk)


def test_a_nan_stays_in_its_own_tokens_row(engine, cuda):
    cuda.kernels["oracle_dispatches"] = oracle_dispatches
    d, args = make_case(Rows.TOKEN, Rows.TOKEN)
    args.activations[1, 2] = np.nan
    values = engine.reference(d, args).values
    assert np.isnan(values[1]).all()
    assert np.isfinite(np.delete(values, 1, axis=0)).all()


def test_a_dispatch_that_no_kernel_wrote_is_not_a_zero(engine, cuda):
    d, args = make_case(Rows.TOKEN, Rows.DISPATCH)
    assert np.isnan(engine.reference(d, args).values).all()


def test_an_empty_problem_has_a_reference_of_zeros_without_a_launch(engine, cuda):
    d, args = make_case(Rows.TOKEN, Rows.TOKEN, with_weights=False)
    args = replace(args, sorted_token_ids=on_device(np.zeros(0, np.int32)))
    reference = engine.reference(d.with_dispatches(0), args)
    assert reference.values.shape == (5, 3)
    assert not reference.values.any()
    assert cuda.launches == []


# --- dequantize


def dequantize_f32(parameters):
    n_rows, n_cols = value(parameters, 2, ctypes.c_int64), value(parameters, 3, ctypes.c_int32)
    packed = host(value(parameters, 0, ctypes.c_uint64), (n_rows, n_cols), np.float32)
    host(value(parameters, 1, ctypes.c_uint64), (n_rows, n_cols), np.float32)[...] = packed


@pytest.mark.parametrize("rows_at_once", [1, 3, 100])
def test_rows_come_back_in_order_in_chunks_of_any_size(engine, cuda, monkeypatch, rows_at_once):
    cuda.kernels["dequantize"] = dequantize_f32
    monkeypatch.setattr(oracle, "_CHUNK_BYTES", rows_at_once * 4 * 6)
    weights = np.random.default_rng(0).normal(size=(7, 6)).astype(np.float32)
    packed = on_device(weights.reshape(-1).view(np.uint8))
    np.testing.assert_array_equal(engine.dequantize(FORMATS["F32"], packed, 6), weights)


@pytest.mark.parametrize(("name", "n_bytes", "n_cols"), [("Q4_0", 17, 32), ("Q4_0", 18, 33), ("Q4_0", 18, 0)])
def test_bytes_that_are_no_rows_are_refused(engine, name, n_bytes, n_cols):
    with pytest.raises(InvalidProblem, match="no whole rows"):
        engine.dequantize(FORMATS[name], on_device(np.zeros(n_bytes, np.uint8)), n_cols)


# --- routing


def test_a_legal_routing_passes_on_zeroed_counts(engine, cuda):
    seen = []

    def kernel(parameters):
        seen.append(host(problem_of(parameters).token_counts, (5,), np.int32).copy())

    cuda.kernels["validate_routing"] = kernel
    engine.validate_routing(*make_case(Rows.TOKEN, Rows.TOKEN))
    np.testing.assert_array_equal(seen, np.zeros((1, 5)))


@pytest.mark.parametrize(
    ("report", "message"),
    [
        ((1, 4, -1, 0), r"sorted_token_ids\[4\] is -1"),
        ((2, 3, 1, 0), r"expert_offsets\[3\] is 1"),
        ((3, 0, 9, 0), r"expert_offsets\[0\] is 9"),
        ((4, 4, 9, 0), "m_total = 7"),
        ((5, 2, 4, 0), "token 2 has 4 dispatches"),
    ],
)
def test_a_broken_rule_is_named_with_its_place_and_value(engine, cuda, report, message):
    def kernel(parameters):
        host(value(parameters, 1, ctypes.c_uint64), (4,), np.int32)[...] = report

    cuda.kernels["validate_routing"] = kernel
    with pytest.raises(InvalidProblem, match=message):
        engine.validate_routing(*make_case(Rows.TOKEN, Rows.TOKEN))


# --- the rest


def test_uploads_and_downloads_are_copies(engine):
    array = np.arange(6, dtype=np.uint16).reshape(2, 3).T  # not contiguous
    copy = engine.upload(array)
    np.testing.assert_array_equal(engine.download(copy), array)
    assert copy.flags.c_contiguous


def test_a_failed_kernel_shows_when_waiting(engine, cuda):
    cuda.launch_error = "cudaErrorIllegalAddress: an illegal memory access was encountered"
    with pytest.raises(LaunchError, match="cudaErrorIllegalAddress"):
        engine.synchronize()


def test_facts_have_every_name_of_the_record(engine, monkeypatch):
    monkeypatch.setattr("mmvq_cli.engine.cuda.engine.nvrtc_version", lambda: "13.5")  # the fake CuPy cannot load it
    facts = engine.facts()
    assert {"driver", "cuda_rt", "nvrtc", "cupy", "oracle", "uuid", "bus_bits"} <= set(facts)
    assert facts["cupy"] == "14.2.0"
