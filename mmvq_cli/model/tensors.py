"""Expert tensors of a model: what their names mean, their shapes and strides, and bounded reads of their bytes.

Names are llama.cpp's, through gguf's tables: stacked `blk.N.ffn_gate_exps.weight` (ne = [cols, rows, n_experts]) and
the older `blk.N.ffn_gate.E.weight`, one matrix per expert. Every stride comes from the tensor's own dimensions.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeAlias, cast

from mmvq_cli.errors import ModelError, OpenError, Unsupported
from mmvq_cli.model.reader import open_regular, shrank
from mmvq_cli.op.formats import Format, find_format, type_name
from mmvq_cli.op.ggml import MODEL_TENSOR, TENSOR_NAMES

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Role: TypeAlias = Literal["gate", "up", "gate_up", "down"]
ROLES: tuple[Role, ...] = ("gate", "up", "gate_up", "down")

_PIECE_BYTES = 64 * 2**20
_HINT = "the file is not a mixture-of-experts model as llama.cpp writes it: convert it again with a current converter"


def _suffix(tensor: MODEL_TENSOR) -> str:
    return TENSOR_NAMES[tensor].removeprefix("blk.{bid}.")


_LAYER = re.compile(r"blk\.(0|[1-9]\d*)\.(.+)")
_STACKED: Mapping[str, Role] = {
    f"{_suffix(MODEL_TENSOR.FFN_GATE_EXP)}.weight": "gate",
    f"{_suffix(MODEL_TENSOR.FFN_UP_EXP)}.weight": "up",
    f"{_suffix(MODEL_TENSOR.FFN_GATE_UP_EXP)}.weight": "gate_up",
    f"{_suffix(MODEL_TENSOR.FFN_DOWN_EXP)}.weight": "down",
}
_PER_EXPERT = re.compile(r"ffn_(gate|up|down)\.(0|[1-9]\d*)\.weight")
# What belongs to a layer's experts but is not in their blocks; the first pattern that matches names the kind.
_OUTSIDE = tuple(
    (kind, re.compile(pattern))
    for kind, pattern in (
        ("expert bias", r"ffn_(gate|up|gate_up|down)_exps\.bias"),
        ("expert scale", r"ffn_(gate|up|gate_up|down)_exps\.(scale|input_scale)"),
        ("shared expert", r"ffn_.*_shexp\..*"),
        ("chunk experts", r"ffn_.*_chexps\..*"),
        ("router", rf"({_suffix(MODEL_TENSOR.FFN_GATE_INP)}|ffn_gate_tid2eid)\..*"),
        ("selection bias", rf"{_suffix(MODEL_TENSOR.FFN_EXP_PROBS_B)}(\..*)?"),
        ("latent projection", r"ffn_latent_(down|up)\..*"),
    )
)


class Extent(NamedTuple):
    """A run of bytes in one file."""

    path: Path
    offset: int
    n_bytes: int


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor of a model, of any kind: `ne` in ggml order (fastest first)."""

    name: str
    type_id: int
    ne: tuple[int, ...]
    extent: Extent

    @property
    def format_name(self) -> str:
        """The GGML type, such as `F32`."""
        return type_name(self.type_id)

    @property
    def n_bytes(self) -> int:
        """Bytes of the tensor in its file."""
        return self.extent.n_bytes


class OutsideTensor(NamedTuple):
    """A tensor of an expert layer that the operation does not apply: router, biases, scales, shared experts."""

    layer: int
    kind: str
    tensor: Tensor


@dataclass(frozen=True, slots=True)
class ExpertTensor:
    """Stacked expert weights [n_experts, rows, cols] of one type, in one extent or in one extent per expert."""

    name: str
    layer: int
    role: Role
    type_id: int
    n_experts: int
    rows: int
    cols: int
    extents: tuple[Extent, ...]

    @property
    def format_name(self) -> str:
        """The GGML type as the file names it, also when no kernel handles it."""
        return type_name(self.type_id)

    @property
    def format(self) -> Format:
        """The format; raises `Unsupported` with the reason when no kernel handles it."""
        try:
            return find_format(self.type_id)
        except Unsupported as error:
            raise Unsupported(f"{self.name}: {error.message}", error.hint) from None

    @property
    def n_bytes(self) -> int:
        """Bytes of all experts."""
        return sum(extent.n_bytes for extent in self.extents)

    @property
    def expert_bytes(self) -> int:
        """Bytes of one expert."""
        return self.n_bytes // self.n_experts

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill `buffer` (bytes, writable) from byte `offset` of the tensor, experts being contiguous.

        Raises `OpenError` when a file cannot be read or became shorter, `ValueError` beyond the tensor's end.
        """
        if offset < 0 or offset + len(buffer) > self.n_bytes:
            raise ValueError(
                f"bytes {offset} to {offset + len(buffer)} are not inside the {self.n_bytes} of {self.name}"
            )
        start = 0  # of the extent, in the tensor
        for extent in self.extents:
            first, last = max(offset, start), min(offset + len(buffer), start + extent.n_bytes)
            if first < last:
                _read_extent(extent.path, extent.offset + first - start, buffer[first - offset : last - offset])
            start += extent.n_bytes

    def read_expert(self, expert: int) -> NDArray[np.uint8]:
        """Read the packed bytes of one expert: u8 [expert_bytes]. Raises as `read_into`."""
        return self._read(expert * self.expert_bytes, self.expert_bytes)

    def pieces(self, max_bytes: int = _PIECE_BYTES) -> Iterator[tuple[int, NDArray[np.uint8]]]:
        """Read the tensor front to back in u8 pieces of `max_bytes` at most, each with its offset in the tensor.

        Raises as `read_into`.
        """
        for offset in range(0, self.n_bytes, max_bytes):
            yield offset, self._read(offset, min(max_bytes, self.n_bytes - offset))

    def _read(self, offset: int, n_bytes: int) -> NDArray[np.uint8]:
        import numpy as np

        piece = np.empty(n_bytes, np.uint8)
        self.read_into(offset, piece.data)
        return piece


def _read_extent(path: Path, offset: int, buffer: memoryview) -> None:
    """Read into all of `buffer`; no mmap, which would answer a file that shrinks with a SIGBUS."""
    file, _ = open_regular(path)
    try:
        with file:
            file.seek(offset)
            done = 0
            while done < len(buffer):
                n_bytes = file.readinto(buffer[done:])
                if not n_bytes:
                    raise shrank(path, offset + done)
                done += n_bytes
    except OSError as error:
        raise OpenError(f"cannot read {path}: {error.strerror}", "check the disk that holds it") from error


def layer_of(name: str) -> int | None:
    """Return the layer N of a tensor called `blk.N.…`, None for others."""
    match = _LAYER.fullmatch(name)
    return int(match[1]) if match else None


def find_outside(tensors: Iterable[Tensor]) -> tuple[OutsideTensor, ...]:
    """Find what belongs to expert layers but lies outside the expert blocks, sorted by layer, kind and name."""
    found = []
    for tensor in tensors:
        match = _LAYER.fullmatch(tensor.name)
        if match is None:
            continue
        kind = next((kind for kind, pattern in _OUTSIDE if pattern.fullmatch(match[2])), None)
        if kind is not None:
            found.append(OutsideTensor(int(match[1]), kind, tensor))
    return tuple(sorted(found, key=lambda outside: (outside.layer, outside.kind, outside.tensor.name)))


def find_experts(tensors: Iterable[Tensor], n_experts: int) -> tuple[ExpertTensor, ...]:
    """Build the expert tensors of a model with `n_experts` experts, sorted by layer and role.

    Raises `ModelError` naming the tensor when its own dimensions do not fit `n_experts`, when per-expert matrices are
    not 0..n-1 of one shape and type, or when a layer stores a role twice (fused and separate included).
    """
    found: dict[tuple[int, Role], ExpertTensor] = {}
    per_expert: dict[tuple[int, Role], dict[int, Tensor]] = {}
    for tensor in tensors:
        match = _LAYER.fullmatch(tensor.name)
        if match is None:
            continue
        layer, suffix = int(match[1]), match[2]
        if suffix in _STACKED:
            found[layer, _STACKED[suffix]] = _stacked(tensor, layer, _STACKED[suffix], n_experts)
        elif legacy := _PER_EXPERT.fullmatch(suffix):
            per_expert.setdefault((layer, cast(Role, legacy[1])), {})[int(legacy[2])] = tensor
    for (layer, role), matrices in per_expert.items():
        if (layer, role) in found:
            raise _error(found[layer, role], f"stands beside {matrices.popitem()[1].name}, one layout is allowed")
        found[layer, role] = _gathered(matrices, layer, role, n_experts)
    _check_fused(found)
    return tuple(sorted(found.values(), key=lambda expert: (expert.layer, ROLES.index(expert.role))))


def _stacked(tensor: Tensor, layer: int, role: Role, n_experts: int) -> ExpertTensor:
    # ggml does not store trailing dimensions of 1, so one expert is a matrix
    cols, rows, experts, *rest = (*tensor.ne, 1, 1, 1)
    if experts != n_experts or any(n != 1 for n in rest):
        raise _error(tensor, f"has dimensions {list(tensor.ne)}, the metadata says {n_experts} experts (its third)")
    return ExpertTensor(tensor.name, layer, role, tensor.type_id, experts, rows, cols, (tensor.extent,))


def _gathered(matrices: Mapping[int, Tensor], layer: int, role: Role, n_experts: int) -> ExpertTensor:
    name = f"blk.{layer}.ffn_{role}.0-{n_experts - 1}.weight"
    if len(matrices) != n_experts or max(matrices) != n_experts - 1:
        last = matrices[max(matrices)]
        raise _error(last, f"is the last of {len(matrices)} experts, the metadata says {n_experts}, counted from 0")
    first = matrices[0]
    for matrix in matrices.values():
        if (matrix.ne, matrix.type_id) != (first.ne, first.type_id):
            seen = f"{matrix.format_name} {list(matrix.ne)}"
            raise _error(matrix, f"is {seen}, but {first.name} is {first.format_name} {list(first.ne)}")
    cols, rows, *rest = (*first.ne, 1)
    if any(n != 1 for n in rest):
        raise _error(first, f"has dimensions {list(first.ne)}, the matrix of one expert has two")
    extents = tuple(matrices[expert].extent for expert in range(n_experts))
    return ExpertTensor(name, layer, role, first.type_id, n_experts, rows, cols, extents)


def _check_fused(experts: Mapping[tuple[int, Role], ExpertTensor]) -> None:
    for (layer, role), expert in experts.items():
        if role != "gate_up":
            continue
        if expert.rows % 2:
            raise _error(expert, f"has {expert.rows} rows, gate and up must have half of them each")
        if (layer, "gate") in experts or (layer, "up") in experts:
            raise _error(expert, "holds gate and up, but the layer also has one of them by itself")


def _error(tensor: Tensor | ExpertTensor, message: str) -> ModelError:
    extent = tensor.extent if isinstance(tensor, Tensor) else tensor.extents[0]
    return ModelError(f"{extent.path}: {tensor.name} {message}", _HINT)
