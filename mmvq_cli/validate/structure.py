"""The structure layer: what the strict header reader refuses, and what it does not look at, as findings."""

from __future__ import annotations

import re
from pathlib import Path

from mmvq_cli.errors import ModelError
from mmvq_cli.model import Header
from mmvq_cli.model.reader import open_regular
from mmvq_cli.model.splits import read_shards
from mmvq_cli.validate.findings import Findings, Place

_POSITION = re.compile(r"(?P<path>.*?): byte (?P<byte>\d+): (?P<rule>.*)", re.DOTALL)
# Which check a refusal of the reader belongs to, by its words; the rest are `structure.header`.
_RULES = (
    ("structure.duplicate", re.compile(r"is there twice|is also in")),
    ("structure.alignment", re.compile(r"^general\.alignment ")),
    ("structure.layout", re.compile(r"has offset \d+, it must be")),
    ("structure.extent", re.compile(r"^the data of tensor ")),
    ("structure.split", re.compile(r"split\.|differs from the one in|is one of .* files|calls itself file")),
)
_MOST_PADDING_BYTES = 65536


def read_headers(path: Path, findings: Findings) -> tuple[Header, ...]:
    """Read all headers of the model that `path` belongs to; none when it is malformed, which is then a finding.

    Raises `OpenError` when a file of it cannot be opened, `ModelError` when the finding's check was not chosen.
    """
    try:
        return read_shards(path)
    except ModelError as error:
        _add_refusal(path, error, findings)
        return ()


def _add_refusal(path: Path, error: ModelError, findings: Findings) -> None:
    match = _POSITION.fullmatch(error.message)
    if match:
        place, rule = Place(Path(match["path"]), int(match["byte"])), match["rule"]
    else:
        place, rule = Place(path), error.message.removeprefix(f"{path}: ")
    check = next((check for check, words in _RULES if words.search(rule)), "structure.header")
    if not findings.wants(check):
        raise error  # a file that cannot be read is never clean, whatever was asked
    findings.add(check, rule, place)


def check_structure(headers: tuple[Header, ...], findings: Findings) -> None:
    """Look at what a loader never reads: the bytes after the last tensor and the padding between tensors."""
    for header in headers:
        for warning in header.warnings:
            findings.add("structure.trailing", warning.removeprefix(f"{header.path}: "), _end(header))
        if findings.wants("structure.padding"):
            _check_padding(header, findings)


def _end(header: Header) -> Place:
    last = header.tensors[-1] if header.tensors else None
    return Place(header.path, header.data_offset + (last.offset + last.n_bytes if last else 0))


def _check_padding(header: Header, findings: Findings) -> None:
    """Read the few bytes between the end of each tensor and the next aligned offset; one finding per file."""
    file, _ = open_regular(header.path)
    dirty: list[tuple[int, str]] = []
    with file:
        for tensor in header.tensors:
            end = header.data_offset + tensor.offset + tensor.n_bytes
            n_bytes = min(-end % header.alignment, header.file_size - end, _MOST_PADDING_BYTES)
            if n_bytes > 0:
                file.seek(end)
                if any(file.read(n_bytes)):
                    dirty.append((end, tensor.name))
    if dirty:
        offset, name = dirty[0]
        message = f"the padding after {name} is not zero" + (
            f", nor in {len(dirty) - 1} more places" * (len(dirty) > 1)
        )
        findings.add("structure.padding", message, Place(header.path, offset), count=len(dirty))
