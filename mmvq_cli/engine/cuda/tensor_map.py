"""The driver's description of the tensor that boxes are copied from: the argument of a kernel, made on the host.

CuPy has no call for it, so this is the driver's own: cuTensorMapEncodeTiled of CUDA 12 (driver API, tensor maps).
"""

from __future__ import annotations

import ctypes
from functools import lru_cache
from typing import Any

from mmvq_cli.engine.cuda.dependent import driver_error, driver_library
from mmvq_cli.op.boxes import UNIT, Boxes

_BYTES, _ALIGNMENT = 128, 64
_UINT64 = 4  # CU_TENSOR_MAP_DATA_TYPE_UINT64, of UNIT bytes
_PROMOTE_TO_128_BYTES = 2  # CU_TENSOR_MAP_L2_PROMOTION_L2_128B: 3 % faster than none on an H200


@lru_cache(maxsize=1024)  # a weights tensor is launched with many times
def tensor_map(boxes: Boxes | None, address: int, entry: str) -> Any:
    """128 bytes for the kernel: `boxes` of the weights at `address`, or zeros.

    Raises `LaunchError` when the driver refuses them.
    """
    if boxes is None:
        return (ctypes.c_uint8 * _BYTES)()
    memory = (ctypes.c_uint8 * (_BYTES + _ALIGNMENT))()
    begin = -ctypes.addressof(memory) % _ALIGNMENT
    status = driver_library().cuTensorMapEncodeTiled(
        ctypes.byref(memory, begin),
        _UINT64,
        2,
        ctypes.c_void_p(address),
        (ctypes.c_uint64 * 2)(boxes.width, boxes.height),
        (ctypes.c_uint64 * 1)(boxes.width * UNIT),
        (ctypes.c_uint32 * 2)(boxes.box_width, boxes.box_height),
        (ctypes.c_uint32 * 2)(1, 1),  # every element
        0,  # not interleaved
        0,  # not swizzled
        _PROMOTE_TO_128_BYTES,
        0,  # zeros outside
    )
    if status:
        raise driver_error(status, entry)
    return (ctypes.c_uint8 * _BYTES).from_buffer_copy(memory, begin)
