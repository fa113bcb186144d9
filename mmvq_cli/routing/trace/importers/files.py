"""Opening what recorders write: JSON, JSON lines, `.npy` and `.npz`, with every failure in words."""

from __future__ import annotations

import base64
import binascii
import json
import zipfile
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmvq_cli.errors import ModelError, OpenError
from mmvq_cli.routing.trace.assemble import Progress

_HINT = "the file is damaged, or --from names another source"
_CANNOT_OPEN = "check the path and its permissions"
_SHOWN_EVERY_BYTES = 2**20


class ReadCounter:
    """Reports how much of a file was read, once a MiB."""

    def __init__(self, path: Path, progress: Progress, what: str = "reading") -> None:
        self._progress, self._what, self._total = progress, what, path.stat().st_size
        self._done = self._shown = 0

    def add(self, n_bytes: int) -> None:
        """Count what was read just now."""
        self._done += n_bytes
        if self._done - self._shown >= _SHOWN_EVERY_BYTES or self._done >= self._total > self._shown:
            self._shown = self._done
            self._progress(self._what, min(self._done, self._total), self._total)


def read_documents(path: Path, progress: Progress) -> Iterator[tuple[str, Any]]:
    """Yield (place, value) of a JSON file, or of each line of a JSON-lines file; a top-level list yields its items.

    Raises `OpenError`, or `ModelError` naming the line.
    """
    try:
        with path.open(encoding="utf-8") as file:
            counter = ReadCounter(path, progress)
            text = file.read() if path.suffix == ".json" else None
            if text is not None:
                value = _parse(text, str(path))
                items = value if isinstance(value, list) else [value]
                yield from ((f"{path} [{index}]", item) for index, item in enumerate(items))
                return
            for number, line in enumerate(file, 1):
                counter.add(len(line))
                if line.strip():
                    yield f"{path}:{number}", _parse(line, f"{path}:{number}")
    except OSError as error:
        raise OpenError(f"cannot open {path}: {error.strerror}", _CANNOT_OPEN) from error
    except UnicodeDecodeError as error:
        raise ModelError(f"{path}: not UTF-8 at byte {error.start}", _HINT) from None


def read_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """The arrays of a `.npy` (memory-mapped, called `array`) or `.npz`; pickled objects are refused.

    Raises `OpenError` or `ModelError`.
    """
    try:
        if path.suffix == ".npy":
            array = np.load(path, mmap_mode="r", allow_pickle=False)
            return {"array": array}
        size = path.stat().st_size
        with zipfile.ZipFile(path) as archive:
            packed = sum(info.compress_size for info in archive.infolist())
            inflated = sum(info.file_size for info in archive.infolist())
        # deflate cannot do better than 1032:1
        if packed > size or inflated > 1100 * max(1, size):
            raise ModelError(f"{path}: says it holds {inflated} bytes", _HINT)
        with np.load(path, allow_pickle=False) as bundle:
            return {name: np.asarray(bundle[name]) for name in bundle.files}
    except OSError as error:
        if error.strerror:
            raise OpenError(f"cannot open {path}: {error.strerror}", _CANNOT_OPEN) from error
        raise ModelError(f"{path}: {error}", _HINT) from None
    except ModelError:
        raise
    except Exception as error:  # numpy, zlib and zipfile raise many kinds for damaged files
        raise ModelError(f"{path}: {type(error).__name__}: {str(error)[:200]}", _HINT) from None


def decode_base64(text: str, where: str) -> bytes:
    """The bytes; raises `ModelError`."""
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ModelError(f"{where}: not base64: {error}", _HINT) from None


def parse_npy(raw: bytes, where: str) -> NDArray[Any]:
    """The array in the bytes of a `.npy` file; raises `ModelError`."""
    if not raw.startswith(b"\x93NUMPY"):
        raise ModelError(f"{where}: does not start like a .npy file", _HINT)
    try:
        stream = BytesIO(raw)
        major, _ = np.lib.format.read_magic(stream)
        read_header = np.lib.format.read_array_header_1_0 if major == 1 else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = read_header(stream)
        if dtype.hasobject or dtype.kind not in "iufb":
            raise ValueError(f"dtype {dtype}")
        n_elements = 1
        for n in shape:
            n_elements *= n
        if min(shape, default=1) < 0 or n_elements * dtype.itemsize != len(raw) - stream.tell():
            raise ValueError(f"shape {shape} of {dtype} does not fit {len(raw) - stream.tell()} bytes")
        values = np.frombuffer(raw, dtype, offset=stream.tell())
        return values.reshape(shape, order="F" if fortran else "C")
    except Exception as error:  # numpy's header parser raises many kinds for damaged headers
        raise ModelError(f"{where}: a damaged .npy: {str(error)[:200]}", _HINT) from None


def integers(value: Any, where: str, dims: int) -> NDArray[Any]:
    """Nested lists of whole numbers as an array of `dims` dimensions; raises `ModelError`."""
    try:
        array = np.asarray(value)
    except (ValueError, OverflowError) as error:
        raise ModelError(f"{where}: lists of unequal lengths: {str(error)[:100]}", _HINT) from None
    if array.size and (array.dtype.kind not in "iu" or array.ndim != dims):
        raise ModelError(f"{where}: {array.dtype} {list(array.shape)}, not whole numbers in {dims} dimensions", _HINT)
    return array


def damaged(where: str, message: str) -> ModelError:
    """The error for a file that is not what its importer reads."""
    return ModelError(f"{where}: {message}", _HINT)


def _parse(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{where}: not JSON: {str(error)[:200]}", _HINT) from None
