"""One GPU as an engine of the run loop."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import asdict
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmvq_cli.engine.base import Reference
from mmvq_cli.engine.cuda import memory, oracle
from mmvq_cli.engine.cuda.build import nvrtc_version
from mmvq_cli.engine.cuda.device import current_device, device_facts, import_cupy
from mmvq_cli.engine.cuda.launch import launch_errors, load_kernel, on_device
from mmvq_cli.model import ExpertTensor
from mmvq_cli.model.synthetic import random_blocks
from mmvq_cli.op import Args, Descriptor, Format

_POOL_BYTES = 4 * 2**20  # of distinct synthetic blocks
_FILL_BLOCKS_PER_SM = 32


class CudaEngine:
    """Engine over CuPy arrays on one GPU; see `engine.base.Engine`.

    Raises `EnvironmentInvalid` when CuPy, the driver or the device is missing.
    """

    def __init__(self, device_index: int = 0) -> None:
        self.device = current_device(device_index)
        self.xp: ModuleType = import_cupy()

    def load_experts(self, tensor: ExpertTensor, experts: Sequence[int]) -> Any:
        """Device array u8 [tensor bytes] with the named experts' bytes in place, through pinned memory.

        Raises `OpenError` when the file shrank, `OutOfMemory` before anything is allocated.
        """
        weights = memory.allocate(tensor.n_bytes, self.device.index)
        memory.upload_experts(tensor, sorted(set(experts)), weights, self.device.index)
        return weights

    def synthesize(self, format: Format, n_bytes: int, seed: int) -> Any:
        """Device array u8 [n_bytes] of random valid blocks: a pool of distinct ones, repeated in hashed order."""
        n_blocks = n_bytes // format.type_size
        weights = memory.allocate(n_bytes, self.device.index)
        n_pool_blocks = max(1, min(n_blocks, _POOL_BYTES // format.type_size))
        pool = self.upload(random_blocks(format, n_pool_blocks, np.random.default_rng([seed, format.id])))
        fill = load_kernel("fill_blocks", "fill.cu", (), self.device.index)
        args = (
            weights,
            pool,
            ctypes.c_int64(n_blocks),
            ctypes.c_int32(n_pool_blocks),
            ctypes.c_int32(format.type_size),
            ctypes.c_uint64(seed),
        )
        fill((self.device.sm_count * _FILL_BLOCKS_PER_SM, 1, 1), (256, 1, 1), args)
        self.synchronize()
        return weights

    def upload(self, array: NDArray[Any]) -> Any:
        """Copy of a host array on the device, complete when this returns.

        Raises `OutOfMemory` before anything is allocated.
        """
        memory.require_free(array.nbytes, self.device.index)
        with on_device(self.device.index), launch_errors("upload"):
            copy = self.xp.asarray(np.ascontiguousarray(array))
            self.xp.cuda.get_current_stream().synchronize()
        return copy

    def download(self, array: Any) -> NDArray[Any]:
        """Copy of a device array on the host, after everything queued on CuPy's current stream."""
        with on_device(self.device.index):
            return memory.download(array)

    def synchronize(self) -> None:
        """Wait for all work on the device.

        Raises `LaunchError` when some of it failed.
        """
        with on_device(self.device.index), launch_errors("launched earlier"):
            self.xp.cuda.runtime.deviceSynchronize()

    def free_bytes(self) -> int:
        """Device memory that can still be allocated, some margin kept back."""
        return memory.free_bytes(self.device.index)

    def release(self) -> None:
        """Give memory that no array uses back to the driver; call it between cases."""
        memory.release(self.device.index)

    def validate_routing(self, descriptor: Descriptor, args: Args) -> None:
        """Check ids, offsets and dispatches per token on the device.

        Raises `InvalidProblem` for a broken rule.
        """
        oracle.validate_routing(descriptor, args, self.device)

    def reference(self, descriptor: Descriptor, args: Args) -> Reference:
        """Dequantize on the device, multiply and add in float64."""
        return oracle.reference(descriptor, args, self.device)

    def dequantize(self, format: Format, packed: Any, n_cols: int) -> NDArray[np.float32]:
        """Weights f32 [rows, n_cols] of packed device rows, on the host, bit-equal to ggml."""
        return oracle.dequantize(format, packed, n_cols, self.device)

    def facts(self) -> dict[str, Any]:
        """Versions and names for the record, and what identifies the GPU."""
        facts = asdict(device_facts(self.device.index))
        return facts | {
            "nvrtc": nvrtc_version(),
            "cupy": self.xp.__version__,
            "oracle": "kernels/oracle.cu",
        }
