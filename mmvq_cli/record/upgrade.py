"""Records of older schemas, made into records of the next one, step by step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Fields = dict[str, Any]


def upgraded(fields: Fields) -> Fields:
    """The fields of a record, raised from any older schema to the newest; an unknown one is left as it is."""
    while step := _STEPS.get(fields.get("schema", "")):
        fields = step(fields)
    return fields


def _from_1(fields: Fields) -> Fields:
    """`timing.cpu_launch_ns` became `timing.launch_overhead_ns`, which is what it always held."""
    timing = fields.get("timing")
    if timing:
        timing = {{"cpu_launch_ns": "launch_overhead_ns"}.get(name, name): value for name, value in timing.items()}
    return fields | {"schema": "mmvq.result/2", "timing": timing}


_STEPS: dict[str, Callable[[Fields], Fields]] = {"mmvq.result/1": _from_1}
