"""The static gate: what compiled kernels occupy, against what they occupied; needs no GPU."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmvq_cli.compare.comparison import Comparison, RowResult
from mmvq_cli.compare.config import STATIC_METRICS, GateConfig
from mmvq_cli.compare.rule import Reason, Verdict
from mmvq_cli.errors import OpenError

Figures = Mapping[str, int]  # metric -> value


@dataclass(frozen=True, slots=True)
class Compiled:
    """Compiled kernels: `name [architecture] entry` -> figures, and the compiler that made them."""

    name: str
    nvrtc: str
    kernels: Mapping[str, Figures]


def read_compiled(path: Path) -> Compiled:
    """Read the output of `scripts/compile_kernels.py -o json`.

    Raises `OpenError` when it cannot be read or is something else.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        kernels = {
            f"{row['name']} [{row['architecture']}] {kernel['entry']}": _figures(row, kernel)
            for row in data["compiled"]
            for kernel in row["kernels"]
        }
        return Compiled(str(path), str(data["nvrtc"]), kernels)
    except OSError as error:
        raise OpenError(f"cannot read {path}: {error.strerror}", "check the path") from error
    except (ValueError, KeyError, TypeError) as error:
        raise OpenError(
            f"{path} is no list of compiled kernels: {error!r}", "make one: scripts/compile_kernels.py -o json"
        ) from error


def compare_static(base: Compiled, head: Compiled, config: GateConfig) -> Comparison:
    """Compare kernel by kernel: any figure beyond its allowance is a regression."""
    names = list(dict.fromkeys([*base.kernels, *head.kernels]))
    notes = () if base.nvrtc == head.nvrtc else (f"compilers differ: NVRTC {base.nvrtc} / {head.nvrtc}",)
    rows = tuple(_row(name, base.kernels.get(name), head.kernels.get(name), config) for name in names)
    return Comparison(base=base.name, head=head.name, method="static", rows=rows, suite=None, notes=notes)


def _row(name: str, base: Figures | None, head: Figures | None, config: GateConfig) -> RowResult:
    if base is None or head is None:
        verdict, reason = (Verdict.NEW, Reason.NOT_IN_BASE) if base is None else (Verdict.MISSING, Reason.NOT_IN_HEAD)
        return RowResult(row_id=name, case_id=name, verdict=verdict, reason=reason)
    changed = [metric for metric in STATIC_METRICS if head[metric] != base[metric]]
    too_much = [metric for metric in changed if not config.static[metric].allows(base[metric], head[metric])]
    if too_much:
        verdict, reason = Verdict.REGRESSED, Reason.RESOURCES_GREW
    elif changed and all(head[metric] < base[metric] for metric in changed):
        verdict, reason = Verdict.IMPROVED, Reason.RESOURCES_SHRANK
    else:
        verdict, reason = Verdict.SAME, Reason.RESOURCES_EQUAL if not changed else Reason.WITHIN_THRESHOLD
    detail = ", ".join(f"{metric} {base[metric]} → {head[metric]}" for metric in too_much or changed)
    return RowResult(row_id=name, case_id=name, verdict=verdict, reason=reason, detail=detail)


def _figures(row: Mapping[str, Any], kernel: Mapping[str, Any]) -> dict[str, int]:
    return {metric: int(row[metric] if metric == "cubin_bytes" else kernel[metric]) for metric in STATIC_METRICS}
