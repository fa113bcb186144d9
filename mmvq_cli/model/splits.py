"""Split sets: `name-00001-of-0000N.gguf` and its siblings, read as one."""

from __future__ import annotations

import re
from pathlib import Path

from mmvq_cli.errors import ModelError, OpenError
from mmvq_cli.model.header import Header, read_header
from mmvq_cli.op.ggml import Keys

_SHARD = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf")
_NO = Keys.Split.LLM_KV_SPLIT_NO
_COUNT = Keys.Split.LLM_KV_SPLIT_COUNT
_TOTAL = Keys.Split.LLM_KV_SPLIT_TENSORS_COUNT
_HINT = "all files of a split set must come from one release: download it again, or merge it with llama-gguf-split"


def read_shards(path: Path) -> tuple[Header, ...]:
    """Read the header of `path`, or of all files of the split set that it belongs to, in order.

    Raises `OpenError` when a file of the set is missing, `ModelError` when the files do not belong together (names as
    llama.cpp writes them; `split.no`, `split.count`, `split.tensors.count`).
    """
    match = _SHARD.fullmatch(path.name)
    if match is None:
        header = read_header(path)
        if header.metadata.get(_COUNT, 1) != 1:
            raise ModelError(
                f"{path} is one of {header.metadata[_COUNT]} files, but is not named like NAME-00001-of-0000N.gguf",
                "give the files of a split set their original names",
            )
        return (header,)
    headers = tuple(read_header(shard) for shard in _shard_paths(path, match))
    _check_numbers(headers)
    _check_agreement(headers)
    return headers


def _shard_paths(path: Path, match: re.Match[str]) -> list[Path]:
    number, count = int(match["number"]), int(match["count"])
    if not 1 <= number <= count:
        raise ModelError(f"{path} calls itself file {number} of {count}", _HINT)
    paths = [path.with_name(f"{match['stem']}-{i:05d}-of-{count:05d}.gguf") for i in range(1, count + 1)]
    missing = [shard for shard in paths if not shard.exists()]
    if missing:
        raise OpenError(f"{missing[0]} is missing ({len(missing)} of the {count} files of its split set are)", _HINT)
    return paths


def _check_numbers(headers: tuple[Header, ...]) -> None:
    """Check each file's own number and counts against its name and against the whole set."""
    n_tensors = sum(len(header.tensors) for header in headers)
    if len(headers) == 1 and _COUNT not in headers[0].metadata:
        return
    for index, header in enumerate(headers):
        for key, expected in ((_NO, index), (_COUNT, len(headers)), (_TOTAL, n_tensors)):
            seen = header.metadata.get(key, "missing")
            if seen != expected:
                raise ModelError(f"{header.path}: {key} is {seen}, the files found make it {expected}", _HINT)


def _check_agreement(headers: tuple[Header, ...]) -> None:
    """Check that no tensor is in two files and that keys repeated in later files have the first file's values."""
    first = headers[0]
    names: dict[str, Path] = {}
    for header in headers:
        for key in header.metadata.keys() & first.metadata.keys() - {_NO}:
            if header.metadata[key] != first.metadata[key]:
                raise ModelError(f"{header.path}: {key} differs from the one in {first.path.name}", _HINT)
        for tensor in header.tensors:
            if tensor.name in names:
                raise ModelError(f"{header.path}: tensor {tensor.name} is also in {names[tensor.name].name}", _HINT)
            names[tensor.name] = header.path
