"""Views of somebody's arrays, by each protocol."""

import ctypes
from types import SimpleNamespace as Spoken

import numpy as np
import pytest

from mmvq_cli.errors import InvalidProblem
from mmvq_cli.op.arrays import ArrayView, _DlTensor


class Capsule:
    """A DLPack producer without NumPy's help: a bf16 matrix as torch would hand it out."""

    def __init__(self, data, shape, code=4, bits=16, strides=None, device=(1, 0), byte_offset=0):
        self._data, self._device = data, device
        self._shape = (ctypes.c_int64 * len(shape))(*shape)
        self._strides = None if strides is None else (ctypes.c_int64 * len(strides))(*strides)
        pointer = ctypes.POINTER(ctypes.c_int64)
        self._tensor = _DlTensor(
            data=data,
            device_type=device[0],
            device_id=device[1],
            ndim=len(shape),
            code=code,
            bits=bits,
            lanes=1,
            shape=ctypes.cast(self._shape, pointer),
            strides=None if self._strides is None else ctypes.cast(self._strides, pointer),
            byte_offset=byte_offset,
        )
        self.streams = []

    def __dlpack_device__(self):
        return self._device

    def __dlpack__(self, stream=None):
        self.streams.append(stream)
        new = ctypes.pythonapi.PyCapsule_New
        new.restype, new.argtypes = ctypes.py_object, (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)
        return new(ctypes.addressof(self._tensor), b"dltensor", None)


class DlpackOnly:
    """A NumPy array that speaks nothing but DLPack."""

    def __init__(self, array):
        self.__dlpack__, self.__dlpack_device__ = array.__dlpack__, array.__dlpack_device__


def view(array):
    return ArrayView.of(array, "it")


@pytest.mark.parametrize(
    ("numpy_dtype", "name"),
    [("f4", "f32"), ("f2", "f16"), ("u2", "u16"), ("i4", "i32"), ("u1", "u8"), ("f8", "f64"), ("i8", "i64")],
)
@pytest.mark.parametrize("wrap", [lambda array: array, DlpackOnly])
def test_numpy_arrays_by_both_protocols(numpy_dtype, name, wrap):
    array = np.zeros((3, 4), numpy_dtype)
    seen = view(wrap(array))
    assert (seen.pointer, seen.shape, seen.dtype) == (array.ctypes.data, (3, 4), name)
    assert (seen.itemsize, seen.contiguous, seen.backend) == (array.itemsize, True, "cpu")
    assert seen.n_bytes == array.nbytes


@pytest.mark.parametrize("wrap", [lambda array: array, DlpackOnly])
@pytest.mark.parametrize(
    ("make", "contiguous"),
    [
        (lambda: np.zeros((4, 6))[:, ::2], False),
        (lambda: np.zeros((4, 6))[::2], False),
        (lambda: np.zeros((4, 6)).T, False),
        (lambda: np.zeros((4, 6))[1:3], True),
        (lambda: np.zeros((6, 1)).T, True),  # a length of 1 has no stride
        (lambda: np.zeros((4, 0))[::2], True),  # nothing to stride over
        (lambda: np.zeros(()), True),
    ],
)
def test_contiguity(wrap, make, contiguous):
    assert view(wrap(make())).contiguous is contiguous


def test_a_bf16_dlpack_array_is_seen_as_such():
    seen = view(Capsule(0x1000, (2, 8), byte_offset=64))
    assert (seen.dtype, seen.itemsize, seen.shape, seen.pointer) == ("bf16", 2, (2, 8), 0x1040)
    assert seen.contiguous
    assert not view(Capsule(0x1000, (2, 8), strides=(1, 2))).contiguous
    assert view(Capsule(0x1000, (2, 8), strides=(8, 1))).contiguous


def test_a_cuda_producer_is_asked_not_to_synchronize():
    array = Capsule(0x1000, (4,), code=2, bits=32, device=(2, 3))
    seen = view(array)
    assert (seen.backend, seen.device_index, seen.dtype) == ("cuda", 3, "f32")
    assert array.streams == [-1]


def test_a_device_of_another_maker_is_named():
    assert view(Capsule(0x1000, (4,), device=(10, 0))).backend == "dlpack device 10"


def test_a_null_pointer_of_an_empty_array_is_0():
    assert view(Capsule(None, (0, 8))).pointer == 0


def test_ml_dtypes_bf16_is_a_void_with_a_name():
    class Bf16(Spoken):
        dtype = type("Kind", (), {"name": "bfloat16"})()

    seen = view(Bf16(__array_interface__={"typestr": "<V2", "shape": (3,), "data": (16, True), "version": 3}))
    assert (seen.dtype, seen.itemsize, seen.contiguous, seen.writable) == ("bf16", 2, True, False)


def test_the_other_byte_order_is_no_f32():
    foreign = np.zeros(4, np.dtype("f4").newbyteorder())
    assert view(foreign).dtype == foreign.dtype.str


def test_the_cuda_interface_comes_first_and_null_data_is_0():
    facts = {"typestr": "<f4", "shape": (0,), "version": 3}
    both = {"__cuda_array_interface__": {**facts, "data": (None, False)}, "__array_interface__": facts}
    seen = view(Spoken(**both))
    assert (seen.backend, seen.pointer, seen.device_index) == ("cuda", 0, None)


def test_a_property_that_raises_is_passed_over():
    class Torchlike(Capsule):
        @property
        def __cuda_array_interface__(self):
            raise AttributeError("no interface for bf16")

    assert view(Torchlike(0x1000, (4,))).dtype == "bf16"


def test_a_producer_that_refuses_is_an_error_in_words():
    class NeedsGradient(Capsule):
        def __dlpack__(self, stream=None):
            raise BufferError("tensor requires grad")

    with pytest.raises(InvalidProblem, match="it cannot be shared: tensor requires grad"):
        view(NeedsGradient(0x1000, (4,)))


def test_no_protocol_is_an_error_with_its_type():
    with pytest.raises(InvalidProblem, match="it is a list, not an array") as caught:
        view([1, 2])
    assert "DLPack" in caught.value.hint


def test_torchs_opaque_bf16_interface_yields_to_dlpack():
    class Torchlike(Capsule):
        @property
        def __cuda_array_interface__(self):
            return {"typestr": "<V2", "shape": (4,), "data": (1, False), "strides": None, "version": 2}

    assert view(Torchlike(0x1000, (4,))).dtype == "bf16"
