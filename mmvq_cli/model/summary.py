"""What a model holds, as rows: layers with equal tensors are folded into one row."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from mmvq_cli.errors import Unsupported
from mmvq_cli.model.model import Model
from mmvq_cli.model.tensors import ROLES, ExpertTensor, OutsideTensor


@dataclass(frozen=True, slots=True)
class ExpertRow:
    """Expert tensors of one role, type and shape [n_experts, rows, cols] in `layers`; `unsupported` is the reason."""

    layers: str
    role: str
    format: str
    n_experts: int
    rows: int
    cols: int
    layer_bytes: int
    total_bytes: int
    bits_per_weight: float
    unsupported: str | None


@dataclass(frozen=True, slots=True)
class OutsideRow:
    """Tensors of one name, type and `shape` (ggml order) outside the expert blocks of `layers`."""

    layers: str
    kind: str
    name: str
    format: str
    shape: tuple[int, ...]
    total_bytes: int


@dataclass(frozen=True, slots=True)
class Summary:
    """Everything that `mmvq inspect` shows; sizes in bytes."""

    files: tuple[str, ...]
    architecture: str
    n_layers: int
    n_expert_layers: int
    n_experts: int
    top_k: int
    file_size_bytes: int
    expert_bytes: int
    experts: tuple[ExpertRow, ...]
    outside: tuple[OutsideRow, ...]
    warnings: tuple[str, ...]


def summarize(model: Model) -> Summary:
    """Fold the tensors of `model` into rows."""
    return Summary(
        files=tuple(str(path) for path in model.paths),
        architecture=model.architecture,
        n_layers=model.n_layers,
        n_expert_layers=len({tensor.layer for tensor in model.expert_tensors}),
        n_experts=model.n_experts,
        top_k=model.top_k,
        file_size_bytes=model.file_size_bytes,
        expert_bytes=sum(tensor.n_bytes for tensor in model.expert_tensors),
        experts=_expert_rows(model.expert_tensors),
        outside=_outside_rows(model.outside),
        warnings=model.warnings,
    )


def layer_ranges(layers: Iterable[int]) -> str:
    """Write layer numbers compactly: `0-2,5`."""
    runs: list[list[int]] = []
    for layer in sorted(set(layers)):
        if runs and layer == runs[-1][1] + 1:
            runs[-1][1] = layer
        else:
            runs.append([layer, layer])
    return ",".join(f"{first}" if first == last else f"{first}-{last}" for first, last in runs)


def _expert_rows(tensors: tuple[ExpertTensor, ...]) -> tuple[ExpertRow, ...]:
    groups: dict[tuple[object, ...], list[ExpertTensor]] = {}
    for tensor in sorted(tensors, key=lambda tensor: ROLES.index(tensor.role)):
        key = (tensor.role, tensor.type_id, tensor.n_experts, tensor.rows, tensor.cols)
        groups.setdefault(key, []).append(tensor)
    return tuple(_expert_row(group) for group in groups.values())


def _expert_row(group: list[ExpertTensor]) -> ExpertRow:
    first = group[0]
    return ExpertRow(
        layers=layer_ranges(tensor.layer for tensor in group),
        role=first.role,
        format=first.format_name,
        n_experts=first.n_experts,
        rows=first.rows,
        cols=first.cols,
        layer_bytes=first.n_bytes,
        total_bytes=sum(tensor.n_bytes for tensor in group),
        bits_per_weight=8 * first.expert_bytes / (first.rows * first.cols),
        unsupported=_unsupported(first),
    )


def _unsupported(tensor: ExpertTensor) -> str | None:
    try:
        tensor.format  # noqa: B018 - the property raises
    except Unsupported as error:
        return error.message
    return None


def _outside_rows(outside: tuple[OutsideTensor, ...]) -> tuple[OutsideRow, ...]:
    groups: dict[tuple[str, str, int, tuple[int, ...]], list[OutsideTensor]] = {}
    for layer, kind, tensor in outside:
        suffix = tensor.name.removeprefix(f"blk.{layer}.")
        groups.setdefault((kind, suffix, tensor.type_id, tensor.ne), []).append(OutsideTensor(layer, kind, tensor))
    return tuple(
        OutsideRow(
            layers=layer_ranges(item.layer for item in group),
            kind=kind,
            name=suffix,
            format=group[0].tensor.format_name,
            shape=ne,
            total_bytes=sum(item.tensor.n_bytes for item in group),
        )
        for (kind, suffix, _, ne), group in groups.items()
    )
