"""The product on the CPU against float64, for every format, dtype, row mode, output mode and odd routing."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmvq_cli.check import judge
from mmvq_cli.engine.cpu import CpuEngine
from mmvq_cli.engine.cpu import product as product_module
from mmvq_cli.engine.cpu.dequantize import oracle_dequantizer
from mmvq_cli.engine.elements import narrow, storage_dtype, widen
from mmvq_cli.op import CPU, FORMATS, Accumulate, Dtype, OutputMode, Plan, Rows
from mmvq_cli.routing import Routing
from tests.op.problems import dense_product, make_args, make_descriptor

ENGINE = CpuEngine()


def run(d, args, old=0.0):
    """The output, widened, after starting from `old` everywhere."""
    args.output[...] = narrow(np.full(args.output.shape, old, np.float32), d.dtype)
    Plan.select(d, CPU).run(args)
    return widen(args.output, d.dtype)


def verdict(d, args, old=0.0):
    """The engine's output, judged by the plan's own guarantee against the exact answer."""
    output, reference = run(d, args, old), ENGINE.reference(d, args)
    if d.adds:
        reference = replace(reference, values=reference.values + old, magnitude=reference.magnitude + abs(old))
    guarantee = Plan.select(d, CPU).precision_guarantee
    assert guarantee.error_constant <= 32
    return judge(output, reference, d, guarantee, args.sorted_token_ids, args.expert_offsets)


@pytest.mark.parametrize("format", FORMATS.values(), ids=str)
@pytest.mark.parametrize("dtype", list(Dtype))
def test_every_format_and_dtype_is_within_its_bound(format, dtype):
    n_cols = 3 * format.block_size if format.block_size > 1 else 96
    d = make_descriptor(format=format, dtype=dtype, n_cols=n_cols, n_rows_per_expert=37)
    assert verdict(d, make_args(d, weighted=True)).bound_used <= 1


problems = st.builds(
    make_descriptor,
    n_experts=st.integers(1, 9),
    n_rows_per_expert=st.sampled_from([1, 2, 37, 300]),
    n_cols=st.sampled_from([32, 96, 160, 288, 2880]),
    m_tokens=st.just(5),
    m_total=st.integers(0, 5),
    top_k=st.sampled_from([1, 2, 8]),
    format=st.sampled_from([FORMATS["Q4_0"], FORMATS["MXFP4"], FORMATS["Q8_0"], FORMATS["F16"]]),
    dtype=st.sampled_from(list(Dtype)),
    activation_rows=st.sampled_from(list(Rows)),
    output_rows=st.sampled_from(list(Rows)),
    output_mode=st.sampled_from(list(OutputMode)),
    accumulate=st.sampled_from(list(Accumulate)),
)


@settings(max_examples=60, deadline=None)
@given(problems, st.booleans(), st.integers(0, 2**20))
def test_every_mode_and_routing_is_within_its_bound(d, weighted, seed):
    assert verdict(d, make_args(d, weighted=weighted, seed=seed), old=1.5).passed


@pytest.mark.parametrize("activation_rows", list(Rows))
@pytest.mark.parametrize("output_rows", list(Rows))
@pytest.mark.parametrize("weighted", [True, False])
def test_the_reference_is_the_contracts_formula(activation_rows, output_rows, weighted):
    """The oracle that all else is measured against, against plain loops."""
    d = make_descriptor(activation_rows=activation_rows, output_rows=output_rows)
    args = make_args(d, weighted=weighted)
    dense = np.empty((3 * 5, 64), np.float32)
    oracle_dequantizer().decode(d.format, args.weights.reshape(15, 68), dense)
    values, magnitude = dense_product(d, args, dense.reshape(3, 5, 64))
    reference = ENGINE.reference(d, args)
    np.testing.assert_allclose(reference.values, values, rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(reference.magnitude, magnitude, rtol=1e-12)


def routing_of(ids, d):
    ids = np.array(ids, np.int32)
    return Routing(ids, np.ones(ids.shape, np.float32), d.n_experts, "test", 0)


def test_a_repeated_expert_counts_twice():
    d = make_descriptor(m_tokens=1, m_total=2)
    twice = run(d, make_args(d, routing_of([[1, 1]], d)))
    once = run(replace(d, m_total=1), make_args(replace(d, m_total=1), routing_of([[1, -1]], d)))
    np.testing.assert_allclose(twice, 2 * once, rtol=1e-6)
    assert np.abs(once).max() > 0


def test_rows_without_a_dispatch_become_zero_or_stay():
    d = make_descriptor(m_tokens=3, m_total=2)
    args = make_args(d, routing_of([[0, 2], [-1, -1], [-1, -1]], d))
    output = run(d, args, old=7)
    assert (output[1:] == 0).all()
    assert (output[0] != 7).all()
    assert (run(replace(d, output_mode=OutputMode.ADD), args, old=7)[1:] == 7).all()


@pytest.mark.parametrize("size", ["m_total", "n_cols", "n_rows_per_expert", "m_tokens"])
@pytest.mark.parametrize(("mode", "expected"), [(OutputMode.OVERWRITE, 0), (OutputMode.ADD, 3)])
def test_empty_problems(size, mode, expected):
    changes = {size: 0} | ({"m_total": 0} if size == "m_tokens" else {})
    d = make_descriptor(**changes, output_mode=mode, format=FORMATS["Q4_0"])
    routing = routing_of([[0, 1]] * 4 if d.m_total else [[-1, -1]] * d.m_tokens or np.empty((0, 2)), d)
    assert (run(d, make_args(d, routing), old=3) == expected).all()


def test_a_token_with_nan_or_inf_spoils_its_own_rows_only():
    for bad in (np.nan, np.inf, -np.inf):
        d = make_descriptor(n_rows_per_expert=40, format=FORMATS["F32"])
        args = make_args(d)
        args.activations[2, 5] = bad
        output = run(d, args)
        assert not np.isfinite(output[2]).any()
        assert np.isfinite(np.delete(output, 2, axis=0)).all()
        assert verdict(d, args).passed


def test_f16_overflows_to_inf_with_the_right_sign_and_f32_does_not():
    weights = np.array([100, -100, 1], np.float32)[None, :, None].repeat(64, axis=2)
    for dtype, expected in ((Dtype.F16, [np.inf, -np.inf, 6400]), (Dtype.F32, [640000, -640000, 6400])):
        d = make_descriptor(
            n_experts=1, n_rows_per_expert=3, m_tokens=1, m_total=1, top_k=1, format=FORMATS["F32"], dtype=dtype
        )
        x = np.full((1, 64), 100, storage_dtype(dtype))
        args = make_args(d, weights=weights.copy(), activations=x)
        assert run(d, args).tolist() == [expected]
        assert verdict(d, args).passed


def test_sums_are_rounded_once():
    """256 times 1/64 of a unit in the last place on top of 256: lost if every dispatch were rounded to f16."""
    d = make_descriptor(
        n_experts=1,
        n_rows_per_expert=1,
        n_cols=32,
        m_tokens=1,
        m_total=257,
        top_k=257,
        format=FORMATS["F32"],
        dtype="f16",
    )
    weights = np.zeros((1, 1, 32), np.float32)
    weights[0, 0, 0] = 1
    x = np.zeros((1, 32), np.float16)
    x[0, 0] = 1
    topk = np.full(257, 1 / 256, np.float32)
    topk[0] = 256
    args = make_args(d, weights=weights, activations=x, topk_weights=topk)
    assert run(d, args)[0, 0] == 257


def test_the_same_input_gives_the_same_bits():
    d = make_descriptor(n_rows_per_expert=700, n_cols=96, dtype=Dtype.BF16)
    args = make_args(d, weighted=True)
    first = run(d, args).tobytes()
    assert all(run(d, args).tobytes() == first for _ in range(5))


def test_one_row_more_than_a_chunk_and_any_number_of_threads(monkeypatch):
    d = make_descriptor(n_rows_per_expert=product_module._MAX_CHUNK_ROWS * 2 + 1, n_cols=32)
    args = make_args(d)
    monkeypatch.setattr(product_module, "worker_threads", lambda: 1)
    assert verdict(d, args).passed


def test_longer_weights_and_dense_matrices_give_the_same():
    d = make_descriptor(format=FORMATS["F16"])
    args = make_args(d)
    expected = run(d, args).tobytes()
    assert run(d, replace(args, weights=args.weights.view(np.float16).reshape(3, 5, 64))).tobytes() == expected
    assert run(d, replace(args, weights=np.concatenate([args.weights, args.weights]))).tobytes() == expected


def test_nothing_beside_the_output_is_written():
    d = make_descriptor(m_total=7)
    memory = np.full(1024, 0xA5, np.uint8)
    output = memory[256 : 256 + 4 * 20].view(np.float32).reshape(4, 5)
    args = make_args(d, output=output)
    before = [np.copy(a) for a in (args.weights, args.activations, args.sorted_token_ids, args.expert_offsets)]
    Plan.select(d, CPU).run(args)
    assert (np.delete(memory, np.arange(256, 336)) == 0xA5).all()
    after = (args.weights, args.activations, args.sorted_token_ids, args.expert_offsets)
    assert all((a == b).all() for a, b in zip(before, after, strict=True))
