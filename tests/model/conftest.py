"""Builds GGUF files byte by byte, so that tests can break any field of them."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from mmvq_cli.op.ggml import GGML, GGML_QUANT_SIZES

DATA = Path(__file__).parents[1] / "data"


class Raw(NamedTuple):
    """A metadata value given as its type number and its bytes."""

    type_id: int
    payload: bytes


class Tensor(NamedTuple):
    """A tensor record; `offset` and `n_bytes` default to what the format demands."""

    name: str | bytes
    ne: tuple[int, ...]
    type_id: int = int(GGML.F32)
    offset: int | None = None


def string(text: str | bytes) -> bytes:
    raw = text.encode() if isinstance(text, str) else text
    return struct.pack("<Q", len(raw)) + raw


def encode(value: Any) -> Raw:
    match value:
        case Raw():
            return value
        case bool():
            return Raw(7, struct.pack("<B", value))
        case int():
            return Raw(4, struct.pack("<I", value))
        case float():
            return Raw(6, struct.pack("<f", value))
        case str():
            return Raw(8, string(value))
        case list():
            items = [encode(item) for item in value]
            type_id = items[0].type_id if items else 4
            return Raw(9, struct.pack("<IQ", type_id, len(items)) + b"".join(item.payload for item in items))
    raise TypeError(value)


def n_bytes_of(tensor: Tensor) -> int:
    block_size, type_size = GGML_QUANT_SIZES.get(tensor.type_id, (1, 4))
    n = 1
    for dimension in tensor.ne:
        n *= dimension
    return n // block_size * type_size


@dataclass
class GgufFile:
    """The parts of a file; `write` puts them together, with a sparse data section of `data_bytes` or as needed."""

    metadata: dict[str | bytes, Any] = field(default_factory=dict)
    tensors: list[Tensor] = field(default_factory=list)
    magic: bytes = b"GGUF"
    version: int = 3
    n_tensors: int | None = None
    n_keys: int | None = None
    alignment: int = 32
    data: bytes | None = None
    data_bytes: int | None = None

    def header(self) -> bytes:
        n_tensors = len(self.tensors) if self.n_tensors is None else self.n_tensors
        n_keys = len(self.metadata) if self.n_keys is None else self.n_keys
        out = [self.magic, struct.pack("<IQQ", self.version, n_tensors, n_keys)]
        for key, value in self.metadata.items():
            raw = encode(value)
            out += [string(key), struct.pack("<I", raw.type_id), raw.payload]
        end = 0
        for tensor in self.tensors:
            offset = end if tensor.offset is None else tensor.offset
            out += [string(tensor.name), struct.pack(f"<I{len(tensor.ne)}Q", len(tensor.ne), *tensor.ne)]
            out += [struct.pack("<IQ", tensor.type_id, offset)]
            end = self.padded(end + n_bytes_of(tensor))
        self._end = end
        return b"".join(out)

    def padded(self, offset: int) -> int:
        return -(-offset // self.alignment) * self.alignment

    def write(self, path: Path) -> Path:
        header = self.header()
        start = self.padded(len(header))
        with path.open("wb") as file:
            file.write(header)
            file.seek(start)
            file.write(self.data or b"")
            file.truncate(start + (self._end if self.data_bytes is None else self.data_bytes))
        return path


def moe_metadata(n_layers: int = 1, n_experts: int = 2, top_k: Any = 1, **more: Any) -> dict[str | bytes, Any]:
    return {
        "general.architecture": "toy",
        "toy.block_count": n_layers,
        "toy.expert_count": n_experts,
        "toy.expert_used_count": top_k,
        **more,
    }


@dataclass(frozen=True)
class Kit:
    """What the tests of this room build files with."""

    file: type[GgufFile] = GgufFile
    tensor: type[Tensor] = Tensor
    raw: type[Raw] = Raw
    data: Path = DATA

    moe = staticmethod(moe_metadata)
    string = staticmethod(string)


@pytest.fixture(scope="session")
def kit() -> Kit:
    return Kit()
