"""Gate settings: built-in defaults < preset < TOML file < command line, resolved into one frozen value."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

from mmvq_cli.compare.rule import Thresholds
from mmvq_cli.errors import OpenError, UsageError
from mmvq_cli.resources import resource_root


class FailOn(StrEnum):
    """What makes a gate fail; a wrong result always does."""

    REGRESSION = "regression"
    INVALID = "invalid"
    MISSING = "missing"
    INCONCLUSIVE = "inconclusive"
    NEW = "new"


PRESETS = ("strict", "default", "permissive")
STATIC_METRICS = ("registers", "shared_bytes", "local_bytes", "spill_bytes", "cubin_bytes")


@dataclass(frozen=True, slots=True)
class Growth:
    """How much a compiled kernel's figure may grow: by an amount and by a share of what it was."""

    amount: float = 0.0
    share: float = 0.0

    def __str__(self) -> str:
        """Write it as in TOML."""
        return f'"{100 * self.share:.12g}%"' if self.share else f"{self.amount:g}"

    def allows(self, base: float, head: float) -> bool:
        """Whether head is no more than the larger of both allowances above base."""
        return head <= base + max(self.amount, self.share * base)


def _static_defaults() -> dict[str, Growth]:
    return {
        "registers": Growth(amount=8),
        "shared_bytes": Growth(amount=1024),
        "local_bytes": Growth(),
        "spill_bytes": Growth(),
        "cubin_bytes": Growth(share=0.25),
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class GateConfig:
    """Thresholds, per-row exceptions (pattern of case ids -> tau, the last match wins), and what fails.

    `min_sessions` is the history that a baseline needs before it may fail a build; `static` has one allowance for each
    of STATIC_METRICS.
    """

    thresholds: Thresholds = field(default_factory=Thresholds)
    rows: tuple[tuple[str, float], ...] = ()
    fail_on: frozenset[FailOn] = frozenset({FailOn.REGRESSION, FailOn.INVALID, FailOn.MISSING})
    min_sessions: int = 10
    static: Mapping[str, Growth] = field(default_factory=_static_defaults)

    def limits_of(self, case_id: str) -> Thresholds:
        """The thresholds of one case."""
        taus = [tau for pattern, tau in self.rows if re.search(pattern, case_id)]
        return replace(self.thresholds, tau=taus[-1]) if taus else self.thresholds

    def to_toml(self) -> str:
        """Write the settings as a file that `load_config` reads back."""
        lines = [f"{name} = {value!r}" for name, value in asdict(self.thresholds).items()]
        lines += [f"min_sessions = {self.min_sessions}", f"fail_on = {sorted(map(str, self.fail_on))!r}", "", "[rows]"]
        lines += [f"{_quoted(pattern)} = {tau!r}" for pattern, tau in self.rows]
        lines += ["", "[static]"]
        lines += [f"{name} = {growth}" for name, growth in self.static.items()]
        return "\n".join(lines) + "\n"


def load_config(
    preset: str = "default", path: Path | None = None, thresholds: Sequence[str] = (), fail_on: str | None = None
) -> GateConfig:
    """Resolve a preset, a file over it, and the command line's `3%` or `PATTERN=3%` over both.

    Raises `UsageError` for what cannot be understood, `OpenError` for a file that cannot be read.
    """
    if preset not in PRESETS:
        raise UsageError(f"there is no gate preset {preset!r}", f"use one of {', '.join(PRESETS)}")
    config = _merge(GateConfig(), _read(resource_root("configs") / "gate" / f"{preset}.toml"), preset)
    if path:
        config = _merge(config, _read(path), str(path))
    for text in thresholds:
        pattern, _, tau = text.rpartition("=")
        if pattern:
            config = replace(config, rows=(*config.rows, (_pattern(pattern), share(tau))))
        else:
            config = replace(config, thresholds=replace(config.thresholds, tau=share(tau)))
    if fail_on is not None:
        config = replace(config, fail_on=_fail_on([name.strip() for name in fail_on.split(",") if name.strip()]))
    return config


def share(value: Any) -> float:
    """Read `3%`, `"3%"` or 0.03 as a share from 0 up.

    Raises `UsageError` for anything else.
    """
    text = str(value).strip()
    try:
        number = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        number = -1.0
    if not 0 <= number < 10:
        raise UsageError(f"{value!r} is not a share", "write 3% or 0.03")
    return number


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise OpenError(f"cannot read {path}: {error.strerror}", "check the path") from error
    except ValueError as error:
        raise UsageError(f"{path} is not TOML: {error}", "`mmvq gate --dump-config` prints a complete file") from error


def _merge(config: GateConfig, data: Mapping[str, Any], where: str) -> GateConfig:
    shares = {f.name for f in fields(Thresholds)} - {"floor_ns"}
    known = shares | {"floor_ns", "min_sessions", "fail_on", "rows", "static"}
    if unknown := sorted(set(data) - known):
        raise UsageError(f"{where}: unknown setting {unknown[0]!r}", f"known: {', '.join(sorted(known))}")
    limits: dict[str, float] = {name: share(data[name]) for name in shares & set(data)}
    if "floor_ns" in data:
        limits["floor_ns"] = _count(data["floor_ns"], f"{where}: floor_ns")
    static = data.get("static", {})
    if unknown := sorted(set(static) - set(STATIC_METRICS)):
        raise UsageError(f"{where}: unknown metric {unknown[0]!r}", f"known: {', '.join(STATIC_METRICS)}")
    return replace(
        config,
        thresholds=replace(config.thresholds, **limits),
        rows=config.rows + tuple((_pattern(p), share(tau)) for p, tau in data.get("rows", {}).items()),
        fail_on=_fail_on(data["fail_on"]) if "fail_on" in data else config.fail_on,
        min_sessions=int(_count(data.get("min_sessions", config.min_sessions), f"{where}: min_sessions")),
        static={**config.static, **{name: _growth(value, f"{where}: {name}") for name, value in static.items()}},
    )


def _growth(value: Any, where: str) -> Growth:
    if isinstance(value, str) and value.endswith("%"):
        return Growth(share=share(value))
    return Growth(amount=_count(value, where))


def _count(value: Any, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or value < 0:
        raise UsageError(f"{where} is {value!r}, it must be a number from 0 up", "`mmvq gate --dump-config` shows one")
    return value


def _pattern(text: str) -> str:
    try:
        re.compile(text)
    except re.error as error:
        raise UsageError(f"{text!r} is not a regular expression: {error}", "it is searched in case ids") from error
    return text


def _fail_on(names: Sequence[str]) -> frozenset[FailOn]:
    # A wrong result always fails; naming it is allowed, because it reads well.
    try:
        return frozenset(FailOn(name) for name in names if name != "correctness")
    except ValueError as error:
        raise UsageError(f"--fail-on: {error}", f"use correctness, {', '.join(FailOn)}") from error


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
