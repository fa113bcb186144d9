"""What a user writes for an axis, on the command line or in TOML, as values."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from mmvq_cli.errors import UsageError
from mmvq_cli.op import Accumulate, Dtype, Preference
from mmvq_cli.routing import parse_routing
from mmvq_cli.suite.case import ROLES


def parse_counts(text: str, what: str) -> tuple[int, ...]:
    """Read `1,2,4..64`: numbers, and ranges that double from the first to the last.

    Raises `UsageError` for anything else.
    """
    counts: list[int] = []
    for part in str(text).split(","):
        match = re.fullmatch(r"(\d+)(?:\.\.(\d+))?", part.strip())
        if not match or int(match[1]) < 1:
            raise UsageError(f"--{what} {text!r} is not understood at {part!r}", "write numbers and ranges: 1,2,4..64")
        count, last = int(match[1]), int(match[2] or match[1])
        if count > last:
            raise UsageError(f"--{what} {text!r}: the range {part} runs backwards", f"write {last}..{count}")
        while count <= last:
            counts.append(count)
            count *= 2
    return tuple(dict.fromkeys(counts))


def layer_numbers(layers: str) -> set[int] | None:
    """The layer numbers of `0,3,8..11`; None for `all` and `distinct`."""
    if layers in ("all", "distinct"):
        return None
    numbers: set[int] = set()
    for part in layers.split(","):
        match = re.fullmatch(r"(\d+)(?:\.\.(\d+))?", part.strip())
        if not match:
            raise UsageError(f"--layers {layers!r} is not understood at {part!r}", "write all, distinct, or 0,3,8..11")
        first, last = int(match[1]), int(match[2] or match[1])
        numbers.update(range(first, last + 1))
    return numbers


def parse_dtypes(text: str) -> tuple[Dtype, ...]:
    """Read `f32,f16,bf16`; raises `UsageError`."""
    return tuple(Dtype(name) for name in _choices(text, "dtype", tuple(Dtype)))


def parse_roles(text: str) -> tuple[str, ...]:
    """Read `gate,up,down`; raises `UsageError`."""
    return _choices(text, "tensors", ROLES)


def _choices(text: str, what: str, allowed: tuple[str, ...]) -> tuple[str, ...]:
    names = tuple(part.strip().lower() for part in text.split(","))
    for name in names:
        if name not in allowed:
            raise UsageError(
                f"--{what} {text!r}: {name!r} is not one of {', '.join(allowed)}", f"e.g. --{what} {allowed[0]}"
            )
    return tuple(dict.fromkeys(names))


def _choice(text: str, what: str, allowed: tuple[str, ...]) -> str:
    if text not in allowed:
        raise UsageError(f"--{what} {text!r} is not known", f"use one of {', '.join(allowed)}")
    return text


def _count(value: Any, what: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise UsageError(f"--{what} {value!r} is not a whole number from 0", f"e.g. --{what} 1")
    return value


def _layers(text: str) -> str:
    layer_numbers(text)
    return text


def as_text(value: Any) -> str:
    """A TOML list is the same as its items with commas."""
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


_AXIS_PARSERS: dict[str, Callable[[Any], Any]] = {
    "tokens": lambda value: parse_counts(as_text(value), "tokens"),
    "dtypes": lambda value: parse_dtypes(as_text(value)),
    "routings": lambda value: tuple(dict.fromkeys(parse_routing(part) for part in as_text(value).split(","))),
    "roles": lambda value: parse_roles(as_text(value)),
    "layers": lambda value: _layers(as_text(value)),
    "top_k": lambda value: _count(value, "top-k"),
    "seed": lambda value: _count(value, "seed"),
    "cache": lambda value: _choice(as_text(value), "cache", ("cold", "cold-flush", "hot")),
    "accumulate": lambda value: Accumulate(_choice(as_text(value), "accumulate", tuple(Accumulate))),
    "preference": lambda value: Preference(_choice(as_text(value), "prefer", tuple(Preference))),
}


def parse_axes(values: dict[str, Any], where: str) -> dict[str, Any]:
    """Turn an entry's written values into axes, `"1,2,4..64"` into (1, 2, 4, ...).

    Raises `UsageError` naming an unknown key or a bad value.
    """
    unknown = sorted(set(values) - set(_AXIS_PARSERS))
    if unknown:
        raise UsageError(f"{where} has the unknown key {unknown[0]!r}", f"known: {', '.join(sorted(_AXIS_PARSERS))}")
    return {key: _AXIS_PARSERS[key](value) for key, value in values.items()}
