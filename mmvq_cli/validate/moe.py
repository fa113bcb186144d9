"""The moe layer: metadata against itself, and against the tensors of every layer; all faults, not the first."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass

from mmvq_cli.model import Header, Tensor
from mmvq_cli.op.formats import FORMATS
from mmvq_cli.validate.architectures import ARCHITECTURES, GENERIC, Architecture
from mmvq_cli.validate.findings import Findings, Place
from mmvq_cli.validate.hyperparameters import Hyperparameters
from mmvq_cli.validate.layers import Layer, Stack

_MAX_EXPERTS = 1024
_MAX_BLOCKS = 512
_GATING = (1, 2, 3, 4)
_EPSILONS = ("attention.layer_norm_rms_epsilon", "attention.layer_norm_epsilon")
_ARRAYS = ("expert_used_count", "expert_feed_forward_length", "feed_forward_length", "expert_count")
# general.file_type (llama.cpp's llama_ftype) -> the types of which some expert tensor should have one
_FILE_TYPES: dict[int, tuple[str, ...]] = {
    0: ("F32",),
    1: ("F16",),
    2: ("Q4_0",),
    3: ("Q4_1",),
    7: ("Q8_0",),
    8: ("Q5_0",),
    9: ("Q5_1",),
    10: ("Q2_K",),
    **dict.fromkeys((11, 12, 13), ("Q3_K",)),
    **dict.fromkeys((14, 15), ("Q4_K",)),
    **dict.fromkeys((16, 17), ("Q5_K",)),
    18: ("Q6_K",),
    19: ("IQ2_XXS",),
    20: ("IQ2_XS",),
    21: ("Q2_K",),
    22: ("IQ3_XXS", "IQ3_S"),
    23: ("IQ3_XXS",),
    24: ("IQ1_S",),
    25: ("IQ4_NL",),
    26: ("IQ3_S",),
    27: ("IQ3_S",),
    28: ("IQ2_XS", "IQ2_S"),
    29: ("IQ2_S",),
    30: ("IQ4_XS",),
    31: ("IQ1_M",),
    32: ("BF16",),
    36: ("TQ1_0",),
    37: ("TQ2_0",),
    38: ("MXFP4",),
    39: ("NVFP4",),
}


@dataclass(frozen=True, slots=True)
class Moe:
    """What the rules are applied to; `n_experts` is the metadata's, or the stacks' own where that is unusable."""

    hyper: Hyperparameters
    rules: Architecture
    layers: tuple[Layer, ...]
    n_layers: int
    n_experts: int
    findings: Findings

    @property
    def expert_layers(self) -> tuple[Layer, ...]:
        """The layers that have expert tensors."""
        return tuple(layer for layer in self.layers if layer.stacks)

    def at(self, tensor: Tensor | Stack) -> Place:
        """The start of a tensor."""
        tensor = tensor.tensor if isinstance(tensor, Stack) else tensor
        return Place(tensor.extent.path, tensor.extent.offset, tensor.name)

    def whole(self) -> Place:
        """The model itself."""
        return Place(self.hyper.path)

    def in_layer(self, index: int) -> Place:
        """A layer, named like a tensor."""
        return Place(self.hyper.path, tensor=f"blk.{index}")

    def width(self, layer: int) -> int | None:
        """The width of one expert by the metadata, None where it does not say."""
        expert = self.hyper.of_layer("expert_feed_forward_length", layer)
        dense = self.hyper.of_layer("feed_forward_length", layer)
        used = self.hyper.of_layer("expert_used_count", layer)
        match self.rules.width:
            case "expert":
                return expert
            case "dense":
                return dense
            case "either":
                return expert or dense
            case "shared out":
                return expert or (dense // used if dense and used else None)
            case "any":
                return None

    def is_demanded(self, layer: int) -> bool | None:
        """Whether `layer` must have experts (True), must be dense (False), or may be either (None)."""
        if layer >= self.n_layers - (self.hyper.integer("nextn_predict_layers") or 0):
            return None
        if isinstance(self.hyper.get("expert_used_count"), tuple):
            used = self.hyper.of_layer("expert_used_count", layer)
            return None if used is None else used > 0
        step = self.hyper.integer("interleave_moe_layer_step")
        every = self.hyper.integer("moe_every_n_layers")
        match self.rules.layers:
            case "all":
                return True
            case "lead":
                return layer >= (self.hyper.integer("leading_dense_block_count") or 0)
            case "interleave":
                return (layer + 1) % step == 0 if step else None
            case "every n":
                return layer % every == 1 if every else None
            case "own":
                return None


def describe(headers: tuple[Header, ...], layers: tuple[Layer, ...], findings: Findings) -> Moe:
    """Choose the rules and settle the counts that all checks use."""
    hyper = Hyperparameters(headers)
    stacked = Counter(stack.n_experts for layer in layers for stack in layer.stacks.values())
    declared = hyper.integer("expert_count")
    usable = declared is not None and 1 <= declared <= _MAX_EXPERTS
    n_experts = declared if usable and declared is not None else max(stacked, key=stacked.__getitem__, default=0)
    n_layers = hyper.integer("block_count")
    if n_layers is None or not 1 <= n_layers <= _MAX_BLOCKS:
        n_layers = len(layers)
    rules = ARCHITECTURES.get(hyper.architecture, GENERIC)
    return Moe(hyper, rules, layers, n_layers, n_experts, findings)


def check_metadata(moe: Moe) -> None:
    """Check the hyperparameters against each other and against the number of layers."""
    hyper, findings = moe.hyper, moe.findings
    if hyper.architecture not in ARCHITECTURES:
        name = hyper.architecture or repr(hyper.values.get("general.architecture"))
        findings.add("moe.unknown-architecture", f"architecture {name} has no rules of its own", moe.whole())
        findings.leave_out(f"rules of architecture {name}: only the general ones were applied")
    _check_block_count(moe)
    for name in _EPSILONS:
        value = hyper.get(name)
        if value is not None and not (isinstance(value, float) and math.isfinite(value) and value >= 0):
            findings.add("moe.norm-epsilon", f"{hyper.shown(name)}, it must be a finite number", moe.whole(), value)
    if not moe.expert_layers:
        if hyper.get("expert_count") not in (None, 0):
            _check_counts(moe)
        findings.add("moe.no-experts", "there are no expert tensors", moe.whole())
        return
    _check_counts(moe)
    _check_groups(moe)
    _check_arrays(moe)
    _check_gating(moe)
    _check_file_type(moe)


def _check_block_count(moe: Moe) -> None:
    hyper = moe.hyper
    count = hyper.integer("block_count")
    present = max((layer.index for layer in moe.layers), default=-1) + 1
    if not present and hyper.get("block_count") is None:
        return
    if count is None or not 1 <= count <= _MAX_BLOCKS:
        rule = f"it must be an integer from 1 to {_MAX_BLOCKS}"
    elif count != present:
        rule = f"but the highest layer of the tensors is blk.{present - 1}"
    else:
        return
    moe.findings.add("moe.block-count", f"{hyper.shown('block_count')}, {rule}", moe.whole(), count)


def _check_counts(moe: Moe) -> None:
    hyper, findings = moe.hyper, moe.findings
    count = hyper.integer("expert_count")
    if count is None or not 1 <= count <= _MAX_EXPERTS:
        rule = f"it must be an integer from 1 to {_MAX_EXPERTS}"
        findings.add("moe.expert-count", f"{hyper.shown('expert_count')}, {rule}", moe.whole(), count)
    used = hyper.get("expert_used_count")
    values = used if isinstance(used, tuple) else (used,)
    least = 0 if isinstance(used, tuple) else 1
    legal = all(type(value) is int and least <= value <= moe.n_experts for value in values)
    if not legal or not any(values):
        rule = f"it must be 1 to {moe.n_experts}, the expert count"
        findings.add("moe.used-count", f"{hyper.shown('expert_used_count')}, {rule}", moe.whole())


def _check_groups(moe: Moe) -> None:
    hyper = moe.hyper
    groups, used = hyper.get("expert_group_count"), hyper.get("expert_group_used_count")
    if groups in (None, 0, 1):
        return
    shown = f"{hyper.shown('expert_group_count')}, {hyper.shown('expert_group_used_count')}"
    if type(groups) is not int or groups < 1 or groups >= moe.n_experts or moe.n_experts % groups:
        rule = f"the groups must divide {moe.n_experts} experts"
    elif type(used) is not int or not 0 < used < groups:
        rule = "fewer groups must be used than there are, and at least 1"
    else:
        return
    moe.findings.add("moe.groups", f"{shown}: {rule}", moe.whole())


def _check_arrays(moe: Moe) -> None:
    for name in _ARRAYS:
        value = moe.hyper.get(name)
        length = len(value) if isinstance(value, tuple) else getattr(value, "length", None)
        if length is not None and length != moe.n_layers:
            message = f"{moe.hyper.key(name)} has {length} numbers for {moe.n_layers} layers"
            moe.findings.add("moe.per-layer-array", message, moe.whole(), length)


def _check_gating(moe: Moe) -> None:
    hyper, rules = moe.hyper, moe.rules
    value = hyper.get("expert_gating_func")
    allowed = [number for number in _GATING if number in rules.gating_values]
    if value is None and rules.gating_key != "required":
        return
    if value not in allowed or type(value) is not int:
        message = f"{hyper.shown('expert_gating_func')}, {hyper.architecture} needs {' or '.join(map(str, allowed))}"
        moe.findings.add("moe.gating", message, moe.whole(), value)


def _check_file_type(moe: Moe) -> None:
    file_type = moe.hyper.values.get("general.file_type")
    expected = _FILE_TYPES.get(file_type) if type(file_type) is int else None
    stacks = [stack for layer in moe.expert_layers for stack in layer.stacks.values()]
    found = {stack.tensor.format_name for stack in stacks}
    if expected is None or found & set(expected):
        return
    # Rows that are not whole blocks of the type fall back to another one by design.
    if all(stack.cols % FORMATS[name].block_size for name in expected for stack in stacks):
        return
    message = (
        f"general.file_type {file_type} means {'/'.join(expected)}, the expert tensors are {', '.join(sorted(found))}"
    )
    moe.findings.add("moe.file-type", message, moe.whole(), file_type)
