"""Rewrites the small models of tests/data with one thing changed, and writes new ones of any type."""

from __future__ import annotations

import struct
from copy import deepcopy
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mmvq_cli.model import read_header
from mmvq_cli.op.ggml import GGML, GGML_QUANT_SIZES

DATA = Path(__file__).parents[1] / "data"


def string(text: str) -> bytes:
    raw = text.encode()
    return struct.pack("<Q", len(raw)) + raw


def value_bytes(value: Any) -> tuple[int, bytes]:
    match value:
        case bool():
            return 7, struct.pack("<B", value)
        case int():
            return 4, struct.pack("<I", value)
        case float():
            return 6, struct.pack("<f", value)
        case str():
            return 8, string(value)
    items = [value_bytes(item) for item in value]
    return 9, struct.pack("<IQ", items[0][0], len(items)) + b"".join(raw for _, raw in items)


@dataclass
class TensorData:
    """A tensor to write: dimensions in ggml order, type number, bytes that a test may change."""

    ne: tuple[int, ...]
    type_id: int
    data: np.ndarray

    def expert(self, index: int) -> np.ndarray:
        """The bytes of one expert, u8 [blocks, bytes of a block]; writing to them changes the tensor."""
        size = GGML_QUANT_SIZES[GGML(self.type_id)][1]
        return self.data.reshape(self.ne[2], -1, size)[index]


@dataclass
class Model:
    """A model in memory: change `metadata` or `tensors`, then `write`."""

    metadata: dict[str, Any]
    tensors: dict[str, TensorData]
    padding: bytes = b"\0"
    trailing: bytes = b""
    alignment: int = field(default=32)

    def write(self, path: Path) -> Path:
        header = [b"GGUF", struct.pack("<IQQ", 3, len(self.tensors), len(self.metadata))]
        for key, value in self.metadata.items():
            type_id, raw = value_bytes(value)
            header += [string(key), struct.pack("<I", type_id), raw]
        data = bytearray()
        for name, tensor in self.tensors.items():
            header += [string(name), struct.pack(f"<I{len(tensor.ne)}Q", len(tensor.ne), *tensor.ne)]
            header.append(struct.pack("<IQ", tensor.type_id, len(data)))
            data += tensor.data.tobytes()
            data += self.padding * (-len(data) % self.alignment)
        start = b"".join(header)
        path.write_bytes(start + b"\0" * (-len(start) % self.alignment) + data + self.trailing)
        return path

    def rename(self, old: str, new: str) -> None:
        """Rename a tensor; its place in the file stays."""
        self.tensors = {new if name == old else name: tensor for name, tensor in self.tensors.items()}


def load(name: str) -> Model:
    """A model of tests/data."""
    path = DATA / "models" / f"{name}.gguf"
    header, raw = read_header(path), np.fromfile(path, np.uint8)
    tensors = {}
    for info in header.tensors:
        start = header.data_offset + info.offset
        tensors[info.name] = TensorData(info.ne, info.type_id, raw[start : start + info.n_bytes].copy())
    return Model(dict(header.metadata), tensors)


def quantized(weights: np.ndarray, kind: GGML) -> TensorData:
    """Quantize f32 [n_experts, rows, cols] as ggml does."""
    import libgguf

    n_experts, rows, cols = weights.shape
    flat = np.ascontiguousarray(weights.reshape(-1, cols), np.float32)
    hints = {"imatrix": np.ones(cols, np.float32)} if libgguf.quantize_requires_imatrix(kind) else {}
    packed = np.asarray(libgguf.quantize_rows(flat, kind, **hints))
    return TensorData((cols, rows, n_experts), int(kind), packed.view(np.uint8).reshape(-1).copy())


def make(kind: GGML, seed: int = 0) -> Model:
    """A model of one layer, 8 experts and n_embd 256, with weights of one type; a copy, since quantizing takes time.

    IQ1, IQ2 and IQ3 take gate and up from the format zoo (ggml's C code made it): quantizing takes 15 s for some.
    """
    return deepcopy(_make(kind, seed))


@cache
def _make(kind: GGML, seed: int) -> Model:
    rng = np.random.default_rng(seed)
    from_zoo = kind.name.startswith(("IQ1", "IQ2", "IQ3"))
    n_ff = 16 if from_zoo else 256
    metadata = {
        "general.architecture": "qwen3moe",
        "qwen3moe.block_count": 1,
        "qwen3moe.embedding_length": 256,
        "qwen3moe.expert_feed_forward_length": n_ff,
        "qwen3moe.expert_count": 8,
        "qwen3moe.expert_used_count": 2,
    }
    weights = {
        role: 0.02 * rng.standard_normal((8, 256, n_ff) if role == "down" else (8, n_ff, 256), dtype=np.float32)
        for role in ("gate", "up", "down")
    }
    if from_zoo:
        zoo = np.load(DATA / "models" / "format-zoo.npz")[f"{kind.name}.blocks"].reshape(8, 16, -1)
        stacks = {"gate": TensorData((256, 16, 8), int(kind), zoo.reshape(-1).copy())}
        stacks["up"] = TensorData((256, 16, 8), int(kind), np.roll(zoo, 1, axis=0).reshape(-1))  # other experts
        stacks["down"] = TensorData((16, 256, 8), 0, weights["down"].view(np.uint8).reshape(-1))
    else:
        stacks = {role: quantized(values, kind) for role, values in weights.items()}
    router = rng.standard_normal((8, 256), dtype=np.float32)
    tensors = {"blk.0.ffn_gate_inp.weight": TensorData((256, 8), 0, router.view(np.uint8).reshape(-1))}
    return Model(metadata, tensors | {f"blk.0.ffn_{role}_exps.weight": stack for role, stack in stacks.items()})


@dataclass(frozen=True)
class Kit:
    """What the tests of this room build files with."""

    data: Path = DATA
    tensor: type[TensorData] = TensorData

    load = staticmethod(load)
    make = staticmethod(make)
    quantized = staticmethod(quantized)


@pytest.fixture(scope="session")
def kit() -> Kit:
    return Kit()
