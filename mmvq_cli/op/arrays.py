"""What the operation needs to know of somebody's array: pointer, shape, element type, layout and device.

Reads `__cuda_array_interface__`, `__array_interface__` or DLPack (through ctypes, so torch's bf16 tensors work without
importing torch or CuPy). Device memory is never read.
"""

from __future__ import annotations

import ctypes
import sys
from dataclasses import dataclass
from typing import Any

from mmvq_cli.errors import InvalidProblem

_TYPESTR = {
    "f4": "f32", "f2": "f16", "i4": "i32", "u1": "u8", "i1": "i8",
    "u2": "u16", "u4": "u32", "i8": "i64", "u8": "u64", "f8": "f64", "i2": "i16", "b1": "bool",
}  # fmt: skip
_FOREIGN_ORDER = ">" if sys.byteorder == "little" else "<"
# DLPack dtype codes: 0 int, 1 uint, 2 float, 4 bfloat (dlpack.h, DLDataTypeCode).
_DLPACK_KIND = {0: "i", 1: "u", 2: "f", 4: "bf"}
# DLPack device types that the CUDA runtime can address: CUDA, pinned host, managed.
_DLPACK_DEVICE = {1: "cpu", 2: "cuda", 3: "cpu", 13: "cuda"}


@dataclass(frozen=True, slots=True)
class ArrayView:
    """The facts about one array; `device_index` is None when the protocol does not tell it."""

    pointer: int
    shape: tuple[int, ...]
    dtype: str
    itemsize: int
    contiguous: bool
    backend: str
    device_index: int | None
    writable: bool = True

    @property
    def n_bytes(self) -> int:
        """Bytes of the elements."""
        size = self.itemsize
        for length in self.shape:
            size *= length
        return size

    @classmethod
    def of(cls, array: Any, name: str) -> ArrayView:
        """Look at `array`, which messages call `name`.

        Raises `InvalidProblem` when it speaks none of the protocols.
        """
        for protocol, backend in (("__cuda_array_interface__", "cuda"), ("__array_interface__", "cpu")):
            interface = _attribute(array, protocol)
            if interface is not None and not _is_opaque(interface, array):
                return _from_interface(interface, array, backend)
        if hasattr(array, "__dlpack__"):
            return _from_dlpack(array, name)
        raise InvalidProblem(
            f"{name} is a {type(array).__name__}, not an array",
            "pass a NumPy, CuPy or torch array, or anything with DLPack or __cuda_array_interface__",
        )


def _is_opaque(interface: dict[str, Any], array: Any) -> bool:
    """Whether the elements are bytes without a meaning (`<V2`, as torch says of bf16) that DLPack can name."""
    has_name = getattr(getattr(array, "dtype", None), "name", None) is not None
    return interface["typestr"][1] == "V" and not has_name and hasattr(array, "__dlpack__")


def _attribute(array: Any, protocol: str) -> dict[str, Any] | None:
    """The interface dictionary, or None: torch raises from the property for dtypes and devices it cannot express."""
    try:
        interface: dict[str, Any] | None = getattr(array, protocol, None)
    except (AttributeError, TypeError, RuntimeError):
        return None
    return interface


def _from_interface(interface: dict[str, Any], array: Any, backend: str) -> ArrayView:
    typestr = interface["typestr"]
    itemsize = int(typestr[2:])
    dtype = typestr if typestr[0] == _FOREIGN_ORDER else _TYPESTR.get(typestr[1:], typestr)
    if getattr(getattr(array, "dtype", None), "name", "") == "bfloat16":  # ml_dtypes: the typestr is a void of 2 bytes
        dtype = "bf16"
    shape = tuple(int(n) for n in interface["shape"])
    strides = interface.get("strides")
    elements = None if strides is None else tuple(int(s) // itemsize for s in strides)
    index = getattr(getattr(array, "device", None), "id", None)
    pointer, read_only = interface["data"]
    contiguous = _is_contiguous(shape, elements)
    return ArrayView(int(pointer or 0), shape, dtype, itemsize, contiguous, backend, index, not read_only)


def _is_contiguous(shape: tuple[int, ...], strides: tuple[int, ...] | None) -> bool:
    """Whether the strides, in elements, are those of a C-contiguous array; None means that they are."""
    if strides is None or 0 in shape:
        return True
    expected = 1
    for length, stride in zip(reversed(shape), reversed(strides), strict=True):
        if length != 1 and stride != expected:
            return False
        expected *= length
    return True


class _DlTensor(ctypes.Structure):
    """`DLTensor` of dlpack.h."""

    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    )


def _from_dlpack(array: Any, name: str) -> ArrayView:
    """Read the unversioned capsule; its deleter runs when the capsule dies, the array itself stays with the caller."""
    kind, _ = array.__dlpack_device__()
    try:
        # stream -1: the producer must not synchronize; ordering is the caller's, as for any launch on a stream.
        capsule = array.__dlpack__(stream=-1) if int(kind) == 2 else array.__dlpack__()
    except (BufferError, RuntimeError) as error:  # torch: a tensor that requires a gradient
        raise InvalidProblem(f"{name} cannot be shared: {error}", "pass a detached, dense copy") from None
    get_pointer = ctypes.pythonapi.PyCapsule_GetPointer
    get_pointer.restype = ctypes.c_void_p
    get_pointer.argtypes = (ctypes.py_object, ctypes.c_char_p)
    tensor = _DlTensor.from_address(get_pointer(capsule, b"dltensor"))
    shape = tuple(int(tensor.shape[i]) for i in range(tensor.ndim))
    strides = tuple(int(tensor.strides[i]) for i in range(tensor.ndim)) if tensor.strides else None
    return ArrayView(
        pointer=(tensor.data or 0) + tensor.byte_offset,
        shape=shape,
        dtype=f"{_DLPACK_KIND.get(tensor.code, 'unknown')}{tensor.bits}",
        itemsize=tensor.bits // 8,
        contiguous=_is_contiguous(shape, strides),
        backend=_DLPACK_DEVICE.get(tensor.device_type, f"dlpack device {tensor.device_type}"),
        device_index=tensor.device_id,
    )
