"""Models: strict GGUF headers, split sets, expert tensors and their bytes, presets, synthetic weights."""

from __future__ import annotations

from mmvq_cli.model.header import ArrayValue, Header, TensorInfo, read_header
from mmvq_cli.model.model import Model, open_model
from mmvq_cli.model.presets import Preset, find_preset, load_presets
from mmvq_cli.model.summary import Summary, summarize
from mmvq_cli.model.tensors import ExpertTensor, Extent, OutsideTensor, Tensor

__all__ = [
    "ArrayValue",
    "ExpertTensor",
    "Extent",
    "Header",
    "Model",
    "OutsideTensor",
    "Preset",
    "Summary",
    "Tensor",
    "TensorInfo",
    "find_preset",
    "load_presets",
    "open_model",
    "read_header",
    "summarize",
]
