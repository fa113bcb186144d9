"""What the user writes for a routing, such as `zipf:1.0` or `trace:FILE`, as a value."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from mmvq_cli.errors import UsageError

# How each kind is written, with its meaning: the text of every error and of the help.
ROUTING_KINDS = {
    "uniform": "uniform: every expert is equally likely",
    "balanced": "balanced: dispatches per expert differ by at most one",
    "zipf": "zipf:S: the expert of rank r has popularity r^-S, S > 0 (0.2 mild, 1.0 harsh)",
    "lognormal": "lognormal:SIGMA: popularities are the quantiles of a log-normal, SIGMA > 0",
    "hot": "hot:SHARE or hot:EXPERTS:SHARE: so many experts (1) hold that share of the popularity, 0 < SHARE <= 1",
    "trace": "trace:FILE: batches of a recorded trace (`mmvq trace import`)",
    "twin": "twin:PRESET: batches of a synthetic trace shaped like a measured model (`mmvq trace synth --help`)",
}
COMPOSITIONS = ("recorded", "decode-mix", "chunk", "shuffle")
EXPERT_MAPS = ("fold", "tile")
_OPTIONS = ("compose", "layer", "map")


@dataclass(frozen=True, slots=True)
class RoutingSpec:
    """A family of routings; `str()` gives the canonical spelling, which `parse_routing` reads back.

    `parameter` is zipf's rank exponent, lognormal's sigma or hot's share; `hot_experts` counts the hot experts.
    `origin` is the file of a trace or the preset of a twin; `compose` makes its batches (empty: as the trace is
    ordered), `layer` is the model's layer to replay (-1: the tensor's own), `expert_map` fits other expert counts.
    """

    kind: str
    parameter: float | None = None
    hot_experts: int = 1
    origin: str = ""
    compose: str = ""
    layer: int = -1
    expert_map: str = ""

    @property
    def is_replayed(self) -> bool:
        """Whether batches come from a trace instead of a distribution."""
        return self.kind in ("trace", "twin")

    def __str__(self) -> str:
        if self.is_replayed:
            options = {"compose": self.compose, "layer": self.layer if self.layer >= 0 else "", "map": self.expert_map}
            written = "".join(f";{name}={value}" for name, value in options.items() if value != "")
            return f"{self.kind}:{self.origin}{written}"
        if self.parameter is None:
            return self.kind
        experts = f"{self.hot_experts}:" if self.hot_experts != 1 else ""
        return f"{self.kind}:{experts}{self.parameter}"


def parse_routing(text: str) -> RoutingSpec:
    """Read a routing as ROUTING_KINDS has it; those of traces may end in `;compose=chunk;layer=3;map=fold`.

    Raises `UsageError`, listing what exists, for anything else.
    """
    kind, _, rest = text.strip().partition(":")
    if kind.lower() in ("trace", "twin"):
        return _parse_replay(text, kind.lower(), rest)
    kind, *parameters = text.strip().lower().split(":")
    if kind not in ROUTING_KINDS:
        raise _usage_error(text, "it is none of " + ", ".join(ROUTING_KINDS))
    least, most = {"uniform": (0, 0), "balanced": (0, 0), "hot": (1, 2)}.get(kind, (1, 1))
    if not least <= len(parameters) <= most:
        raise _usage_error(text, f"{kind} takes {least if least == most else f'{least} or {most}'} parameters")
    if not parameters:
        return RoutingSpec(kind)
    parameter = _number(text, parameters[-1])
    if not (math.isfinite(parameter) and parameter > 0 and (kind != "hot" or parameter <= 1)):
        raise _usage_error(text, f"{parameter} is out of range")
    hot_experts = _number(text, parameters[0]) if len(parameters) > 1 else 1
    if hot_experts < 1 or not float(hot_experts).is_integer():
        raise _usage_error(text, f"{parameters[0]} is not a number of experts")
    return RoutingSpec(kind, parameter, int(hot_experts))


def _parse_replay(text: str, kind: str, rest: str) -> RoutingSpec:
    origin, *options = rest.split(";")
    if not origin:
        raise _usage_error(text, "nothing follows the colon")
    spec = RoutingSpec(kind, origin=origin)
    for option in options:
        name, _, value = option.partition("=")
        spec = with_replay_option(spec, name.strip(), value.strip())
    return spec


def with_replay_option(spec: RoutingSpec, name: str, value: str) -> RoutingSpec:
    """The spec of a trace with `compose`, `layer` or `map` set; raises `UsageError`."""
    if name not in _OPTIONS:
        raise _usage_error(str(spec), f"{name!r} is none of {', '.join(_OPTIONS)}")
    if name == "layer":
        if not value.isdecimal() or len(value) > 5:
            raise _usage_error(str(spec), f"layer {value!r} is not a number")
        return replace(spec, layer=int(value))
    allowed = COMPOSITIONS if name == "compose" else EXPERT_MAPS
    if value not in allowed:
        raise _usage_error(str(spec), f"{name} {value!r} is none of {', '.join(allowed)}")
    return replace(spec, compose=value) if name == "compose" else replace(spec, expert_map=value)


def _number(text: str, part: str) -> float:
    try:
        return float(part)
    except ValueError:
        raise _usage_error(text, f"{part!r} is not a number") from None


def _usage_error(text: str, rule: str) -> UsageError:
    return UsageError(f"routing {text!r} cannot be read: {rule}", "; ".join(ROUTING_KINDS.values()))
