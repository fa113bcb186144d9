"""What the user writes for a synthetic routing, such as `zipf:1.0`, as a value."""

from __future__ import annotations

import math
from dataclasses import dataclass

from mmvq_cli.errors import UsageError

# How each kind is written, with its meaning: the text of every error and of the help.
ROUTING_KINDS = {
    "uniform": "uniform: every expert is equally likely",
    "balanced": "balanced: dispatches per expert differ by at most one",
    "zipf": "zipf:S: the expert of rank r has popularity r^-S, S > 0 (0.2 mild, 1.0 harsh)",
    "lognormal": "lognormal:SIGMA: popularities are the quantiles of a log-normal, SIGMA > 0",
    "hot": "hot:SHARE or hot:EXPERTS:SHARE: so many experts (1) hold that share of the popularity, 0 < SHARE <= 1",
}


@dataclass(frozen=True, slots=True)
class RoutingSpec:
    """A family of synthetic routings; `str()` gives the canonical spelling, which `parse_routing` reads back.

    `parameter` is zipf's rank exponent, lognormal's sigma or hot's share; `hot_experts` counts the hot experts.
    """

    kind: str
    parameter: float | None = None
    hot_experts: int = 1

    def __str__(self) -> str:
        if self.parameter is None:
            return self.kind
        experts = f"{self.hot_experts}:" if self.hot_experts != 1 else ""
        return f"{self.kind}:{experts}{self.parameter}"


def parse_routing(text: str) -> RoutingSpec:
    """Read `uniform`, `balanced`, `zipf:S`, `lognormal:SIGMA`, `hot:SHARE` or `hot:EXPERTS:SHARE`.

    Raises `UsageError`, listing what exists, for anything else.
    """
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


def _number(text: str, part: str) -> float:
    try:
        return float(part)
    except ValueError:
        raise _usage_error(text, f"{part!r} is not a number") from None


def _usage_error(text: str, rule: str) -> UsageError:
    return UsageError(f"routing {text!r} cannot be read: {rule}", "; ".join(ROUTING_KINDS.values()))
