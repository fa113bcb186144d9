"""Records on disk: JSON lines, appended after every case, so that an interrupted run loses nothing.

Looks at the machine are lines among them; readers get their canary readings in the records.
"""

from __future__ import annotations

import gzip
import json
import os
import re
import warnings
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

from mmvq_cli.errors import OpenError
from mmvq_cli.record.groups import Status
from mmvq_cli.record.schema import Record
from mmvq_cli.record.session import LOOK_SCHEMA, Look, with_looks

# A verdict is final; a case that was skipped, ran out of time or broke its device is run again.
_FINAL = {Status.PASSED, Status.WRONG_RESULT, Status.UNSUPPORTED}


class TruncatedRecordWarning(UserWarning):
    """The last line of a file is incomplete: the run was interrupted while writing it."""


def new_run_id(device: str, suite: str, commit: str, now: datetime | None = None) -> str:
    """Name a run, and its file: `<utc>-<device>-<suite>-<commit>`, in lower case."""
    moment = (now or datetime.now(UTC)).astimezone(UTC)
    return f"{moment:%Y%m%dT%H%M%SZ}-{_run_suffix(device, suite, commit)}"


def latest_run_id(folder: Path, device: str, suite: str, commit: str) -> str | None:
    """Find the newest run of the same device, suite and commit in the folder, the one to resume, or None."""
    pattern = re.compile(rf"\d{{8}}T\d{{6}}Z-{re.escape(_run_suffix(device, suite, commit))}")
    return max((path.stem for path in folder.glob("*.jsonl") if pattern.fullmatch(path.stem)), default=None)


def _run_suffix(device: str, suite: str, commit: str) -> str:
    return "-".join(re.sub(r"[^a-z0-9._]+", "-", part.lower()).strip("-.") for part in (device, suite, commit))


class RecordStore:
    """Appends the records of one run to `<folder>/<run_id>.jsonl`; an existing file is continued."""

    def __init__(self, folder: Path, run_id: str) -> None:
        self.path = folder / f"{run_id}.jsonl"

    def require_writable(self) -> None:
        """Raise `OpenError` when the folder cannot be made or the file in it not be opened; leaves no empty file."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            is_new = not self.path.exists()
            self.path.open("ab").close()
            if is_new:
                self.path.unlink()
        except OSError as error:
            raise _cannot("write", self.path, error) from error

    def append(self, line: Record | Look) -> None:
        """Add one line; it is on the disk when this returns.

        An incomplete last line that an interrupted run left is cut off; another process that appends to the same file
        is waited for. Raises `OpenError` when writing fails.
        """
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a+b") as file, _locked(file):
                _end_last_line(file)
                file.write(line.to_json().encode() + b"\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise _cannot("write", self.path, error) from error


@contextmanager
def _locked(file: IO[bytes]) -> Iterator[None]:
    """Keep other writers out, where the system has file locks: half a line of theirs would be cut off."""
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    fcntl.flock(file, fcntl.LOCK_EX)  # given back when the file is closed
    yield


def _end_last_line(file: IO[bytes]) -> None:
    """Give a complete last line its missing line end; cut off an incomplete one."""
    size = file.seek(0, os.SEEK_END)
    start = size
    tail = b""
    while start > 0 and b"\n" not in tail:
        step = min(start, 1 << 16)
        start = file.seek(start - step)
        tail = file.read(step) + tail
    last = tail.rpartition(b"\n")[2]
    if last and _is_json(last):
        file.write(b"\n")
    elif last:
        file.truncate(size - len(last))


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line)
    except ValueError:
        return False
    return True


def read_records(path: Path) -> Iterator[Record]:
    """Read the records of a `.jsonl` or `.jsonl.gz` file in order, with the canary readings of their run.

    An incomplete last line, left by an interrupted run, is dropped with a `TruncatedRecordWarning`. Raises
    `OpenError`, naming file and line, for a file that cannot be read and for a line that is no record of this schema.
    """
    records: list[Record] = []
    looks: list[Look] = []
    for line in _read_lines(path):
        if isinstance(line, Record):
            records.append(line)
            continue
        if line.point == "start":  # of a resumed run
            yield from with_looks(records, looks)
            records, looks = [], []
        looks.append(line)
    yield from with_looks(records, looks)


def read_looks(path: Path) -> list[Look]:
    """Read the looks of a file in order; warns and raises as `read_records` does."""
    return [line for line in _read_lines(path) if isinstance(line, Look)]


def _read_lines(path: Path) -> Iterator[Record | Look]:
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if not line.endswith(b"\n") and not _is_json(line):
                    warnings.warn(
                        f"{path} line {number} is incomplete and was left out: the run was interrupted there",
                        TruncatedRecordWarning,
                        stacklevel=3,
                    )
                    return
                yield _parse(path, number, line)
    except (OSError, EOFError, zlib.error) as error:
        raise _cannot("read", path, error) from error


def _parse(path: Path, number: int, line: bytes) -> Record | Look:
    try:
        # The schema is the first field, so a look is told from a record without parsing either twice.
        return Look.from_json(line) if LOOK_SCHEMA.encode() in line[:40] else Record.from_json(line)
    except OpenError as error:
        raise OpenError(f"{path} line {number}: {error.message}", error.hint) from error
    except ValueError as error:
        raise OpenError(f"{path} line {number} is not JSON: {error}", "was the file edited? restore it") from error


def last_per_row(records: Iterable[Record]) -> list[Record]:
    """Keep the last record of each row, in the order of first appearance: a resumed run repeats rows that broke."""
    return list({record.ids.row_id: record for record in records}.values())


def completed_row_ids(path: Path) -> set[str]:
    """Collect the rows with a final verdict (PASSED, WRONG_RESULT, UNSUPPORTED), which `--resume` leaves out."""
    return {record.ids.row_id for record in last_per_row(read_records(path)) if record.status in _FINAL}


def write_whole(path: Path, text: str) -> None:
    """Replace a file at once: readers see the old text or all of the new one.

    Raises `OpenError` when the folder cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("w", encoding="utf-8", newline="") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise _cannot("write", path, error) from error


def _cannot(verb: str, path: Path, error: Exception) -> OpenError:
    reason = getattr(error, "strerror", None) or error
    return OpenError(f"cannot {verb} {path}: {reason}", "check the path, its permissions and the free space")
