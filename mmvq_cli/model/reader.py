"""A bounded forward reader for untrusted little-endian headers: every length is checked before a byte is read."""

from __future__ import annotations

import os
import stat
import struct
from io import FileIO
from pathlib import Path

from mmvq_cli.errors import ModelError, OpenError

# The largest real headers (a vocabulary of 500k merges) are near 20 MB; beyond this a file only wants our memory.
HEADER_LIMIT_BYTES = 64 * 2**20
_WINDOW_BYTES = 256 * 2**10
_DAMAGED = "the file is damaged or not a GGUF model: compare its checksum with the publisher's, or download it again"


def open_regular(path: Path) -> tuple[FileIO, int]:
    """Open `path` unbuffered and return it with its size in bytes.

    Raises `OpenError` when it is missing, not a regular file, or not readable.
    """
    try:
        # stat before open: opening a pipe would wait for a writer for ever
        if not stat.S_ISREG(path.stat().st_mode):
            raise OpenError(f"{path} is not a regular file", "give the path of a .gguf file")
        file = FileIO(path)
        return file, os.fstat(file.fileno()).st_size
    except OSError as error:
        raise OpenError(f"cannot open {path}: {error.strerror}", "check the path and its permissions") from error


class Cursor:
    """A position in a file of known size, with checked reads through a small window.

    Raises `ModelError`, naming file and byte, when a length does not fit into the bytes left or into
    `HEADER_LIMIT_BYTES`; `OpenError` when the file shrank after it was opened or cannot be read.
    """

    def __init__(self, file: FileIO, path: Path, size: int) -> None:
        self.path = path
        self.size = size
        self._file = file
        self._window = b""
        self._start = 0  # file offset of the window
        self._at = 0  # position in the window; may lie beyond it after a skip
        self._limit = min(size, HEADER_LIMIT_BYTES)

    @property
    def offset(self) -> int:
        """Byte offset in the file of what is read next."""
        return self._start + self._at

    def error(self, message: str, offset: int | None = None) -> ModelError:
        """Make the error to raise for a broken rule at `offset` (default: here)."""
        return ModelError(f"{self.path}: byte {self.offset if offset is None else offset}: {message}", _DAMAGED)

    def require(self, n_bytes: int, what: str) -> None:
        """Check that `n_bytes` more may be read or skipped; `what` names them in the error."""
        if n_bytes > self.size - self.offset:
            raise self.error(f"{what} needs {n_bytes} bytes, but only {self.size - self.offset} are left in the file")
        if n_bytes > self._limit - self.offset:
            raise self.error(f"{what} ends beyond {HEADER_LIMIT_BYTES} bytes, the longest header that is read")

    def read(self, n_bytes: int, what: str) -> bytes:
        """Read the next `n_bytes`."""
        self.require(n_bytes, what)
        self._fill(n_bytes)
        start = self._at
        self._at += n_bytes
        return self._window[start : self._at]

    def skip(self, n_bytes: int, what: str) -> None:
        """Pass over `n_bytes` without reading them."""
        self.require(n_bytes, what)
        self._at += n_bytes

    def numbers(self, count: int, code: str, what: str) -> tuple[int | float, ...]:
        """Read `count` numbers of the `struct` type `code`."""
        raw = self.read(count * struct.calcsize(f"<{code}"), what)
        return struct.unpack(f"<{count}{code}", raw)

    def u32(self, what: str) -> int:
        """Read one unsigned 32-bit integer."""
        return int.from_bytes(self.read(4, what), "little")

    def u64(self, what: str) -> int:
        """Read one unsigned 64-bit integer."""
        return int.from_bytes(self.read(8, what), "little")

    def skip_strings(self, count: int, what: str) -> None:
        """Pass over `count` strings of u64 length + bytes, reading lengths only.

        One tight loop: a vocabulary has 300,000 of them.
        """
        self.require(8 * count, what)
        limit = self._limit - self._start
        for index in range(count):
            if self._at + 8 > len(self._window):
                if self._at + 8 > limit:
                    self.require(8, f"{what}, string {index}")
                self._fill(8)
                limit = self._limit - self._start
            length = int.from_bytes(self._window[self._at : self._at + 8], "little")
            self._at += 8
            if self._at + length > limit:
                self.require(length, f"{what}, string {index}")
            self._at += length

    def _fill(self, n_bytes: int) -> None:
        """Move the window so that it holds `n_bytes` (already checked by `require`) from here."""
        if self._at + n_bytes <= len(self._window):
            return
        start = self.offset
        wanted = min(max(n_bytes, _WINDOW_BYTES), self.size - start)
        try:
            self._file.seek(start)
            window = self._file.read(wanted)
        except OSError as error:
            raise OpenError(f"cannot read {self.path}: {error.strerror}", "check the disk that holds it") from error
        if len(window) < n_bytes:
            raise shrank(self.path, start + len(window))
        self._window, self._start, self._at = window, start, 0


def shrank(path: Path, end: int) -> OpenError:
    """Make the error for a file that ends at byte `end`, before the size it had when it was opened."""
    return OpenError(f"{path} now ends at byte {end}: it shrank while it was read", "wait until nothing writes to it")
