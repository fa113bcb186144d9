"""The answer, as a value: which kernels run for a problem on a device, with which grids, and what they guarantee."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from mmvq_cli.errors import UsageError, WorkspaceTooSmall
from mmvq_cli.op.args import Args, BoundArgs, bind, check_device
from mmvq_cli.op.arrays import ArrayView
from mmvq_cli.op.boxes import Boxes
from mmvq_cli.op.descriptor import Descriptor
from mmvq_cli.op.device import Device
from mmvq_cli.op.precision import PrecisionGuarantee
from mmvq_cli.op.problem import Region, workspace_size


class Preference(StrEnum):
    """What to prefer when several kernels fit.

    `reproducible` is batch-invariant, `reference` the plain kernel, `tuned` what was fastest on this very GPU.
    """

    AUTO = "auto"
    FASTEST = "fastest"
    REPRODUCIBLE = "reproducible"
    REFERENCE = "reference"
    TUNED = "tuned"


@dataclass(frozen=True, slots=True)
class Launch:
    """One kernel launch: an entry point of a file in kernels/, its compile-time values, grid and block in threads.

    `values` are the int32 fields of a struct that follows the problem, by name, and `boxes` describes the weights for
    the argument behind it (zeros where it is None); `shared_bytes` is dynamic shared memory. `overlaps`: the kernel may
    be set up while the one before it in the stream ends (programmatic dependent launch), and waits for that one itself.
    """

    entry: str
    source: str
    defines: tuple[tuple[str, int], ...]
    grid: tuple[int, int, int]
    block: tuple[int, int, int]
    shared_bytes: int = 0
    values: tuple[tuple[str, int], ...] = ()
    boxes: Boxes | None = None
    overlaps: bool = False


@dataclass(frozen=True, slots=True)
class Sku:
    """The identity of a chosen kernel; `name` is in every record."""

    category: str
    op: str
    element: str
    auxiliary_element: str
    layout: str
    epilogue: str
    architecture: str
    backend: str
    name: str


@dataclass(frozen=True, slots=True)
class Plan:
    """A chosen kernel for one problem: pure and printable; only `run` touches the device."""

    descriptor: Descriptor
    device: Device
    preference: Preference
    sku: Sku
    precision_guarantee: PrecisionGuarantee
    launches: tuple[Launch, ...]
    workspace: tuple[Region, ...]
    rule: str
    reason: str

    @classmethod
    def select(cls, descriptor: Descriptor, device: Device, preference: Preference | str = Preference.AUTO) -> Plan:
        """Pick a kernel for the problem; pure, needs no GPU.

        Raises `InvalidProblem` or `Unsupported` for the first broken rule, in the contract's order.
        """
        from mmvq_cli.op.rules import choose  # the rules build Plans: they import this module

        descriptor.validate()
        if preference not in tuple(Preference):
            raise UsageError(f"preference is {preference!r}", f"use one of {', '.join(Preference)}")
        choice = choose(descriptor, device, Preference(preference))
        return cls(
            descriptor=descriptor,
            device=device,
            preference=Preference(preference),
            sku=choice.sku,
            precision_guarantee=choice.guarantee,
            launches=choice.launches,
            workspace=choice.workspace,
            rule=choice.rule,
            reason=choice.reason,
        )

    def workspace_size(self) -> int:
        """Exact bytes of scratch memory that `run` needs on the plan's device."""
        return workspace_size(self.workspace)

    def can_implement(self, args: Args) -> BoundArgs:
        """Check the arguments against the descriptor; reads no device memory.

        Raises `InvalidProblem` for the first broken rule, in the contract's order.
        """
        return bind(args, self.descriptor, self.device)

    def run(self, args: Args, workspace: Any = None, stream: Any = None) -> None:
        """Enqueue the kernels on `stream` (a CUDA stream object, its address, or None for the current one).

        `workspace` is any array of at least `workspace_size()` bytes. No allocation, no host synchronization,
        capturable in a CUDA graph. Raises `InvalidProblem`, `WorkspaceTooSmall` or `LaunchError`.
        """
        views = self.can_implement(args)
        needed = self.workspace_size()
        scratch = None if workspace is None else ArrayView.of(workspace, "workspace")
        if needed and (scratch is None or scratch.n_bytes < needed):
            raise WorkspaceTooSmall(needed, 0 if scratch is None else scratch.n_bytes)
        if needed and scratch is not None:
            check_device("workspace", scratch, self.device)
        executor = _executor(self.device.backend)
        executor.execute(self, views, scratch.pointer if scratch and needed else 0, stream)


def _executor(backend: str) -> Any:
    """The engine module that runs plans of this backend.

    By name at run time: the engines depend on this room, and importing one must not load the other.
    """
    return importlib.import_module(f"mmvq_cli.engine.{backend}")
