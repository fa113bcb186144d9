"""What the run loop asks of an engine; the CPU and the CUDA engine both answer it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from mmvq_cli.model import ExpertTensor
from mmvq_cli.op import Args, Descriptor, Device, Format


@dataclass(frozen=True, slots=True)
class Reference:
    """The exact answer of one problem, on the host.

    values: float64 [output rows, n_rows_per_expert], before any old output is added;
    magnitude: float64, same shape: sum_i |w_i| * sum_k |W_rk * x_k|, the scale of the error bound.
    """

    values: NDArray[np.float64]
    magnitude: NDArray[np.float64]


class Engine(Protocol):
    """One device with everything the run loop needs; arrays are those of `xp` (numpy or cupy)."""

    device: Device
    xp: ModuleType

    def load_experts(self, tensor: ExpertTensor, experts: Sequence[int]) -> Any:
        """Device array u8 [tensor bytes] with the named experts' bytes in place; the other experts are undefined.

        Raises `OpenError` when the file shrank, `OutOfMemory` when it does not fit.
        """

    def synthesize(self, format: Format, n_bytes: int, seed: int) -> Any:
        """Device array u8 [n_bytes] of random valid blocks, a pure function of (format, n_bytes, seed)."""

    def upload(self, array: NDArray[Any]) -> Any:
        """Copy of a host array on the device."""

    def download(self, array: Any) -> NDArray[Any]:
        """Copy of a device array on the host."""

    def synchronize(self) -> None:
        """Wait for all work.

        Raises `LaunchError` when some of it failed.
        """

    def free_bytes(self) -> int:
        """Memory that can still be allocated."""

    def validate_routing(self, descriptor: Descriptor, args: Args) -> None:
        """Check ids, offsets and dispatches per token on the device.

        Raises `InvalidProblem` for the first broken rule.
        """

    def reference(self, descriptor: Descriptor, args: Args) -> Reference:
        """Dequantize and multiply in float64; the plainest code there is."""

    def dequantize(self, format: Format, packed: Any, n_cols: int) -> NDArray[np.float32]:
        """Weights f32 [rows, n_cols] of packed device rows, on the host, bit-equal to ggml."""

    def facts(self) -> dict[str, Any]:
        """Versions and names for the record: driver, cuda_rt, nvrtc, cupy, dequantizer; None where absent."""
