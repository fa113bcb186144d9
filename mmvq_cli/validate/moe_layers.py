"""The moe layer, tensor by tensor: presence, dimensions, types, and the values of routers and biases."""

from __future__ import annotations

import re
from itertools import islice
from math import prod

import numpy as np

from mmvq_cli.model import Tensor
from mmvq_cli.validate.layers import Layer, Stack, read_values
from mmvq_cli.validate.moe import Moe
from mmvq_cli.validate.robust import outliers

_ROUTER = "ffn_gate_inp.weight"
_SELECTION = ("exp_probs_b.bias", "exp_probs_b")
_LATENT = re.compile(r"ffn_latent_(down|up)\..*")
_LEGACY_NUMBER = re.compile(r"\.(\d+)\.weight$")
_SHARED = {"gate": "ffn_gate_shexp.weight", "up": "ffn_up_shexp.weight", "down": "ffn_down_shexp.weight"}
_SHARED_GATE = "ffn_gate_inp_shexp.weight"
_SCALES = (".scale", ".input_scale")
_MOST_NAMED = 8


def check_layers(moe: Moe) -> None:
    """Check every layer by itself, then what can only be seen by comparing layers."""
    indices = {layer.index: layer for layer in moe.layers}
    for index in range(moe.n_layers):
        layer = indices.get(index, Layer(index, {}, {}))
        _check_presence(moe, layer)
        if layer.stacks:
            _check_stacks(moe, layer)
            _check_shared(moe, layer)
            _check_router(moe, layer)
            _check_expert_biases(moe, layer)
    _check_selection_biases(moe)
    _check_scales(moe)
    if any(stack.is_legacy for layer in moe.expert_layers for stack in layer.stacks.values()):
        moe.findings.add("moe.legacy-layout", "each expert has tensors of its own", moe.whole())


def _check_presence(moe: Moe, layer: Layer) -> None:
    demanded = moe.is_demanded(layer.index)
    if not layer.stacks:
        if demanded and moe.n_experts:
            moe.findings.add("moe.missing-tensor", "the layer has no expert tensors", moe.in_layer(layer.index))
        return
    if demanded is False:
        message = "the layer must be dense by the metadata, but has expert tensors"
        moe.findings.add("moe.extra-tensor", message, moe.in_layer(layer.index))
        return
    _check_roles(moe, layer)
    if _ROUTER not in layer.tensors:
        moe.findings.add("moe.missing-tensor", f"{_ROUTER} (the router) is missing", moe.in_layer(layer.index))


def _check_roles(moe: Moe, layer: Layer) -> None:
    roles, place = set(layer.stacks), moe.in_layer(layer.index)
    for separate in ("gate", "up"):
        if "gate_up" in roles and separate in roles:
            message = f"holds gate and up, but the layer also has {layer.stacks[separate].tensor.name}"
            moe.findings.add("moe.fused", message, moe.at(layer.stacks["gate_up"]))
    needed = {"down"} if "gate_up" in roles else {"up", "down"}
    if moe.rules.gate == "required" and "gate_up" not in roles:
        needed.add("gate")
    for role in sorted(needed - roles):
        moe.findings.add("moe.missing-tensor", f"ffn_{role}_exps.weight is missing", place)
    if moe.rules.gate == "none" and "gate" in roles:
        message = f"{moe.hyper.architecture} experts have no gate"
        moe.findings.add("moe.extra-tensor", message, moe.at(layer.stacks["gate"]))


def _check_stacks(moe: Moe, layer: Layer) -> None:
    stacks = layer.stacks
    for stack in stacks.values():
        if stack.n_experts != moe.n_experts or len(stack.tensor.ne) > 3:
            message = f"has dimensions {list(stack.tensor.ne)}, the metadata says {moe.n_experts} experts"
            if stack.is_legacy:
                message = f"is the first of {stack.n_experts} experts, the metadata says {moe.n_experts}"
            moe.findings.add("moe.expert-count", message, moe.at(stack), stack.n_experts)
        if stack.is_legacy:
            _check_legacy(moe, stack)
        _check_dimensions(moe, layer, stack)
    gate, up = stacks.get("gate"), stacks.get("up")
    if gate and up and gate.rows != up.rows:
        moe.findings.add("moe.dimensions", f"has {gate.rows} rows, up has {up.rows}", moe.at(gate), gate.rows)
    if gate and up and gate.tensor.type_id != up.tensor.type_id:
        message = f"is {gate.tensor.format_name}, up is {up.tensor.format_name}"
        moe.findings.add("moe.mixed-types", message, moe.at(gate))


def _check_legacy(moe: Moe, stack: Stack) -> None:
    numbers = sorted(int(match[1]) for tensor in stack.tensors if (match := _LEGACY_NUMBER.search(tensor.name)))
    if numbers != list(range(len(numbers))):
        present = set(numbers)
        missing = (number for number in range(max(numbers)) if number not in present)
        absent = list(islice(missing, _MOST_NAMED))  # not all: the largest number is only the file's word
        moe.findings.add("moe.legacy-experts", f"experts {absent} of this role are missing", moe.at(stack))
    for tensor in stack.tensors[1:]:
        if (tensor.ne, tensor.type_id) != (stack.tensor.ne, stack.tensor.type_id):
            seen, first = f"{tensor.format_name} {list(tensor.ne)}", stack.tensor
            message = f"is {seen}, but {first.name} is {first.format_name} {list(first.ne)}"
            moe.findings.add("moe.legacy-experts", message, moe.at(tensor))


def _check_dimensions(moe: Moe, layer: Layer, stack: Stack) -> None:
    if stack.role == "gate_up" and stack.rows % 2:
        message = f"has {stack.rows} rows, gate and up must have half of them each"
        moe.findings.add("moe.fused", message, moe.at(stack), stack.rows)
        return
    is_latent = any(map(_LATENT.fullmatch, layer.tensors))
    model = None if is_latent else moe.hyper.integer("embedding_length")
    width = moe.width(layer.index)
    if width is None:
        width = _width_of_up(layer)
    rows, cols = (model, width) if stack.role == "down" else (width, model)
    if stack.role == "gate_up" and rows is not None:
        rows *= 2
    wrong = [
        f"{seen} {what} (ne[{axis}]), it must be {expected}"
        for what, axis, seen, expected in (("columns", 0, stack.cols, cols), ("rows", 1, stack.rows, rows))
        if expected is not None and seen != expected
    ]
    if wrong:
        check = "moe.fused" if stack.role == "gate_up" else "moe.dimensions"
        moe.findings.add(check, f"has {' and '.join(wrong)}", moe.at(stack), list(stack.tensor.ne))


def _width_of_up(layer: Layer) -> int | None:
    """The width of one expert by its own up tensor."""
    if "up" in layer.stacks:
        return layer.stacks["up"].rows
    return layer.stacks["gate_up"].rows // 2 if "gate_up" in layer.stacks else None


def _check_shared(moe: Moe, layer: Layer) -> None:
    present = {role: layer.tensors[suffix] for role, suffix in _SHARED.items() if suffix in layer.tensors}
    if moe.rules.shared == "none":
        for tensor in present.values():
            moe.findings.add("moe.shared-expert", f"{moe.hyper.architecture} has no shared experts", moe.at(tensor))
        return
    if moe.rules.shared == "any":
        return
    width = _shared_width(moe, layer)
    if width is None and not present:
        return
    for role in ("gate", "up", "down"):
        if role not in present:
            message = f"{_SHARED[role]} is missing, the metadata says that there are shared experts"
            moe.findings.add("moe.shared-expert", message, moe.in_layer(layer.index))
    _check_shared_dimensions(moe, present, width)
    gate = layer.tensors.get(_SHARED_GATE)
    model = moe.hyper.integer("embedding_length")
    if gate is None and moe.rules.shared_gate:
        moe.findings.add("moe.shared-expert", f"{_SHARED_GATE} is missing", moe.in_layer(layer.index))
    elif gate is not None and model is not None and prod(gate.ne) != model:
        message = f"has dimensions {list(gate.ne)}, they must be [{model}]"
        moe.findings.add("moe.shared-expert", message, moe.at(gate))


def _shared_width(moe: Moe, layer: Layer) -> int | None:
    """The width of the shared experts by the metadata; None when there are none, or it does not say."""
    key = moe.hyper.of_layer("expert_shared_feed_forward_length", layer.index)
    count = moe.hyper.of_layer("expert_shared_count", layer.index)
    width = moe.width(layer.index)
    match moe.rules.shared:
        case "count":
            return key or (width * count if width and count else None)
        case "key":
            return key or None
        case "key or dense":
            return key or moe.hyper.of_layer("feed_forward_length", layer.index)
        case "expert":
            return width
        case "any" | "none":
            return None


def _check_shared_dimensions(moe: Moe, present: dict[str, Tensor], width: int | None) -> None:
    model = moe.hyper.integer("embedding_length")
    if width is None and "up" in present:
        width = (*present["up"].ne, 1)[1]
    if model is None or width is None:
        return
    for role, tensor in present.items():
        expected = (width, model) if role == "down" else (model, width)
        if (*tensor.ne, 1)[:2] != expected or any(n != 1 for n in tensor.ne[2:]):
            message = f"has dimensions {list(tensor.ne)}, they must be {list(expected)}"
            moe.findings.add("moe.shared-expert", message, moe.at(tensor), list(tensor.ne))


def _check_router(moe: Moe, layer: Layer) -> None:
    router = layer.tensors.get(_ROUTER)
    if router is None:
        return
    model = moe.hyper.integer("embedding_length")
    cols, rows, *_ = (*router.ne, 1)
    if rows != moe.n_experts:
        message = f"has dimensions {list(router.ne)}, the metadata says {moe.n_experts} experts"
        moe.findings.add("moe.expert-count", message, moe.at(router), rows)
    if model is not None and cols != model:
        moe.findings.add("moe.dimensions", f"has {cols} columns, it must be {model}", moe.at(router), cols)
    if router.format_name != "F32":
        moe.findings.add("moe.router-type", f"is {router.format_name}, it must be F32", moe.at(router))
    _check_router_values(moe, router)


def _check_router_values(moe: Moe, router: Tensor) -> None:
    if not moe.findings.wants("moe.router-values"):
        return
    values = read_values(router)
    if values is None:
        moe.findings.leave_out(f"values of {router.name}: {router.format_name} routers are not decoded")
        return
    wrong = int(np.count_nonzero(~np.isfinite(values)))
    if wrong:
        message = f"{wrong} of {values.size} values are NaN or Inf"
        moe.findings.add("moe.router-values", message, moe.at(router), count=wrong)
    elif not values.any():
        moe.findings.add("moe.router-values", "all values are zero", moe.at(router), 0)


def _check_expert_biases(moe: Moe, layer: Layer) -> None:
    biases = {role: layer.tensors.get(f"ffn_{role}_exps.bias") for role in layer.stacks}
    present = {role: tensor for role, tensor in biases.items() if tensor is not None}
    if present or moe.rules.expert_biases == "required":
        for role in sorted(biases.keys() - present.keys()):
            message = f"ffn_{role}_exps.bias is missing"
            moe.findings.add("moe.expert-bias", message, moe.in_layer(layer.index))
    for role, bias in present.items():
        if moe.rules.expert_biases == "none":
            message = f"{moe.hyper.architecture} has no expert biases"
            moe.findings.add("moe.extra-tensor", message, moe.at(bias))
        expected = (layer.stacks[role].rows, layer.stacks[role].n_experts)
        if (*bias.ne, 1)[:2] != expected:
            message = f"has dimensions {list(bias.ne)}, they must be {list(expected)}"
            moe.findings.add("moe.expert-bias", message, moe.at(bias), list(bias.ne))
        values = read_values(bias)
        if values is not None and not np.isfinite(values).all():
            moe.findings.add("moe.expert-bias", "holds NaN or Inf", moe.at(bias))


def _check_selection_biases(moe: Moe) -> None:
    """Check each layer's biases, and the largest of each against those of the other layers."""
    largest: dict[int, tuple[Tensor, float]] = {}
    for layer in moe.expert_layers:
        bias = next((layer.tensors[name] for name in _SELECTION if name in layer.tensors), None)
        if bias is None:
            if moe.rules.selection_bias == "required" and moe.is_demanded(layer.index) is not None:
                moe.findings.add("moe.missing-tensor", f"{_SELECTION[0]} is missing", moe.in_layer(layer.index))
            continue
        if prod(bias.ne) != moe.n_experts:
            message = f"has dimensions {list(bias.ne)}, they must be [{moe.n_experts}]"
            moe.findings.add("moe.selection-bias", message, moe.at(bias), list(bias.ne))
        values = read_values(bias)
        if values is None:
            continue
        if not np.isfinite(values).all():
            expert = int(np.flatnonzero(~np.isfinite(values.ravel()))[0])
            message = f"is not finite for expert {expert}"
            moe.findings.add("moe.selection-bias", message, moe.at(bias), values.ravel()[expert])
        else:
            largest[layer.index] = bias, float(np.abs(values).max())
    found = list(largest.values())
    for number, ratio in outliers(np.array([value for _, value in found])):
        bias, value = found[number]
        message = f"reaches {value:.4g}, {ratio:.3g} times the median of the layers"
        moe.findings.add("moe.selection-bias-range", message, moe.at(bias), f"{value:.4g}")


def _check_scales(moe: Moe) -> None:
    lacking: list[Stack] = []
    n_nvfp4 = 0
    for layer in moe.expert_layers:
        for role, stack in layer.stacks.items():
            if stack.tensor.format_name == "NVFP4":
                n_nvfp4 += 1
                lacking += [] if f"ffn_{role}_exps.scale" in layer.tensors else [stack]
            for suffix in _SCALES:
                if tensor := layer.tensors.get(f"ffn_{role}_exps{suffix}"):
                    _check_scale(moe, tensor)
    if lacking and len(lacking) == n_nvfp4:
        moe.findings.add("moe.no-expert-scale", f"none of {n_nvfp4} NVFP4 expert tensors has a .scale", moe.whole())
    elif lacking:
        for stack in lacking:
            moe.findings.add("moe.expert-scale", "has no .scale, other NVFP4 expert tensors have", moe.at(stack))


def _check_scale(moe: Moe, tensor: Tensor) -> None:
    values = read_values(tensor)
    if prod(tensor.ne) not in (1, moe.n_experts):
        message = f"has dimensions {list(tensor.ne)}, they must be [{moe.n_experts}]"
        moe.findings.add("moe.expert-scale", message, moe.at(tensor), list(tensor.ne))
    if values is None:
        return
    for expert in np.flatnonzero(~np.isfinite(values.ravel()) | (values.ravel() == 0))[:8]:
        value = values.ravel()[expert]
        moe.findings.add("moe.expert-scale", f"is {value} for expert {expert}", moe.at(tensor), value)
