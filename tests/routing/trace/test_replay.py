"""Batches of a trace: reproducible, made of the tokens that the composition promises, refused where they do not fit."""

from dataclasses import replace

import numpy as np
import pytest

from mmvq_cli.errors import UsageError
from mmvq_cli.routing import draw, parse_routing, trace_origin
from mmvq_cli.routing.trace import Synthesis, Trace, read_trace, synthesize, to_counts, write_trace


@pytest.fixture
def trace(tmp_path):
    """Six requests of ten tokens; token t of layer l goes to experts that spell t: t % 8 and 8 + t // 8."""
    tokens = np.arange(60)
    ids = np.stack([np.stack([tokens % 8, 8 + tokens // 8], axis=1)] * 2).astype(np.int16)
    value = Trace(16, 2, np.array([3, 7], np.int32), ids, request_offsets=np.arange(0, 61, 10))
    write_trace(value, tmp_path / "x.moetrace.safetensors")
    return value


def spec_of(tmp_path, options=""):
    return parse_routing(f"trace:{tmp_path / 'x.moetrace.safetensors'}{options}")


def tokens_of(routing):
    low, high = routing.ids.min(axis=1), routing.ids.max(axis=1)
    return ((high - 8) * 8 + low).tolist()


def test_a_spec_reads_back():
    for text in (
        "trace:A/b.moetrace.safetensors",
        "trace:x;compose=chunk;layer=3;map=fold",
        "twin:gpt-oss;compose=shuffle",
    ):
        assert str(parse_routing(text)) == text


@pytest.mark.parametrize("text", ["trace:", "trace:x;compose=y", "trace:x;layer=-1", "trace:x;a=b", "twin:x;map=bend"])
def test_a_bad_spec_is_refused(text):
    with pytest.raises(UsageError):
        parse_routing(text)


@pytest.mark.usefixtures("trace")
def test_compositions(tmp_path):
    def batch(compose, n, index=0):
        return tokens_of(draw(spec_of(tmp_path, f";compose={compose}"), 16, 2, n, seed=1, index=index, layer=3))

    mixed = batch("decode-mix", 6)
    assert sorted(token // 10 for token in mixed) == [0, 1, 2, 3, 4, 5]
    chunk = batch("chunk", 10)
    assert chunk == list(range(chunk[0], chunk[0] + 10))
    assert chunk[0] % 10 == 0
    assert len(set(batch("shuffle", 60))) == 60
    assert batch("shuffle", 5) == batch("shuffle", 5)
    assert batch("shuffle", 5) != batch("shuffle", 5, index=1)


@pytest.mark.usefixtures("trace")
@pytest.mark.parametrize(
    ("options", "sizes", "layer", "words", "way"),
    [
        ("", (16, 3, 4), 3, "top-k 2, the case has 3", "--top-k 2"),
        ("", (8, 2, 4), 3, "16 experts, the tensor has 8", "--map-experts fold"),
        (";map=fold", (32, 2, 4), 3, "the tensor has 32", "--map-experts tile"),
        ("", (16, 2, 4), 5, "no layer 5", "--trace-layer"),
        ("", (16, 2, 7), 3, "6 requests, a batch of 7", "shuffle"),
        (";compose=chunk", (16, 2, 11), 3, "10 tokens in a row", "decode-mix"),
        (";compose=shuffle", (16, 2, 61), 3, "60 routed tokens", "fewer"),
        (";compose=recorded", (16, 2, 4), 3, "forward passes", "decode-mix"),
    ],
)
def test_what_does_not_fit_is_refused_with_the_way_out(options, sizes, layer, words, way, tmp_path):
    with pytest.raises(UsageError, match=words) as caught:
        draw(spec_of(tmp_path, options), *sizes, seed=0, layer=layer)
    assert way in caught.value.hint


@pytest.mark.usefixtures("trace")
def test_experts_are_folded_and_tiled(tmp_path):
    # of the sixty tokens eight fold onto one expert twice
    folded = draw(spec_of(tmp_path, ";compose=shuffle;map=fold"), 8, 2, 60, seed=0, layer=3)
    assert folded.ids.max() < 8
    assert (folded.ids[:, 0] != folded.ids[:, 1]).all()
    tiled = draw(spec_of(tmp_path, ";map=tile"), 40, 2, 6, seed=0, layer=3)
    assert set((tiled.ids // 16).ravel().tolist()) == {0, 1}
    assert ((tiled.ids[:, 0] // 16) == (tiled.ids[:, 1] // 16)).all()


def test_recorded_steps_gaps_and_weights(trace, tmp_path):
    ids = trace.ids.copy()
    ids[0, 4] = -1
    weights = np.full(ids.shape, 0.5, np.float16)
    path = tmp_path / "x.moetrace.safetensors"
    write_trace(
        replace(trace, topk_ids=ids, topk_weights=weights, request_offsets=None, step_offsets=np.array([0, 8, 60])),
        path,
    )
    routing = draw(spec_of(tmp_path), 16, 2, 7, seed=0, layer=3)
    assert tokens_of(routing) == [0, 1, 2, 3, 5, 6, 7]
    assert (routing.weights == 0.5).all()
    with pytest.raises(UsageError, match="no forward pass of 6 tokens"):
        draw(spec_of(tmp_path), 16, 2, 6, seed=0, layer=3)


def test_counts_are_expanded_and_labelled(tmp_path):
    trace = synthesize(Synthesis(generator="hot", n_experts=16, top_k=2, n_layers=2))
    write_trace(to_counts(trace), tmp_path / "x.moetrace.safetensors")
    spec = spec_of(tmp_path)
    assert trace_origin(spec).provenance == "counts-derived"
    routing = draw(spec, 16, 2, 2000, seed=0, layer=1)
    assert (
        np.bincount(routing.ids.ravel()).argmax() == read_trace(tmp_path / "x.moetrace.safetensors").counts(1).argmax()
    )


def test_twins_need_no_file_and_fit_any_layer():
    spec = parse_routing("twin:mixtral-mid")
    assert draw(spec, 8, 2, 16, seed=0, layer=40).top_k == 2
    assert trace_origin(spec).provenance == "synthetic"
