"""The reader of .pt files: values come back, nothing runs."""

import os
import pickle
import zipfile
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest

from mmvq_cli.errors import ModelError
from mmvq_cli.routing.trace.torch_file import parse_torch
from scripts.fuzz_traces import torch_bytes


def archive(pickled, **files):
    stream = BytesIO()
    with zipfile.ZipFile(stream, "w") as out:
        out.writestr("a/data.pkl", pickled)
        for name, data in files.items():
            out.writestr(f"a/{name}", data)
    return stream.getvalue()


def test_values_come_back():
    value = {"a": np.arange(6, dtype=np.int32).reshape(2, 3), "b": [1, None, "x"], "c": np.float32([0.5])}
    back = parse_torch(torch_bytes(value), "x")
    assert np.array_equal(back["a"], value["a"])
    assert back["b"] == [1, None, "x"]
    assert back["c"].tolist() == [0.5]


class Evil:
    def __reduce__(self):
        return os.mkdir, ("/tmp/never-made-by-a-pickle",)


@pytest.mark.parametrize("protocol", [2, 4])
def test_code_is_refused_and_not_run(protocol):
    with pytest.raises(ModelError, match="not loaded"):
        parse_torch(archive(pickle.dumps(Evil(), protocol)), "x")
    assert not Path("/tmp/never-made-by-a-pickle").exists()


@pytest.mark.parametrize(
    "pickled",
    [
        b"\x80\x02r\xff\xff\xff\x7fN.",  # a memo index of 2^31
        b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\x00.",  # a string of 2^56 bytes
        b"\x80\x02}" + b"\x85" * 100_000 + b"NNs.",  # a key nested 100,000 deep
        b"\x80\x02(((.",
        b"\x80\x02",
        b"",
    ],
)
def test_hostile_pickles_are_errors(pickled):
    with pytest.raises(ModelError):
        parse_torch(archive(pickled), "x")


def test_a_tensor_beyond_its_storage_is_an_error():
    good = torch_bytes({"a": np.arange(6, dtype=np.int32)})
    assert good.count(b"J\x06\x00\x00\x00") == 2  # elements of the storage, size of the tensor
    at = good.rindex(b"J\x06\x00\x00\x00")
    with zipfile.ZipFile(BytesIO(good)) as source:
        pickled = source.read("dump/data.pkl").replace(good[at : at + 5] + b"t", b"J\x07\x00\x00\x00t", 2)
        storage = source.read("dump/data/0")
    with pytest.raises(ModelError):
        parse_torch(archive(pickled, **{"data/0": storage}), "x")
