"""The header reader against files that are right, and against files that want to hurt it."""

from __future__ import annotations

import contextlib
import os
import struct
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mmvq_cli.errors import ModelError, OpenError
from mmvq_cli.model import ArrayValue, read_header

DATA = Path(__file__).parents[1] / "data"
HOSTILE = sorted((DATA / "hostile").glob("*.gguf"))
MODELS = sorted((DATA / "models").glob("*.gguf"))
WARNED = {"00_valid": 0, "49_trailing_1MB": 1}
# The rule that each other file breaks: the reader must stop at that one, not at some later effect of it.
RULES = {
    "01": "only 0 are left", "02": "only 3 are left", "03": "magic is b'GGUX'", "04": "version is 0",
    "05": "version is 99", "06": "a big-endian file", "07": "tensor count is", "08": "tensor count is",
    "09": "key count is", "10": "the key count needs 8 bytes", "12": "a dimension of a.weight needs",
    "13": "key 0 has a name of", "15": "general.architecture needs", "16": "array x of", "18": "array x of",
    "19": "array of arrays", "20": "value type 99", "21": "is there twice", "23": "not UTF-8", "24": "alignment is 0",
    "26": "alignment is a UINT64", "28": "bool of value 2", "31": "2147483648 dimensions", "32": "ends at byte",
    "34": "each must be 1 to", "36": "type 999", "37": "type 4", "38": "a multiple of 256", "39": "it must be 0",
    "41": "it must be 0", "42": "it must be 128", "43": "is there twice", "45": "name of 65 bytes",
    "48": "ends at byte 256", "50": "tensor count is 0",
}  # fmt: skip


def test_fixtures_are_complete():
    assert len(HOSTILE) == 37
    assert len(MODELS) == 7


@pytest.mark.parametrize("path", HOSTILE, ids=lambda path: path.stem)
def test_hostile_file(path):
    start = time.perf_counter()
    if path.stem in WARNED:
        assert len(read_header(path).warnings) == WARNED[path.stem]
    else:
        with pytest.raises(ModelError, match=rf"{path.name}: byte \d+: .*{RULES[path.stem[:2]]}"):
            read_header(path)
    assert time.perf_counter() - start < 0.05


@pytest.mark.parametrize("path", MODELS, ids=lambda path: path.stem)
def test_agrees_with_gguf_py(path):
    from gguf import GGUFReader

    header, expected = read_header(path), GGUFReader(path)
    seen = [(t.name, t.type_id, t.ne, header.data_offset + t.offset, t.n_bytes) for t in header.tensors]
    assert seen == [
        (t.name, int(t.tensor_type), tuple(t.shape.tolist()), t.data_offset, t.n_bytes) for t in expected.tensors
    ]
    fields = {key: f.contents() for key, f in expected.fields.items() if not key.startswith("GGUF.")}
    assert {key: list(v) if isinstance(v, tuple) else v for key, v in header.metadata.items()} == fields
    assert header.warnings == ()


def array(kit, type_id, length, payload=b""):
    return kit.raw(9, struct.pack("<IQ", type_id, length) + payload)


def with_value(value):
    return lambda kit: kit.file({"x": value(kit)}, [kit.tensor("a", (32,))])


def with_alignment(alignment):
    return lambda kit: kit.file({"general.alignment": alignment}, [kit.tensor("a", (32,))])


def with_tensor(name, ne=(32,), offset=None):
    return lambda kit: kit.file({"x": 1}, [kit.tensor(name, ne, 0, offset)], data_bytes=128)


# The classes of malformed files of which no fixture exists: (file, what the message must say).
BROKEN = {
    "string 2^60": (with_value(lambda kit: kit.raw(8, struct.pack("<Q", 2**60))), f"x needs {2**60} bytes"),
    "array 3e7": (with_value(lambda kit: array(kit, 0, 30_000_000)), "x of 30000000 UINT8 needs 30000000"),
    "string in array": (
        with_value(lambda kit: array(kit, 8, 5000, bytes(8 * 4999) + struct.pack("<Q", 2**63))),
        f"string 4999 needs {2**63} bytes",
    ),
    "bool array": (with_value(lambda kit: array(kit, 7, 3, b"\1\0\5")), "bool of value 5"),
    "array of type 13": (with_value(lambda kit: array(kit, 13, 1, bytes(64))), "value type 13"),
    "empty key": (lambda kit: kit.file({"": 1}, [kit.tensor("a", (32,))]), "name of 0 bytes"),
    "alignment 7": (with_alignment(7), "alignment is 7"),
    "alignment 16": (with_alignment(16), "alignment is 16"),
    "alignment 2^31": (with_alignment(2**31), "alignment is 2147483648"),
    "no dimensions": (with_tensor("a", ()), "0 dimensions"),
    "5 dimensions": (with_tensor("a", (1, 1, 1, 1, 1)), "5 dimensions"),
    "dimension 2^63": (with_tensor("a", (2**63,)), "each must be 1 to"),
    "dimension 2^40": (with_tensor("a", (2**40,)), f"({2**42} bytes) ends at byte"),
    "offset 2^64-1": (with_tensor("a", offset=2**64 - 1), f"offset {2**64 - 1}"),
    "gap": (
        lambda kit: kit.file({"x": 1}, [kit.tensor("a", (32,)), kit.tensor("b", (32,), 0, 256)], data_bytes=384),
        "offset 256, it must be 128",
    ),
    "empty name": (with_tensor(""), "name of 0 bytes"),
    "nul in name": (with_tensor("a\0b"), "control characters"),
    "escape in name": (with_tensor("a\x1b[2J"), "control characters"),
    "name not utf-8": (with_tensor(b"\xff"), "not UTF-8"),
}


@pytest.mark.parametrize(("build", "message"), BROKEN.values(), ids=BROKEN.keys())
def test_broken_file(kit, tmp_path, build, message):
    with pytest.raises(ModelError) as caught:
        read_header(build(kit).write(tmp_path / "x.gguf"))
    assert message in caught.value.message
    assert f"{tmp_path / 'x.gguf'}: byte " in caught.value.message
    assert caught.value.hint


def test_tensor_record_read_as_a_key(kit, tmp_path):
    file = kit.file({"x": 1}, [kit.tensor("a", (32,)), kit.tensor("b", (32,))], n_keys=2, n_tensors=1)
    with pytest.raises(ModelError):
        read_header(file.write(tmp_path / "x.gguf"))


def test_q8_1_has_36_bytes_and_q2_0_is_known(kit, tmp_path):
    tensors = [kit.tensor("a", (320,), 9), kit.tensor("b", (512,), 42, offset=384)]
    header = read_header(kit.file({"x": 1}, tensors, data_bytes=384 + 144).write(tmp_path / "x.gguf"))
    assert [tensor.n_bytes for tensor in header.tensors] == [360, 144]


def test_values(kit, tmp_path):
    metadata = {
        "i8": kit.raw(1, b"\xff"),
        "u64": kit.raw(10, b"\xff" * 8),
        "f64": kit.raw(12, struct.pack("<d", 0.1)),
        "bool": True,
        "text": "ä",
        "bytes": kit.raw(8, kit.string(b"a\xff")),
        "array": [3, 4],
        "strings": ["a", "b"],
        "bools": [True, False],
        "kept": [1] * 4096,
        "long": [1] * 4097,
        "tokens": ["x"] * 4097,
    }
    seen = read_header(kit.file(metadata, [kit.tensor("a", (32,))]).write(tmp_path / "x.gguf")).metadata
    assert seen["i8"] == -1
    assert seen["u64"] == 2**64 - 1
    assert seen["f64"] == 0.1
    assert seen["bool"] is True
    assert (seen["text"], seen["bytes"]) == ("ä", "a\\xff")
    assert (seen["array"], seen["strings"], seen["bools"]) == ((3, 4), ("a", "b"), (True, False))
    assert seen["kept"] == (1,) * 4096
    assert seen["long"] == ArrayValue("UINT32", 4097)
    assert seen["tokens"] == ArrayValue("STRING", 4097)


def test_alignment_and_version_2(kit, tmp_path):
    file = kit.file({"general.alignment": 64}, [kit.tensor("a", (8,)), kit.tensor("b", (8,))], version=2, alignment=64)
    header = read_header(file.write(tmp_path / "x.gguf"))
    assert (header.version, header.alignment, header.data_offset % 64) == (2, 64, 0)
    assert [tensor.offset for tensor in header.tensors] == [0, 64]


@pytest.mark.parametrize(("extra", "n_warnings"), [(0, 0), (28, 0), (27, 1), (29, 1), (60, 1)])
def test_what_follows_the_last_tensor(kit, tmp_path, extra, n_warnings):
    # the tensor has 4 bytes, so 28 bytes of padding are the format's own
    file = kit.file({"x": 1}, [kit.tensor("a", (1,))], data_bytes=4 + extra)
    assert len(read_header(file.write(tmp_path / "x.gguf")).warnings) == n_warnings


def test_no_tensors_only_in_the_first_shard(kit, tmp_path):
    def split(no):
        return {"split.no": kit.raw(2, struct.pack("<H", no)), "split.count": kit.raw(2, b"\2\0")}

    assert read_header(kit.file(split(0)).write(tmp_path / "a.gguf")).tensors == ()
    with pytest.raises(ModelError, match="tensor count is 0"):
        read_header(kit.file(split(1)).write(tmp_path / "b.gguf"))


def test_vocabulary_of_300k_strings_is_fast(kit, tmp_path):
    tokens = b"".join(kit.string(f"token{i}") for i in range(150_000))
    vocabulary = kit.raw(9, struct.pack("<IQ", 8, 150_000) + tokens)
    path = kit.file({"tokens": vocabulary, "merges": vocabulary}, [kit.tensor("a", (32,))]).write(tmp_path / "x.gguf")
    start = time.perf_counter()
    assert read_header(path).metadata["merges"] == ArrayValue("STRING", 150_000)
    assert time.perf_counter() - start < 0.4


def test_cannot_open(tmp_path):
    with pytest.raises(OpenError, match="No such file"):
        read_header(tmp_path / "missing.gguf")
    with pytest.raises(OpenError, match="not a regular file"):
        read_header(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OpenError, match="not a regular file"):
        read_header(tmp_path / "pipe")


SMALL = (DATA / "hostile" / "00_valid.gguf").read_bytes()


@settings(max_examples=500, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.integers(0, len(SMALL) - 1), st.integers(0, 255)), min_size=1, max_size=4))
def test_changed_bytes_are_read_or_refused(tmp_path, edits):
    changed = bytearray(SMALL)
    for at, byte in edits:
        changed[at] = byte
    path = tmp_path / "x.gguf"
    path.write_bytes(changed)
    with contextlib.suppress(ModelError):
        (tensor,) = read_header(path).tensors
        assert tensor.n_bytes <= len(SMALL)


VALID = (DATA / "models" / "gpt-oss-MXFP4_MOE.gguf").read_bytes()[:12_000]


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.tuples(st.integers(0, 11_999), st.binary(min_size=1, max_size=8)), max_size=4),
    st.integers(0, len(VALID)),
)
def test_any_damage_is_a_model_error(tmp_path, edits, cut):
    damaged = bytearray(VALID)
    for at, patch in edits:
        damaged[at : at + len(patch)] = patch
    path = tmp_path / "x.gguf"
    path.write_bytes(damaged[:cut])
    with pytest.raises(ModelError):  # the tensors of the original lie beyond 12,000 bytes
        read_header(path)
