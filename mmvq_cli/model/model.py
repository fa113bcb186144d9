"""A GGUF model as this program sees it: hyperparameters, expert tensors, and what lies outside their blocks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from mmvq_cli.errors import ModelError
from mmvq_cli.model.header import Value
from mmvq_cli.model.splits import read_shards
from mmvq_cli.model.tensors import (
    ExpertTensor,
    Extent,
    OutsideTensor,
    Tensor,
    find_experts,
    find_outside,
    layer_of,
)
from mmvq_cli.op.ggml import Keys

# Far above any model, and small enough that nothing sized by them can hurt
_MAX_LAYERS = 4096
_MAX_EXPERTS = 65536
_HINT = "the metadata contradicts itself: convert the model again with a current converter"


@dataclass(frozen=True, slots=True)
class Model:
    """An opened model, one file or a split set; nothing but headers has been read.

    `top_ks` has experts per token for each layer; `n_experts` and all of `top_ks` are 0 in a dense model. Sizes are in
    bytes, `outside` is what `outside_tensors` selects from.
    """

    paths: tuple[Path, ...]
    metadata: Mapping[str, Value]
    architecture: str
    n_layers: int
    n_experts: int
    top_ks: tuple[int, ...]
    file_size_bytes: int
    tensors: tuple[Tensor, ...]
    expert_tensors: tuple[ExpertTensor, ...]
    outside: tuple[OutsideTensor, ...]
    warnings: tuple[str, ...]

    @property
    def top_k(self) -> int:
        """Experts per token, the most that any layer uses."""
        return max(self.top_ks, default=0)

    def top_k_of(self, layer: int) -> int:
        """Experts per token in `layer`."""
        return self.top_ks[layer]

    def outside_tensors(self, layer: int) -> tuple[OutsideTensor, ...]:
        """Router, biases, scales and shared experts of `layer`, which lie outside the expert blocks."""
        return tuple(outside for outside in self.outside if outside.layer == layer)


def open_model(path: Path) -> Model:
    """Open a GGUF model, from any file of a split set, reading headers only.

    Raises `OpenError` when a file is missing or unreadable, `ModelError` when it breaks the format or its tensors
    contradict its metadata.
    """
    headers = read_shards(path)
    metadata: dict[str, Value] = {}
    for header in headers:
        metadata = {**header.metadata, **metadata}
    tensors = tuple(
        Tensor(info.name, info.type_id, info.ne, Extent(header.path, header.data_offset + info.offset, info.n_bytes))
        for header in headers
        for info in header.tensors
    )
    shape = _Metadata(headers[0].path, metadata)
    n_layers = shape.count(Keys.LLM.BLOCK_COUNT, _MAX_LAYERS)
    n_experts = shape.count(Keys.LLM.EXPERT_COUNT, _MAX_EXPERTS)
    _check_layers(shape.path, tensors, n_layers)
    experts = find_experts(tensors, n_experts)
    return Model(
        paths=tuple(header.path for header in headers),
        metadata=MappingProxyType(metadata),
        architecture=shape.architecture,
        n_layers=n_layers,
        n_experts=n_experts,
        top_ks=_top_ks(shape, n_layers, n_experts) if experts else (0,) * n_layers,
        file_size_bytes=sum(header.file_size for header in headers),
        tensors=tensors,
        expert_tensors=experts,
        outside=find_outside(tensors),
        warnings=tuple(warning for header in headers for warning in header.warnings),
    )


class _Metadata:
    """Typed access to the hyperparameters of one architecture; `path` is for messages."""

    def __init__(self, path: Path, values: Mapping[str, Value]) -> None:
        architecture = values.get(Keys.General.ARCHITECTURE)
        if not isinstance(architecture, str) or not architecture.isprintable() or not architecture:
            raise ModelError(f"{path}: {Keys.General.ARCHITECTURE} is {architecture!r}, it must be a name", _HINT)
        self.path = path
        self.architecture = architecture
        self._values = values

    def value(self, key: str) -> Value | None:
        """Return the value of a key such as `{arch}.block_count`."""
        return self._values.get(key.format(arch=self.architecture))

    def count(self, key: str, limit: int) -> int:
        """Return the value of a key that must be an integer from 0 to `limit`; 0 when it is missing."""
        value = self.value(key)
        if value is None:
            return 0
        if type(value) is not int or not 0 <= value <= limit:
            raise self.error(key, value, f"an integer from 0 to {limit}")
        return value

    def error(self, key: str, value: object, rule: str) -> ModelError:
        """Make the error for a key whose value breaks `rule`."""
        seen = "missing" if value is None else value
        return ModelError(f"{self.path}: {key.format(arch=self.architecture)} is {seen}, it must be {rule}", _HINT)


def _check_layers(path: Path, tensors: tuple[Tensor, ...], n_layers: int) -> None:
    for tensor in tensors:
        layer = layer_of(tensor.name)
        if layer is not None and layer >= n_layers:
            raise ModelError(f"{path}: {tensor.name} lies beyond the {n_layers} layers of the metadata", _HINT)


def _top_ks(shape: _Metadata, n_layers: int, n_experts: int) -> tuple[int, ...]:
    """Experts per token for each layer, from a number or an array with one number per layer (0: a dense layer)."""
    key = Keys.LLM.EXPERT_USED_COUNT
    value = shape.value(key)
    top_ks = value if isinstance(value, tuple) else (value,) * n_layers
    legal = all(type(top_k) is int and 0 <= top_k <= n_experts for top_k in top_ks)
    if not legal or len(top_ks) != n_layers or not any(top_ks):
        raise shape.error(key, value, f"1 to {n_experts} (the expert count), or {n_layers} such numbers, one a layer")
    return tuple(top_k for top_k in top_ks if isinstance(top_k, int))
