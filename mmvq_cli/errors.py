"""The error tree and the exit codes: every failure a user can meet is one of these.

    MmvqError                      message + hint + exit code
    ├── UsageError                 2   a wrong option or value
    ├── ModelError                 3   a model file that breaks the GGUF rules
    ├── OpenError                  4   a file that cannot be opened or read
    ├── EnvironmentInvalid         4   no such device, no driver, broken installation
    ├── BuildError                 4   a kernel source that does not compile here
    ├── OutOfMemory                4   more device memory than is free, known before allocating
    ├── NothingMatched             6   the selection is empty
    ├── Unsupported                2   a format or dtype without a kernel
    └── InvalidProblem             2   a descriptor or arguments that break the contract
        ├── WorkspaceTooSmall
        └── LaunchError            4   the device refused or broke a launch

An error names the value seen, the rule it breaks, and the next step (`hint`).
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import IntEnum
from typing import Any, ClassVar


class ExitCode(IntEnum):
    """Process exit codes; stable, documented in every `--help`, never a count."""

    OK = 0
    REGRESSION = 1
    USAGE = 2
    WRONG = 3
    ENVIRONMENT = 4
    INCONCLUSIVE = 5
    NOTHING_MATCHED = 6
    INTERRUPTED = 130


# Worst first. USAGE and INTERRUPTED end the run by themselves, so they are never merged.
_SEVERITY = (
    ExitCode.WRONG,
    ExitCode.ENVIRONMENT,
    ExitCode.NOTHING_MATCHED,
    ExitCode.REGRESSION,
    ExitCode.INCONCLUSIVE,
)


def worst(codes: Iterable[ExitCode]) -> ExitCode:
    """Merge the outcomes of many cases into the one exit code of the run (worst first: 3, 4, 6, 1, 5)."""
    seen = set(codes)
    return next((code for code in _SEVERITY if code in seen), ExitCode.OK)


class MmvqError(Exception):
    """Base of all errors that a user sees as `error: …` and `hint: …` instead of a traceback."""

    exit_code: ClassVar[ExitCode] = ExitCode.USAGE

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message

    def __reduce__(self) -> tuple[Any, ...]:
        # Workers send errors to their parent: pickle by state, whatever a subclass's constructor takes.
        return _revive, (type(self), self.args, self.__dict__)


def _revive(kind: type[MmvqError], args: tuple[Any, ...], state: dict[str, Any]) -> MmvqError:
    error = kind.__new__(kind, *args)
    error.args = args
    error.__dict__.update(state)
    return error


class UsageError(MmvqError):
    """An option or value that cannot be used as given."""


class ModelError(MmvqError):
    """A model file that breaks the GGUF rules; the message says where in the file."""

    exit_code = ExitCode.WRONG


class OpenError(MmvqError):
    """A file that cannot be opened, or that changed while it was read."""

    exit_code = ExitCode.ENVIRONMENT


class EnvironmentInvalid(MmvqError):
    """No such device, no driver, or an installation that cannot run what was asked."""

    exit_code = ExitCode.ENVIRONMENT


class BuildError(MmvqError):
    """A kernel source that does not compile; `log` is the compiler's whole output."""

    exit_code = ExitCode.ENVIRONMENT

    def __init__(self, message: str, hint: str = "", *, log: str = "") -> None:
        super().__init__(message, hint)
        self.log = log


class OutOfMemory(MmvqError):
    """More device memory than is free; decided before anything is allocated."""

    exit_code = ExitCode.ENVIRONMENT

    def __init__(self, needed_bytes: int, free_bytes: int) -> None:
        super().__init__(
            f"needs {needed_bytes / 2**30:.2f} GiB of device memory, {free_bytes / 2**30:.2f} GiB are free",
            "choose fewer experts, layers or tokens, or a device with more memory",
        )
        self.needed_bytes = needed_bytes
        self.free_bytes = free_bytes


class NothingMatched(MmvqError):
    """A selection that leaves nothing to do."""

    exit_code = ExitCode.NOTHING_MATCHED


class Unsupported(MmvqError):
    """A format or activation dtype that no kernel handles; the message has the reason."""


class InvalidProblem(MmvqError):
    """A descriptor or arguments that break the contract of the operation."""


class WorkspaceTooSmall(InvalidProblem):
    """Less scratch memory than `Plan.workspace_size()`; also raised when none is given."""

    def __init__(self, needed: int, got: int) -> None:
        super().__init__(
            f"workspace has {got} bytes, the plan needs {needed}",
            "allocate plan.workspace_size() bytes on the plan's device and pass them to run",
        )
        self.needed = needed
        self.got = got


class LaunchError(InvalidProblem):
    """The device refused a launch or failed in it; the context may be unusable afterwards."""

    exit_code = ExitCode.ENVIRONMENT

    def __init__(self, status: str, kernel: str) -> None:
        super().__init__(
            f"kernel {kernel} failed: {status}",
            "`mmvq doctor` checks the driver and the device; a failed kernel poisons its process",
        )
        self.status = status
        self.kernel = kernel
