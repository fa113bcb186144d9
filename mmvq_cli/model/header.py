"""A strict reader of GGUF headers: metadata and tensor records, no tensor data.

The format is that of ggml's docs/gguf.md, versions 2 and 3, little-endian. Every number of the file is distrusted: it
is a Python int (nothing wraps) and is compared with the bytes that are left before it is used. Long arrays, which are
tokenizers, are passed over by arithmetic.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from struct import calcsize
from types import MappingProxyType
from typing import TypeAlias, cast

from mmvq_cli.model.reader import Cursor, open_regular
from mmvq_cli.op.formats import type_name
from mmvq_cli.op.ggml import GGML, GGML_QUANT_SIZES, GGUFValueType, Keys

_MAX_KEYS = 2**16
_MAX_TENSORS = 2**18
_MAX_KEY_BYTES = 65535
_MAX_NAME_BYTES = 63
_MAX_DIMS = 4
_MAX_NE = 2**40
_MAX_KEPT_ELEMENTS = 4096
_ALIGNMENTS = frozenset(2**i for i in range(5, 17))  # ggml's own loader aborts below 32
_DEFAULT_ALIGNMENT = 32
_VERSIONS = (2, 3)
# The shortest legal records
_MIN_KEY_BYTES = 8 + 1 + 4 + 1  # name length, name, value type, value
_MIN_TENSOR_BYTES = 8 + 1 + 4 + 8 + 4 + 8  # name length, name, rank, one dimension, type, offset

# struct codes of the value types that are numbers
_CODES = {
    GGUFValueType.UINT8: "B",
    GGUFValueType.INT8: "b",
    GGUFValueType.UINT16: "H",
    GGUFValueType.INT16: "h",
    GGUFValueType.UINT32: "I",
    GGUFValueType.INT32: "i",
    GGUFValueType.FLOAT32: "f",
    GGUFValueType.BOOL: "B",
    GGUFValueType.UINT64: "Q",
    GGUFValueType.INT64: "q",
    GGUFValueType.FLOAT64: "d",
}

# (block size, bytes per block). gguf 0.19 says 40 bytes for Q8_1 (two f16 and 32 bytes are 36) and lacks type 42, Q2_0.
_BLOCKS: Mapping[int, tuple[int, int]] = {
    **{int(type_): blocks for type_, blocks in GGML_QUANT_SIZES.items()},
    int(GGML.Q8_1): (32, 36),
    42: (64, 18),
}


@dataclass(frozen=True, slots=True)
class ArrayValue:
    """A metadata array too long to keep (a tokenizer's): element type and length, without contents."""

    type: str
    length: int


Scalar: TypeAlias = bool | int | float | str
Value: TypeAlias = Scalar | tuple[Scalar, ...] | ArrayValue


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """One tensor record: `ne` in ggml order (fastest first), `offset` in bytes from the start of the data section."""

    name: str
    type_id: int
    ne: tuple[int, ...]
    offset: int
    n_bytes: int


@dataclass(frozen=True, slots=True)
class Header:
    """Everything before the tensor data of one GGUF file; offsets and sizes in bytes."""

    path: Path
    version: int
    alignment: int
    metadata: Mapping[str, Value]
    tensors: tuple[TensorInfo, ...]
    data_offset: int
    file_size: int
    warnings: tuple[str, ...]


def read_header(path: Path) -> Header:
    """Read and check the header of a GGUF file.

    Raises `OpenError` when the file cannot be opened or read, and `ModelError` naming file, byte, value and rule for
    everything that breaks the format. Bytes after the last tensor are a warning.
    """
    file, size = open_regular(path)
    with file:
        cursor = Cursor(file, path, size)
        version, n_tensors, n_keys = _read_preamble(cursor)
        metadata = _read_metadata(cursor, n_keys)
        alignment = cast(int, metadata.get(Keys.General.ALIGNMENT, _DEFAULT_ALIGNMENT))
        if n_tensors == 0 and not _is_first_shard(metadata):
            raise cursor.error("tensor count is 0: only the first file of a split set may hold no tensor", 8)
        tensors = _read_tensors(cursor, n_tensors, alignment)
        data_offset = _padded(cursor.offset, alignment)
        warnings = _check_extent(cursor, tensors, data_offset, alignment)
    return Header(path, version, alignment, MappingProxyType(metadata), tensors, data_offset, size, warnings)


def _read_preamble(cursor: Cursor) -> tuple[int, int, int]:
    """Read magic, version and the two counts; returns (version, n_tensors, n_keys)."""
    magic = cursor.read(4, "the magic")
    if magic != b"GGUF":
        raise cursor.error(f"magic is {magic!r}, a GGUF file starts with b'GGUF'", 0)
    version = cursor.u32("the version")
    if version not in _VERSIONS:
        swapped = " (a big-endian file?)" if version & 0xFFFF == 0 and version else ""
        raise cursor.error(f"version is {version}{swapped}, versions 2 and 3 (little-endian) are read", 4)
    n_tensors = cursor.u64("the tensor count")
    n_keys = cursor.u64("the key count")
    left = cursor.size - cursor.offset
    if n_tensors > min(left // _MIN_TENSOR_BYTES, _MAX_TENSORS):
        raise cursor.error(f"tensor count is {n_tensors}, at most {_MAX_TENSORS} and what fits into {left} bytes", 8)
    if n_keys > min(left // _MIN_KEY_BYTES, _MAX_KEYS):
        raise cursor.error(f"key count is {n_keys}, at most {_MAX_KEYS} and what fits into {left} bytes", 16)
    return version, n_tensors, n_keys


def _read_metadata(cursor: Cursor, n_keys: int) -> dict[str, Value]:
    metadata: dict[str, Value] = {}
    for index in range(n_keys):
        start = cursor.offset
        key = _read_name(cursor, f"key {index}", _MAX_KEY_BYTES)
        if key in metadata:
            raise cursor.error(f"key {_shown(key)} is there twice", start)
        is_alignment = key == Keys.General.ALIGNMENT
        metadata[key] = _read_alignment(cursor) if is_alignment else _read_value(cursor, _shown(key))
    return metadata


def _read_name(cursor: Cursor, what: str, limit: int) -> str:
    """Read a key or tensor name: 1 to `limit` bytes of UTF-8."""
    start = cursor.offset
    length = cursor.u64(f"the length of {what}")
    if not 1 <= length <= limit:
        raise cursor.error(f"{what} has a name of {length} bytes, 1 to {limit} are allowed", start)
    raw = cursor.read(length, what)
    try:
        return raw.decode()
    except UnicodeDecodeError:
        raise cursor.error(f"the name of {what} is not UTF-8: {_shown(raw)}", start + 8) from None


def _read_value(cursor: Cursor, key: str) -> Value:
    value_type = _read_value_type(cursor, f"key {key}")
    if value_type is not GGUFValueType.ARRAY:
        return _read_scalars(cursor, value_type, 1, key)[0]
    element_type = _read_value_type(cursor, f"the array {key}")
    if element_type is GGUFValueType.ARRAY:
        raise cursor.error(f"{key} is an array of arrays, which GGUF readers refuse", cursor.offset - 4)
    length = cursor.u64(f"the length of array {key}")
    if length <= _MAX_KEPT_ELEMENTS:
        return _read_scalars(cursor, element_type, length, key)
    what = f"array {key} of {length} {element_type.name}"
    if element_type is GGUFValueType.STRING:
        cursor.skip_strings(length, what)
    else:
        cursor.skip(length * calcsize(f"<{_CODES[element_type]}"), what)
    return ArrayValue(element_type.name, length)


def _read_value_type(cursor: Cursor, what: str) -> GGUFValueType:
    start = cursor.offset
    number = cursor.u32(f"the type of {what}")
    try:
        return GGUFValueType(number)
    except ValueError:
        raise cursor.error(f"{what} has value type {number}, types 0 to 12 exist", start) from None


def _read_scalars(cursor: Cursor, value_type: GGUFValueType, count: int, key: str) -> tuple[Scalar, ...]:
    if value_type is GGUFValueType.STRING:
        return tuple(_read_string(cursor, key) for _ in range(count))
    numbers = cursor.numbers(count, _CODES[value_type], key)
    if value_type is not GGUFValueType.BOOL:
        return numbers
    wrong = [number for number in numbers if number not in (0, 1)]
    if wrong:
        raise cursor.error(f"{key} is a bool of value {wrong[0]}, only 0 and 1 are allowed", cursor.offset - count)
    return tuple(number == 1 for number in numbers)


def _read_string(cursor: Cursor, key: str) -> str:
    """Read a string value: any bytes (tokens hold such); only names must be UTF-8."""
    return cursor.read(cursor.u64(f"the length of {key}"), key).decode(errors="backslashreplace")


def _read_alignment(cursor: Cursor) -> int:
    start = cursor.offset
    value_type = _read_value_type(cursor, f"key {Keys.General.ALIGNMENT}")
    if value_type is not GGUFValueType.UINT32:
        raise cursor.error(f"{Keys.General.ALIGNMENT} is a {value_type.name}, it must be a UINT32", start)
    alignment = cursor.u32(Keys.General.ALIGNMENT)
    if alignment not in _ALIGNMENTS:
        raise cursor.error(
            f"{Keys.General.ALIGNMENT} is {alignment}, it must be a power of two from 32 to 65536", start + 4
        )
    return alignment


def _is_first_shard(metadata: Mapping[str, Value]) -> bool:
    count = metadata.get(Keys.Split.LLM_KV_SPLIT_COUNT)
    return isinstance(count, int) and count > 1 and metadata.get(Keys.Split.LLM_KV_SPLIT_NO) == 0


def _read_tensors(cursor: Cursor, n_tensors: int, alignment: int) -> tuple[TensorInfo, ...]:
    tensors: dict[str, TensorInfo] = {}
    expected_offset = 0
    for index in range(n_tensors):
        start = cursor.offset
        tensor = _read_tensor(cursor, index)
        if tensor.name in tensors:
            raise cursor.error(f"tensor {tensor.name} is there twice", start)
        if tensor.offset != expected_offset:
            raise cursor.error(
                f"tensor {tensor.name} has offset {tensor.offset}, it must be {expected_offset}: tensors follow each "
                f"other in order, each padded to {alignment} bytes",
                cursor.offset - 8,
            )
        expected_offset = _padded(tensor.offset + tensor.n_bytes, alignment)
        tensors[tensor.name] = tensor
    return tuple(tensors.values())


def _read_tensor(cursor: Cursor, index: int) -> TensorInfo:
    """Read one tensor record and check it by itself: name, dimensions, type, whole blocks."""
    start = cursor.offset
    name = _read_name(cursor, f"tensor {index}", _MAX_NAME_BYTES)
    if not name.isprintable():
        raise cursor.error(f"tensor {index} is named {_shown(name)}, control characters are not allowed", start + 8)
    n_dims = cursor.u32(f"the rank of {name}")
    if not 1 <= n_dims <= _MAX_DIMS:
        raise cursor.error(f"tensor {name} has {n_dims} dimensions, 1 to {_MAX_DIMS} are allowed", cursor.offset - 4)
    ne = tuple(cursor.u64(f"a dimension of {name}") for _ in range(n_dims))
    if not all(1 <= n <= _MAX_NE for n in ne):
        raise cursor.error(
            f"tensor {name} has dimensions {list(ne)}, each must be 1 to 2^40", cursor.offset - 8 * n_dims
        )
    type_id = cursor.u32(f"the type of {name}")
    if type_id not in _BLOCKS:
        raise cursor.error(f"tensor {name} has type {type_id}, which is no GGML type in use", cursor.offset - 4)
    block_size, type_size = _BLOCKS[type_id]
    if ne[0] % block_size:
        raise cursor.error(
            f"tensor {name} has rows of {ne[0]} weights, {type_name(type_id)} needs a multiple of {block_size}", start
        )
    offset = cursor.u64(f"the offset of {name}")
    return TensorInfo(name, type_id, ne, offset, prod(ne) // block_size * type_size)


def _check_extent(cursor: Cursor, tensors: tuple[TensorInfo, ...], data_offset: int, alignment: int) -> tuple[str, ...]:
    """Check that every tensor lies inside the file; returns the warning about what follows the last one."""
    end = data_offset
    for tensor in tensors:
        end = data_offset + tensor.offset + tensor.n_bytes
        if end > cursor.size:
            raise cursor.error(
                f"the data of tensor {tensor.name} ({tensor.n_bytes} bytes) ends at byte {end}, "
                f"the file has {cursor.size}",
                data_offset + tensor.offset,
            )
    if cursor.size <= end or cursor.size == _padded(end, alignment):
        return ()
    return (f"{cursor.path}: {cursor.size - end} bytes follow the last tensor, which ends at byte {end}",)


def _padded(offset: int, alignment: int) -> int:
    return (offset + alignment - 1) // alignment * alignment


def _shown(name: str | bytes) -> str:
    """Make a name from the file fit to print: quoted when odd, and not longer than a line."""
    if isinstance(name, str) and name.isprintable() and len(name) <= 80:
        return name
    return f"{name[:60]!r}" + ("…" if len(name) > 60 else "")
