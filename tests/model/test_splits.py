"""Split sets: any file opens the set, and a set that does not belong together is refused."""

from __future__ import annotations

import struct

import pytest

from mmvq_cli.errors import ModelError, OpenError
from mmvq_cli.model import open_model
from mmvq_cli.model.splits import read_shards


@pytest.fixture
def write_set(kit, tmp_path):
    """Write a set of three files, the first without tensors; `change(index, metadata)` may break one."""

    def write(change=lambda index, metadata: None):
        paths = []
        for index in range(3):
            metadata = kit.moe(n_layers=2) if index == 0 else {}
            metadata["split.no"] = kit.raw(2, struct.pack("<H", index))
            metadata["split.count"] = kit.raw(2, struct.pack("<H", 3))
            metadata["split.tensors.count"] = kit.raw(5, struct.pack("<i", 2))
            change(index, metadata)
            tensors = [kit.tensor(f"blk.{index - 1}.ffn_up_exps.weight", (32, 4, 2))] if index else []
            data = bytes([index]) * (32 * 4 * 2 * 4 if index else 0)
            file = kit.file(metadata, tensors, data=data)
            paths.append(file.write(tmp_path / f"toy-{index + 1:05d}-of-00003.gguf"))
        return paths

    return write


def test_opens_from_any_file(write_set):
    paths = write_set()
    for path in paths:
        model = open_model(path)
        assert model.paths == tuple(paths)
        assert [tensor.extents[0].path for tensor in model.expert_tensors] == paths[1:]
        assert [int(tensor.read_expert(1)[0]) for tensor in model.expert_tensors] == [1, 2]
        assert model.file_size_bytes == sum(path.stat().st_size for path in paths)


def test_missing_file(write_set):
    paths = write_set()
    paths[1].unlink()
    with pytest.raises(OpenError, match=rf"{paths[1].name} is missing \(1 of the 3 files"):
        read_shards(paths[2])


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [("split.no", 7, 1), ("split.count", 9, 3), ("split.tensors.count", 5, 2), ("toy.block_count", 3, None)],
)
def test_files_that_disagree(write_set, key, value, expected):
    def change(index, metadata):
        if index == 1:
            metadata[key] = value

    paths = write_set(change)
    with pytest.raises(ModelError, match=rf"{paths[1].name}: {key} (is {value}.* {expected}|differs)"):
        read_shards(paths[0])


def test_missing_key(write_set):
    paths = write_set(lambda index, metadata: metadata.pop("split.count") if index == 2 else None)
    with pytest.raises(ModelError, match=rf"{paths[2].name}: split.count is missing"):
        read_shards(paths[0])


def test_same_tensor_twice(write_set, kit):
    paths = write_set()
    paths[2].write_bytes(paths[1].read_bytes().replace(b"split.no\x02\0\0\0\1\0", b"split.no\x02\0\0\0\2\0"))
    with pytest.raises(ModelError, match=rf"{paths[2].name}: tensor blk.0.* is also in {paths[1].name}"):
        read_shards(paths[0])


def test_wrong_names(write_set, tmp_path):
    paths = write_set()
    with pytest.raises(ModelError, match="is one of 3 files"):
        read_shards(paths[1].rename(tmp_path / "renamed.gguf"))
    with pytest.raises(ModelError, match="calls itself file 4 of 3"):
        read_shards(tmp_path / "toy-00004-of-00003.gguf")


def test_set_of_one(kit, tmp_path):
    path = kit.file({"x": 1}, [kit.tensor("a", (32,))]).write(tmp_path / "toy-00001-of-00001.gguf")
    assert len(read_shards(path)) == 1
