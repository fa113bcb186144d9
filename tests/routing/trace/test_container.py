"""The neutral file: exact round trips, and errors that name the place."""

import json
from dataclasses import replace

import numpy as np
import pytest

from mmvq_cli.errors import ModelError, OpenError
from mmvq_cli.routing.trace import Trace, open_trace, read_trace, write_trace
from scripts.fuzz_traces import routing_ids

IDS = np.ascontiguousarray(routing_ids().transpose(1, 0, 2)).astype(np.int16)


def full():
    rng = np.random.default_rng(0)
    return Trace(
        n_experts=8,
        top_k=2,
        layer_index=np.array([3, 4, 9], np.int32),
        topk_ids=IDS,
        topk_weights=rng.random(IDS.shape).astype(np.float16),
        router_logits=rng.random((3, 40, 8)).astype(np.float32),
        step_offsets=np.array([0, 15, 40]),
        request_id=np.arange(40, dtype=np.int32) % 5,
        phase=np.ones(40, np.uint8),
        token_ids=np.arange(40, dtype=np.int32),
        positions=np.arange(40, dtype=np.int32),
        metadata={"model_id": "m"},
    )


def test_a_round_trip_is_exact_and_mapped(tmp_path):
    path, trace = tmp_path / "x.moetrace.safetensors", full()
    write_trace(trace, path)
    back = read_trace(path)
    for name in Trace.__slots__:
        value = getattr(trace, name)
        if isinstance(value, np.ndarray):
            assert np.array_equal(getattr(back, name), value), name
    assert isinstance(back.topk_ids, np.memmap)
    assert back.metadata["model_id"] == "m"
    again = tmp_path / "y.moetrace.safetensors"
    write_trace(back, again)
    assert again.read_bytes() == path.read_bytes()
    assert len(open_trace(path)[1]) == 64


def test_the_safetensors_package_reads_it(tmp_path):
    from safetensors.numpy import load_file

    path = tmp_path / "x.moetrace.safetensors"
    write_trace(full(), path)
    assert np.array_equal(load_file(path)["topk_ids"], IDS)


def broken(**changes):
    return replace(full(), **changes)


def changed(array, at, value):
    array = array.copy()
    array[at] = value
    return array


@pytest.mark.parametrize(
    ("trace", "words"),
    [
        (broken(topk_ids=changed(IDS, (1, 7, 0), 8)), r"topk_ids\[1\]\[7, 0\] is 8, ids are 0..7"),
        (broken(topk_ids=changed(IDS, (2, 5), 3)), r"topk_ids\[2\]\[5\] is \[3, 3\]: an expert is there twice"),
        (broken(step_offsets=np.array([0, 30, 20, 40])), r"step_offsets\[2\] is 20"),
        (broken(step_offsets=np.array([0, 39])), "from 0 to the 40 tokens"),
        (broken(layer_index=np.array([3, 3, 4], np.int32)), "layer_index"),
        (broken(topk_weights=np.full(IDS.shape, np.inf, np.float32)), r"topk_weights\[0, 0, 0\] is inf"),
        (broken(phase=np.ones(3, np.uint8)), r"phase is \[3\], it must be \[40\]"),
        (broken(topk_ids=None), "either topk_ids or expert_counts"),
        (broken(top_k=9), "top-k 9"),
    ],
)
def test_what_breaks_a_rule_is_named(trace, words):
    with pytest.raises(ModelError, match=words):
        trace.validate("x")


def rewrite(path, edit):
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    edit(header)
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + length :])


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (lambda h: h["__metadata__"].update(format_version="2"), "version '2'"),
        (lambda h: h["__metadata__"].update(num_experts="x"), "num_experts is 'x'"),
        (lambda h: h["__metadata__"].update(num_experts="4"), "router_logits is"),
        (lambda h: h["__metadata__"].update(kind="counts"), "metadata says kind 'counts'"),
        (lambda h: h["__metadata__"].update(expert_id_space="physical"), "physical_to_logical is missing"),
        (lambda h: h["topk_ids"].update(shape=[3, 40, 3]), "not a safetensors file"),
        (lambda h: h["topk_ids"].update(dtype="F16"), "topk_ids is F16"),
    ],
)
def test_a_wrong_header_is_named(edit, words, tmp_path):
    path = tmp_path / "x.moetrace.safetensors"
    write_trace(full(), path)
    rewrite(path, edit)
    with pytest.raises(ModelError, match=words):
        read_trace(path)


def test_no_such_file(tmp_path):
    with pytest.raises(OpenError):
        read_trace(tmp_path / "none")
    with pytest.raises(OpenError):
        open_trace(tmp_path / "none")
