"""The oracle on a GPU: bit-equal decoding, exact products, legal routings; the judge is judged against gguf-py."""

from __future__ import annotations

import numpy as np
import pytest

from mmvq_cli.engine.cuda import CudaEngine, oracle
from mmvq_cli.engine.discovery import cuda_available
from mmvq_cli.errors import InvalidProblem
from mmvq_cli.model.synthetic import random_blocks
from mmvq_cli.op import FORMATS, Args, Descriptor, Dtype, Rows

USABLE, REASON = cuda_available()
pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not USABLE, reason=REASON)]

ARGUMENTS = ("weights", "activations", "sorted_token_ids", "expert_offsets", "output", "topk_weights")


@pytest.fixture(scope="module")
def engine():
    return CudaEngine(0)


def decode(format, blocks):
    """gguf-py's weights f32 of packed blocks [n, type_size]; Q8_K, which it lacks, is d * q."""
    from gguf.quants import dequantize

    if format.name == "Q8_K":
        return np.ascontiguousarray(blocks[:, :4]).view(np.float32) * blocks[:, 4:260].view(np.int8)
    return dequantize(blocks, format.type).reshape(len(blocks), -1)


def bits(array, dtype):
    """Activations as the descriptor's dtype; bf16 as uint16, truncated."""
    if dtype is Dtype.BF16:
        return (array.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)
    return array.astype({Dtype.F32: np.float32, Dtype.F16: np.float16}[dtype])


def exact(array, dtype):
    if dtype is Dtype.BF16:
        return (array.astype(np.uint32) << 16).view(np.float32).astype(np.float64)
    return array.astype(np.float64)


@pytest.mark.parametrize("blocks_per_row", [1, 3])
@pytest.mark.parametrize("name", FORMATS)
def test_decoding_is_bit_equal_to_ggml(engine, name, blocks_per_row):
    format = FORMATS[name]
    blocks = random_blocks(format, 40 * blocks_per_row * (7 if format.is_float else 1), np.random.default_rng(2))
    n_cols = blocks_per_row * format.block_size * (7 if format.is_float else 1)
    weights = engine.dequantize(format, engine.upload(blocks.reshape(-1)), n_cols)
    expected = decode(format, blocks).astype(np.float32).reshape(40, n_cols)
    np.testing.assert_array_equal(weights.view(np.uint32), expected.view(np.uint32))


def make_case(engine, format, dtype, activation_rows, output_rows):
    rng = np.random.default_rng(11)
    ids = np.array([0, 3, 3, 1, 0, 3, 1, 4, 0], np.int32)
    offsets = np.array([0, 3, 3, 5, 9], np.int32)
    d = Descriptor(
        n_experts=4,
        n_rows_per_expert=37,
        n_cols=256,
        m_total=len(ids),
        m_tokens=6,
        top_k=3,
        format=format,
        dtype=dtype,
        activation_rows=activation_rows,
        output_rows=output_rows,
    )
    blocks = random_blocks(format, 4 * 37 * 256 // format.block_size, rng)
    x = bits(rng.normal(size=(d.activation_row_count, 256)), dtype)
    w = rng.normal(size=len(ids)).astype(np.float32)
    output = np.zeros((d.output_row_count, 37), x.dtype)
    arrays = (blocks.reshape(-1), x, ids, offsets, output, w)
    args = Args(**dict(zip(ARGUMENTS, map(engine.upload, arrays), strict=False)))
    weights = decode(format, blocks).reshape(4, 37, 256).astype(np.float64)
    experts = np.repeat(np.arange(4), np.diff(offsets))
    rows = exact(x, dtype)[ids if activation_rows is Rows.TOKEN else np.arange(len(ids))]
    products = weights[experts] * rows[:, None, :]
    terms, sizes = products.sum(axis=2) * w[:, None], np.abs(products).sum(axis=2) * np.abs(w[:, None])
    if output_rows is Rows.DISPATCH:
        return d, args, terms, sizes
    values, magnitude = np.zeros((6, 37)), np.zeros((6, 37))
    np.add.at(values, ids, terms)
    np.add.at(magnitude, ids, sizes)
    return d, args, values, magnitude


@pytest.mark.parametrize("dtype", Dtype)
@pytest.mark.parametrize("name", ["Q4_K", "Q8_0", "IQ3_XXS", "MXFP4", "BF16"])
def test_the_reference_is_the_float64_product(engine, name, dtype):
    d, args, values, magnitude = make_case(engine, FORMATS[name], dtype, Rows.TOKEN, Rows.TOKEN)
    reference = engine.reference(d, args)
    assert (np.abs(reference.values - values) <= 1e-13 * magnitude).all()
    np.testing.assert_allclose(reference.magnitude, magnitude, rtol=1e-12)


@pytest.mark.parametrize("dispatches_at_once", [1, 4, 100])
@pytest.mark.parametrize("output_rows", Rows)
@pytest.mark.parametrize("activation_rows", Rows)
def test_chunks_do_not_change_the_reference(engine, monkeypatch, activation_rows, output_rows, dispatches_at_once):
    d, args, values, magnitude = make_case(engine, FORMATS["Q5_0"], Dtype.F32, activation_rows, output_rows)
    monkeypatch.setattr(oracle, "_CHUNK_BYTES", dispatches_at_once * 16 * d.n_rows_per_expert)
    assert (np.abs(engine.reference(d, args).values - values) <= 1e-13 * magnitude).all()


@pytest.mark.parametrize(
    ("ids", "offsets", "message"),
    [
        ([0, 1, 2, 6], [0, 2, 2, 4], r"sorted_token_ids\[3\] is 6"),
        ([0, -1, 2, 3], [0, 2, 2, 4], r"sorted_token_ids\[1\] is -1"),
        ([0, 1, 2, 3], [0, 3, 2, 4], r"expert_offsets\[2\] is 2"),
        ([0, 1, 2, 3], [1, 2, 2, 4], r"expert_offsets\[0\] is 1"),
        ([0, 1, 2, 3], [0, 2, 2, 3], "m_total = 4"),
        ([5, 5, 5, 3], [0, 2, 2, 4], "token 5 has 3 dispatches"),
        ([5, 5, 0, 3], [0, 2, 2, 4], ""),
    ],
)
def test_routing_rules(engine, ids, offsets, message):
    d = Descriptor(n_experts=3, n_rows_per_expert=1, n_cols=32, m_total=4, m_tokens=6, top_k=2, format=FORMATS["Q8_0"])
    arrays = (
        np.zeros(d.weight_bytes, np.uint8),
        np.zeros((6, 32), np.float32),
        np.array(ids, np.int32),
        np.array(offsets, np.int32),
        np.zeros((6, 1), np.float32),
    )
    args = Args(**dict(zip(ARGUMENTS, map(engine.upload, arrays), strict=False)))
    if not message:
        engine.validate_routing(d, args)
        return
    with pytest.raises(InvalidProblem, match=message):
        engine.validate_routing(d, args)
