"""Which checks a run makes, by ids and layers."""

from __future__ import annotations

from collections.abc import Sequence

from mmvq_cli.errors import UsageError
from mmvq_cli.validate.checks import CHECKS, LAYERS, Check
from mmvq_cli.validate.findings import Severity


def choose(checks: Sequence[str], skip: Sequence[str], options: Sequence[str] = ()) -> dict[str, Severity]:
    """The chosen checks with their severity, from ids and layers; `options` are the layers that an option asks for.

    Raises `UsageError` for a name that is neither an id nor a layer.
    """
    wanted = _expand(checks or LAYERS) | _expand(options)
    unwanted = _expand(skip)
    return {name: check.severity for name, check in CHECKS.items() if name in wanted - unwanted}


def find_check(name: str) -> Check:
    """The check with this id; raises `UsageError` when there is none."""
    if name not in CHECKS:
        raise UsageError(f"there is no check {name!r}", "`mmvq validate --list-checks` shows all")
    return CHECKS[name]


def _expand(names: Sequence[str]) -> set[str]:
    layers = {check.layer for check in CHECKS.values()}
    found: set[str] = set()
    for name in names:
        found |= {row.id for row in CHECKS.values() if row.layer == name} if name in layers else {find_check(name).id}
    return found
