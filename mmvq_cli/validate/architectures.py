"""What each architecture demands of its expert layers, one row each, as llama.cpp's src/models/*.cpp build them.

A new architecture is one row here. One that has no row gets `GENERIC`, whose rules hold for all of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal, TypeAlias

# Where n_ff of an expert stands: `expert`: expert_feed_forward_length; `dense`: feed_forward_length; `either`: the
# first, else the second; `shared out`: the first, else the second divided by expert_used_count.
Width: TypeAlias = Literal["expert", "dense", "either", "shared out", "any"]
# Which layers have experts: `lead`: from leading_dense_block_count on; `interleave`: every
# interleave_moe_layer_step-th; `every n`: layer % moe_every_n_layers == 1; `own`: those that have the tensors.
Layers: TypeAlias = Literal["all", "lead", "interleave", "every n", "own"]
Presence: TypeAlias = Literal["none", "optional", "required"]
# Width of the shared experts: `count`: n_ff times expert_shared_count; `key`: expert_shared_feed_forward_length;
# `expert`: n_ff; `key or dense`: the key, else feed_forward_length; `any`: not checked.
Shared: TypeAlias = Literal["none", "count", "key", "expert", "key or dense", "any"]


@dataclass(frozen=True, slots=True)
class Architecture:
    """The rules of one architecture; the defaults are those of most."""

    width: Width = "expert"
    layers: Layers = "all"
    shared: Shared = "none"
    shared_gate: bool = False
    selection_bias: Presence = "none"
    expert_biases: Presence = "none"
    gate: Presence = "required"
    gating_key: Presence = "optional"
    gating_values: tuple[int, ...] = (1, 2, 3, 4)


GENERIC = Architecture("any", "own", "any", selection_bias="optional", expert_biases="optional", gate="optional")

_DEEPSEEK = Architecture(layers="lead", shared="count", selection_bias="optional")

ARCHITECTURES: Mapping[str, Architecture] = MappingProxyType(
    {
        "llama": Architecture("dense", shared="key"),
        "qwen2moe": Architecture("shared out", shared="key", shared_gate=True),
        "qwen3moe": Architecture("shared out"),
        "qwen3vlmoe": Architecture("shared out"),
        "rnd1": Architecture("shared out"),
        "mellum": Architecture("shared out"),
        "qwen3next": Architecture(shared="key", shared_gate=True),
        "qwen35moe": Architecture(shared="key", shared_gate=True),
        "deepseek": Architecture(layers="lead", shared="count"),
        "deepseek2": _DEEPSEEK,
        "deepseek32": _DEEPSEEK,
        "glm-dsa": _DEEPSEEK,
        "deepseek4": Architecture(shared="count", selection_bias="optional", gating_key="required", gating_values=(4,)),
        "glm4moe": Architecture("shared out", "lead", "count", selection_bias="required"),
        "gpt-oss": Architecture(expert_biases="required"),
        "llama4": Architecture(layers="interleave", shared="expert"),
        "olmoe": Architecture("dense"),
        "llada-moe": Architecture(),
        "dots1": Architecture(layers="lead", shared="count", selection_bias="optional", gating_key="required"),
        "ernie4_5-moe": Architecture(layers="lead", shared="key", selection_bias="optional"),
        "minimax-m2": Architecture("either", selection_bias="required"),
        "minimax-m3": Architecture(layers="lead", shared="count", selection_bias="required"),
        "granitemoe": Architecture("dense", shared="key", gate="optional"),
        "granitehybrid": Architecture("dense", "own", "key", gate="optional"),
        "grok": Architecture("either"),
        "dbrx": Architecture("dense"),
        "phimoe": Architecture("dense"),
        "arctic": Architecture("dense"),
        "jamba": Architecture("dense", "own"),
        "hunyuan-moe": Architecture("dense", shared="key or dense"),
        "kimi-linear": Architecture(layers="lead", shared="count", selection_bias="required"),
        "kimi-k3": Architecture(layers="lead", shared="count", selection_bias="required"),
        "bailingmoe2": Architecture(layers="lead", shared="any", selection_bias="optional", gating_key="required"),
        "lfm2moe": Architecture(layers="lead", selection_bias="required", gating_key="required"),
        "nemotron_h_moe": Architecture(layers="own", shared="any", selection_bias="required", gate="none"),
        "step35": Architecture(layers="own", shared="any", selection_bias="optional"),
        "mimo2": Architecture(layers="own", selection_bias="optional"),
        "gemma4": Architecture(),
        "smallthinker": Architecture(),
        "cohere2moe": Architecture(layers="lead", shared="any"),
        "afmoe": Architecture(layers="lead", shared="any", selection_bias="required"),
        "grovemoe": Architecture(),
        "nomic-bert-moe": Architecture("dense", "every n", gate="none"),
    }
)
