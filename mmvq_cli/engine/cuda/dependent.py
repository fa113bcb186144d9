"""Programmatic dependent launch: a kernel is set up while the one before it in the stream ends, and waits for that.

CuPy has no call for launches with attributes, so this is the driver's own: cuLaunchKernelEx of CUDA 11.8 and newer.
"""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Any

from mmvq_cli.errors import LaunchError

_PROGRAMMATIC_STREAM_SERIALIZATION = 6  # CUlaunchAttributeID


class _Attribute(ctypes.Structure):
    """CUlaunchAttribute: an id, padded to 8 bytes, and a union of 64 bytes of which this one uses the first int."""

    _fields_ = (
        ("id", ctypes.c_uint),
        ("padding", ctypes.c_uint),
        ("value", ctypes.c_int),
        ("rest", ctypes.c_char * 60),
    )


class _Config(ctypes.Structure):
    """CUlaunchConfig."""

    _fields_ = (
        ("grid", ctypes.c_uint * 3),
        ("block", ctypes.c_uint * 3),
        ("shared_bytes", ctypes.c_uint),
        ("stream", ctypes.c_void_p),
        ("attributes", ctypes.POINTER(_Attribute)),
        ("n_attributes", ctypes.c_uint),
    )


def launch_dependent(
    entry: str,
    function: int,
    grid: tuple[int, int, int],
    block: tuple[int, int, int],
    shared_bytes: int,
    stream: int,
    pointers: Any,
) -> None:
    """Enqueue `function` (a driver handle) with `pointers` to its arguments; the kernel calls start_overlapped.

    Raises `LaunchError` when the driver refuses it.
    """
    attribute = _Attribute(id=_PROGRAMMATIC_STREAM_SERIALIZATION, value=1)
    config = _Config(
        (ctypes.c_uint * 3)(*grid),
        (ctypes.c_uint * 3)(*block),
        shared_bytes,
        stream,
        ctypes.pointer(attribute),
        1,
    )
    status = driver_library().cuLaunchKernelEx(ctypes.byref(config), ctypes.c_void_p(function), pointers, None)
    if status:
        raise driver_error(status, entry)


def driver_error(status: int, entry: str) -> LaunchError:
    """What the driver calls this CUresult."""
    name = ctypes.c_char_p()
    driver_library().cuGetErrorName(status, ctypes.byref(name))
    return LaunchError(name.value.decode() if name.value else f"CUresult {status}", entry)


@cache
def driver_library() -> ctypes.CDLL:
    """The driver's own functions, for those that CuPy has not."""
    return ctypes.CDLL("libcuda.so.1")
