"""Expert layers as the file has them, right or wrong: every tensor of a layer by its suffix, stacks by their role."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod
from typing import cast

import numpy as np
from numpy.typing import NDArray

from mmvq_cli.errors import ModelError
from mmvq_cli.model import ExpertTensor, Extent, Header, Tensor
from mmvq_cli.model.tensors import Role, find_experts, layer_of
from mmvq_cli.op.formats import FORMATS

_STACKED = re.compile(r"ffn_(gate|up|down|gate_up)_exps\.weight")
_LEGACY = re.compile(r"ffn_(gate|up|down)\.(\d+)\.weight")
MOST_EXPERTS = 4096  # of a tensor; llama.cpp stops at 1024
_MOST_VALUE_BYTES = 64 * 2**20


@dataclass(frozen=True, slots=True)
class Stack:
    """The weights of one role in one layer: [n_experts, rows, cols] by the tensors' own dimensions."""

    role: Role
    n_experts: int
    rows: int
    cols: int
    tensors: tuple[Tensor, ...]

    @property
    def tensor(self) -> Tensor:
        """The first tensor, for messages."""
        return self.tensors[0]

    @property
    def is_legacy(self) -> bool:
        """Whether each expert has a tensor of its own."""
        return _LEGACY.search(self.tensor.name) is not None


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer: `tensors` by suffix (`ffn_norm.weight`), `stacks` by role."""

    index: int
    tensors: Mapping[str, Tensor]
    stacks: Mapping[Role, Stack]


def list_tensors(headers: Iterable[Header]) -> tuple[Tensor, ...]:
    """All tensors of all files, in file order."""
    return tuple(
        Tensor(info.name, info.type_id, info.ne, Extent(header.path, header.data_offset + info.offset, info.n_bytes))
        for header in headers
        for info in header.tensors
    )


def group_layers(tensors: Iterable[Tensor]) -> tuple[Layer, ...]:
    """Group tensors by their layer, sorted; tensors outside layers are left out."""
    by_layer: dict[int, dict[str, Tensor]] = {}
    for tensor in tensors:
        index = layer_of(tensor.name)
        if index is not None:
            by_layer.setdefault(index, {})[tensor.name.removeprefix(f"blk.{index}.")] = tensor
    return tuple(Layer(index, by_layer[index], _stacks(by_layer[index])) for index in sorted(by_layer))


def _stacks(tensors: Mapping[str, Tensor]) -> dict[Role, Stack]:
    """The stacks of a layer. Where a role is stored in both layouts, the stacked one counts."""
    stacks: dict[Role, Stack] = {}
    legacy: dict[Role, list[Tensor]] = {}
    for suffix, tensor in tensors.items():
        if match := _STACKED.fullmatch(suffix):
            cols, rows, n_experts, *_ = (*tensor.ne, 1, 1)
            stacks[cast(Role, match[1])] = Stack(cast(Role, match[1]), n_experts, rows, cols, (tensor,))
        elif match := _LEGACY.fullmatch(suffix):
            legacy.setdefault(cast(Role, match[1]), []).append(tensor)
    for role, found in legacy.items():
        cols, rows, *_ = (*found[0].ne, 1)
        stacks.setdefault(role, Stack(role, len(found), rows, cols, tuple(found)))
    return stacks


def expert_tensors(layers: Iterable[Layer]) -> tuple[ExpertTensor, ...]:
    """The stacks whose bytes can be read by expert; wrong ones and those beyond `MOST_EXPERTS` are left out."""
    found: list[ExpertTensor] = []
    for layer in layers:
        for stack in layer.stacks.values():
            if stack.n_experts > MOST_EXPERTS:
                continue
            try:
                found += find_experts(stack.tensors, stack.n_experts)
            except ModelError:
                continue
    return tuple(found)


def as_matrix(tensor: Tensor) -> ExpertTensor:
    """View any tensor as the one expert of a stack, so that it can be read in pieces."""
    return ExpertTensor(tensor.name, -1, "up", tensor.type_id, 1, prod(tensor.ne[1:]), tensor.ne[0], (tensor.extent,))


def read_values(tensor: Tensor) -> NDArray[np.float32] | None:
    """The values of a small floating-point tensor, f32 [rows, cols]; None for other types and larger ones.

    Raises `OpenError` when the file cannot be read.
    """
    from mmvq_cli.engine.cpu.dequantize import oracle_dequantizer

    weight_format = FORMATS.get(tensor.format_name)
    if weight_format is None or not weight_format.is_float or tensor.n_bytes > _MOST_VALUE_BYTES:
        return None
    matrix = as_matrix(tensor)
    packed = matrix.read_expert(0).reshape(matrix.rows, -1)
    if weight_format.name == "F32":
        return packed.view(np.float32)
    values = np.empty((matrix.rows, matrix.cols), np.float32)
    oracle_dequantizer().decode(weight_format, packed, values)
    return values
