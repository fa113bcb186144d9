"""The cases of a GGUF file and of a preset."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from mmvq_cli.errors import NothingMatched
from mmvq_cli.model import ExpertTensor, Model, Preset, find_preset, open_model
from mmvq_cli.op import FORMATS
from mmvq_cli.suite.case import Axes, Suite, WeightSource, expand
from mmvq_cli.suite.parse import layer_numbers


def model_suite(path: Path, axes: Axes) -> Suite:
    """The cases of a GGUF file or split set.

    Raises `OpenError`, `ModelError`, and `NothingMatched` when the file has no expert tensor.
    """
    model = open_model(path)
    if not model.expert_tensors:
        raise NothingMatched(f"{path} has no expert tensors", "mmvq benches mixture-of-experts models")
    return Suite(path.stem, f"expert tensors of {path.name}", expand(_model_sources(model, path.stem, axes), axes))


def preset_suite(name: str, axes: Axes, formats: Sequence[str] = ()) -> Suite:
    """The cases of a released model's shapes with random valid blocks, optionally in other formats."""
    preset = find_preset(name)
    return Suite(preset.name, preset.title, expand(_preset_sources(preset, axes, formats), axes))


def _model_sources(model: Model, label: str, axes: Axes) -> list[WeightSource]:
    wanted = layer_numbers(axes.layers)
    seen: set[tuple[Any, ...]] = set()
    sources = []
    for tensor in model.expert_tensors:
        shape = (tensor.role, tensor.type_id, tensor.n_experts, tensor.rows, tensor.cols)
        if tensor.role not in axes.roles or (wanted is None and axes.layers == "distinct" and shape in seen):
            continue
        if wanted is not None and tensor.layer not in wanted:
            continue
        seen.add(shape)
        sources.append(
            WeightSource(
                model=label,
                name=tensor.name.removesuffix(".weight"),
                role=tensor.role,
                format_name=tensor.format_name,
                n_experts=tensor.n_experts,
                rows=tensor.rows,
                cols=tensor.cols,
                top_k=_top_k(model, tensor),
                tensor=tensor,
                outside=tuple(
                    outside.tensor.name
                    for outside in model.outside_tensors(tensor.layer)
                    if outside.tensor.name.startswith(f"blk.{tensor.layer}.ffn_{tensor.role}_exps.")
                ),
            )
        )
    return sources


def _top_k(model: Model, tensor: ExpertTensor) -> int:
    """Experts per token of the tensor's layer; 1 for a file without that key (a bare tensor collection)."""
    return (model.top_k_of(tensor.layer) if tensor.layer < len(model.top_ks) else model.top_k) or 1


def _named(formats: Sequence[str], cols: int) -> Iterator[str]:
    """Spell the names as the table does; `all` stands for every format that has rows of `cols` weights."""
    for name in (name.strip().upper() for name in formats):
        if name == "ALL":
            yield from (format.name for format in FORMATS.values() if cols % format.block_size == 0)
        else:
            yield name


def _preset_sources(preset: Preset, axes: Axes, formats: Sequence[str]) -> list[WeightSource]:
    sources = []
    for role, (rows, cols) in preset.shapes.items():
        if role not in axes.roles:
            continue
        names = dict.fromkeys(_named(formats, cols)) or (preset.formats[role].name,)
        sources += [
            WeightSource(preset.name, role, role, name, preset.n_experts, rows, cols, preset.top_k) for name in names
        ]
    return sources
