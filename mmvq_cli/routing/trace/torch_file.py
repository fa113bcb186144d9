"""A reader of torch's `.pt` files that executes nothing.

A `.pt` is an uncompressed zip of `NAME/data.pkl` and `NAME/data/<key>` (one file per storage). The pickle is run by the
small machine below, which knows the opcodes that torch.save writes for tensors, numbers, strings, lists and dicts; a
name it would have to import is refused unless it stands in `_CALLS` or `_STORAGES`, which are names only here.
"""

from __future__ import annotations

import pickletools
import struct
import zipfile
import zlib
from collections.abc import Callable
from io import BytesIO
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmvq_cli.errors import ModelError, OpenError

_HINT = "torch.save of tensors, numbers, strings, lists and dicts is read; convert others to .npz with torch"
_MAX_PICKLE_BYTES = 1 << 26
_STORAGES = {
    "IntStorage": "<i4",
    "LongStorage": "<i8",
    "ShortStorage": "<i2",
    "CharStorage": "|i1",
    "ByteStorage": "|u1",
    "BoolStorage": "|b1",
    "FloatStorage": "<f4",
    "DoubleStorage": "<f8",
    "HalfStorage": "<f2",
    "BFloat16Storage": "bf16",
}
# What zipfile raises for damaged archives.
_DAMAGED = (
    zipfile.BadZipFile,
    zipfile.LargeZipFile,
    EOFError,
    NotImplementedError,
    OSError,
    RuntimeError,
    ValueError,
    struct.error,
    zlib.error,
)
_CALLS = ("torch._utils _rebuild_tensor_v2", "collections OrderedDict")


def read_torch(path: Path) -> Any:
    """The object in a `.pt` file, with numpy arrays for tensors (float32 for bfloat16).

    Raises `OpenError` when the file cannot be read, `ModelError` naming the opcode, name or storage for what is
    damaged or would need code to run.
    """
    try:
        return parse_torch(path.read_bytes(), str(path))
    except OSError as error:
        raise OpenError(f"cannot open {path}: {error.strerror}", "check the path and its permissions") from error


def parse_torch(data: bytes, where: str) -> Any:
    """The object in the bytes of a `.pt` file; raises `ModelError`."""
    try:
        with zipfile.ZipFile(BytesIO(data)) as archive:
            return _Machine(archive, where).run()
    except _DAMAGED as error:
        raise ModelError(f"{where}: not a zip of torch.save: {error}", _HINT) from None


class _Name(str):
    """A name that the pickle wanted imported."""


class _Mark:
    """Where a list of stack items starts."""


class _Machine:
    """Runs the pickle of one archive; the stack and the memo hold plain values only."""

    def __init__(self, archive: zipfile.ZipFile, where: str) -> None:
        self._archive, self._where = archive, where
        names = [name for name in archive.namelist() if name == "data.pkl" or name.endswith("/data.pkl")]
        if len(names) != 1:
            raise self._error(f"it has {len(names)} data.pkl")
        self._root = names[0].removesuffix("data.pkl")
        order = self._root + "byteorder"
        if order in archive.namelist() and self._read(order, 64) != b"little":
            raise self._error("byteorder is not little")
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}
        self._storages: dict[str, NDArray[Any]] = {}

    def _error(self, message: str) -> ModelError:
        return ModelError(f"{self._where}: {message}", _HINT)

    def _read(self, name: str, limit: int) -> bytes:
        try:
            info = self._archive.getinfo(name)
        except KeyError:
            raise self._error(f"{name} is missing") from None
        if info.compress_type != zipfile.ZIP_STORED or info.file_size > limit or info.file_size != info.compress_size:
            raise self._error(f"{name} is compressed or has {info.file_size} bytes, more than {limit}")
        return self._archive.read(info)

    def run(self) -> Any:
        """Run to the STOP opcode and return what is left."""
        pickle = self._read(self._root + "data.pkl", _MAX_PICKLE_BYTES)
        name = "the start"
        try:
            for opcode, argument, _ in pickletools.genops(pickle):
                name = opcode.name
                if name == "STOP":
                    (result,) = self._stack
                    if isinstance(result, _Mark):
                        raise ValueError("a mark is left")
                    return result
                step = _STEPS.get(name)
                if step is None:
                    raise self._error(f"data.pkl has the opcode {name}, which tensors do not need")
                step(self, argument)
        except (ValueError, IndexError, KeyError, TypeError, AttributeError, OverflowError) as error:
            raise self._error(f"data.pkl breaks at {name}: {error}") from None
        raise self._error("data.pkl does not end")

    def _push(self, value: Any) -> None:
        self._stack.append(value)

    def _since_mark(self) -> list[Any]:
        at = len(self._stack) - 1
        while not isinstance(self._stack[at], _Mark):
            at -= 1
            if at < 0:
                raise IndexError("no mark")
        items = self._stack[at + 1 :]
        del self._stack[at:]
        return items

    def _tuple(self, count: int) -> None:
        items = tuple(self._stack[len(self._stack) - count :])
        if len(items) < count:
            raise IndexError("stack is empty")
        del self._stack[len(self._stack) - count :]
        self._push(items)

    def _set_items(self, items: list[Any]) -> None:
        target = self._stack[-1]
        if not isinstance(target, dict) or len(items) % 2:
            raise TypeError("items of no dict")
        if not all(isinstance(key, str | int) for key in items[::2]):  # hashing a deep tuple overflows the C stack
            raise TypeError("a key that is neither text nor a number")
        target.update(zip(items[::2], items[1::2], strict=True))

    def _append(self, items: list[Any]) -> None:
        if not isinstance(self._stack[-1], list):
            raise TypeError("items of no list")
        self._stack[-1].extend(items)

    def _global(self, name: str) -> None:
        module, _, short = name.partition(" ")
        if name not in _CALLS and not (module == "torch" and short in _STORAGES):
            raise self._error(f"data.pkl wants {name.replace(' ', '.')[:80]!r}, which is not loaded")
        self._push(_Name(name))

    def _stack_global(self, _: Any) -> None:
        short, module = self._stack.pop(), self._stack.pop()
        self._global(f"{module} {short}")

    def _put(self, index: int | None) -> None:
        self._memo[len(self._memo) if index is None else index] = self._stack[-1]

    def _reduce(self, _: Any) -> None:
        arguments, call = self._stack.pop(), self._stack.pop()
        if not isinstance(call, _Name) or not isinstance(arguments, tuple):
            raise TypeError("a call of no name")
        if call == _CALLS[0]:
            self._push(_view(*arguments[:4]))
        elif call == _CALLS[1] and not arguments:
            self._push({})
        else:
            raise TypeError(f"a call of {call}")

    def _storage(self, _: Any) -> None:
        """Replace the persistent id ("storage", type, key, device, elements) by the array that it names."""
        kind, name, key, _device, n_elements = self._stack.pop()
        if kind != "storage" or not isinstance(name, _Name) or not isinstance(key, str):
            raise TypeError("a persistent id of no storage")
        code = _STORAGES[name.partition(" ")[2]]
        if key not in self._storages:
            raw = self._read(f"{self._root}data/{key}", 1 << 40)
            values = np.frombuffer(raw, "<u2" if code == "bf16" else code)
            self._storages[key] = (values.astype("<u4") << 16).view("<f4") if code == "bf16" else values
        values = self._storages[key]
        if len(values) != n_elements:
            raise self._error(f"storage {key} has {len(values)} elements, the pickle says {n_elements}")
        self._push(values)


def _view(storage: Any, offset: Any, size: Any, stride: Any) -> NDArray[Any]:
    """The tensor [size] in a storage; every element must lie inside, and none is used twice."""
    if not isinstance(storage, np.ndarray) or len(size) != len(stride) or len(size) > 8:
        raise TypeError("a tensor without a storage, size and stride")
    if not all(isinstance(n, int) and n >= 0 for n in (offset, *size, *stride)):
        raise ValueError("negative size, stride or offset")
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    if 0 in size:
        return np.zeros(size, storage.dtype) if max(size) < 2**31 else np.zeros(0, storage.dtype)
    if prod(size) > len(storage) or last >= len(storage):
        raise ValueError(f"a tensor {list(size)} does not fit its storage of {len(storage)} elements")
    strides = [step * storage.itemsize for step in stride]
    return np.lib.stride_tricks.as_strided(storage[offset:], size, strides, writeable=False)


_STEPS: dict[str, Callable[[_Machine, Any], None]] = {
    "PROTO": lambda m, _: None,
    "FRAME": lambda m, _: None,
    "MARK": lambda m, _: m._push(_Mark()),
    "EMPTY_DICT": lambda m, _: m._push({}),
    "EMPTY_LIST": lambda m, _: m._push([]),
    "EMPTY_TUPLE": lambda m, _: m._push(()),
    "NONE": lambda m, _: m._push(None),
    "NEWTRUE": lambda m, _: m._push(True),
    "NEWFALSE": lambda m, _: m._push(False),
    **dict.fromkeys(
        ("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE", "SHORT_BINUNICODE"),
        lambda m, value: m._push(value),
    ),
    **dict.fromkeys(("BINPUT", "LONG_BINPUT", "MEMOIZE"), lambda m, index: m._put(index)),
    **dict.fromkeys(("BINGET", "LONG_BINGET"), lambda m, index: m._push(m._memo[index])),
    "TUPLE": lambda m, _: m._push(tuple(m._since_mark())),
    "TUPLE1": lambda m, _: m._tuple(1),
    "TUPLE2": lambda m, _: m._tuple(2),
    "TUPLE3": lambda m, _: m._tuple(3),
    "SETITEM": lambda m, _: m._set_items([m._stack.pop(-2), m._stack.pop()]),
    "SETITEMS": lambda m, _: m._set_items(m._since_mark()),
    "APPEND": lambda m, _: m._append([m._stack.pop()]),
    "APPENDS": lambda m, _: m._append(m._since_mark()),
    "GLOBAL": lambda m, name: m._global(name),
    "STACK_GLOBAL": _Machine._stack_global,
    "REDUCE": _Machine._reduce,
    "BINPERSID": _Machine._storage,
}
