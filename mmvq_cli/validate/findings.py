"""What a check says: findings with a severity and a place in the file, and the report that holds them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from threading import Lock


class Severity(StrEnum):
    """How bad a finding is: an error makes the model wrong, a warning makes it doubtful, info is worth knowing."""

    ERROR = "error"
    WARNING = "warning"
    INFO = "info"


@dataclass(frozen=True, slots=True)
class Place:
    """Where: byte `offset` in `file`; tensor, expert, row of the expert and block of the row where they are known."""

    file: Path
    offset: int | None = None
    tensor: str | None = None
    expert: int | None = None
    row: int | None = None
    block: int | None = None

    def __str__(self) -> str:
        parts = [self.tensor or self.file.name]
        parts += [
            f"{name} {number}"
            for name, number in (("expert", self.expert), ("row", self.row), ("block", self.block))
            if number is not None
        ]
        return ", ".join(parts)


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that one check found; `count` is how many blocks or values it stands for."""

    check: str
    severity: Severity
    message: str
    place: Place
    value: str | None = None
    count: int = 1


@dataclass(frozen=True, slots=True)
class TensorError:
    """How far a tensor's experts are from those of another file: `relative` is ||a - b|| / ||b|| of each expert."""

    tensor: str
    formats: tuple[str, str]
    relative: tuple[float, ...]

    @property
    def worst(self) -> tuple[float, int]:
        """The largest error and its expert."""
        return max((error, expert) for expert, error in enumerate(self.relative))


@dataclass(frozen=True, slots=True)
class Report:
    """All that one validation found, and what it left out; sizes in bytes, times in seconds.

    `blocks_engine` is where the blocks were looked at: `cpu`, `cuda`, or None when they were not.
    """

    files: tuple[str, ...]
    architecture: str | None
    n_tensors: int
    n_expert_tensors: int
    file_bytes: int
    checked_bytes: int
    checked_blocks: int
    seconds: float
    checks: tuple[str, ...]
    findings: tuple[Finding, ...]
    not_checked: tuple[str, ...]
    errors_against: tuple[TensorError, ...] = ()
    kernels: Mapping[str, str] = field(default_factory=dict)
    blocks_engine: str | None = None

    def counts(self) -> dict[Severity, int]:
        """How many findings of each severity."""
        seen = Counter(finding.severity for finding in self.findings)
        return {severity: seen[severity] for severity in Severity}

    def fails(self, at: Severity) -> bool:
        """Whether there is a finding as bad as `at`, or worse."""
        order = list(Severity)
        return any(order.index(finding.severity) <= order.index(at) for finding in self.findings)


class Findings:
    """Collects what the chosen checks find; safe to add to from threads."""

    def __init__(self, severities: Mapping[str, Severity]) -> None:
        self._severities = severities
        self._found: list[Finding] = []
        self._notes: dict[str, None] = {}
        self._lock = Lock()

    def wants(self, *checks: str) -> bool:
        """Whether one of these checks was chosen."""
        return any(check in self._severities for check in checks)

    def add(self, check: str, message: str, place: Place, value: object = None, count: int = 1) -> None:
        """Add a finding unless its check was not chosen."""
        if check in self._severities:
            shown = None if value is None else str(value)
            with self._lock:
                self._found.append(Finding(check, self._severities[check], message, place, shown, count))

    def leave_out(self, what: str) -> None:
        """Say what was not checked, and why."""
        with self._lock:
            self._notes[what] = None

    @property
    def not_checked(self) -> tuple[str, ...]:
        """What was left out, in the order it was met."""
        return tuple(self._notes)

    def sorted(self) -> tuple[Finding, ...]:
        """All findings, worst first, then by check and place."""
        order = list(Severity)
        return tuple(sorted(self._found, key=lambda finding: (order.index(finding.severity), *_position(finding))))


def _position(finding: Finding) -> tuple[str, str, str, int, int]:
    place = finding.place
    return finding.check, str(place.file), place.tensor or "", _number(place.expert), _number(place.offset)


def _number(value: int | None) -> int:
    return -1 if value is None else value
