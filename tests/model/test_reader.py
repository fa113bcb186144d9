"""The cursor under the header reader: windows, limits, files that change."""

from __future__ import annotations

import pytest

from mmvq_cli.errors import ModelError, OpenError
from mmvq_cli.model.reader import HEADER_LIMIT_BYTES, Cursor, open_regular


def cursor_on(path, size=None):
    file, seen = open_regular(path)
    return Cursor(file, path, seen if size is None else size)


def test_reads_and_skips_across_windows(tmp_path, kit):
    strings = [b"x" * n for n in (0, 1, 300_000, 7, 262_130, 5)]
    path = tmp_path / "x"
    path.write_bytes(b"".join(map(kit.string, strings)) + b"tail" + bytes(range(8)))
    cursor = cursor_on(path)
    cursor.skip_strings(len(strings), "strings")
    assert cursor.read(4, "tail") == b"tail"
    assert cursor.numbers(2, "H", "numbers") == (0x0100, 0x0302)
    assert cursor.u32("a number") == 0x07060504
    with pytest.raises(ModelError, match=rf"byte {cursor.offset}: more needs 1 bytes, but only 0 are left"):
        cursor.read(1, "more")


def test_header_limit(tmp_path):
    path = tmp_path / "sparse"
    with path.open("wb") as file:
        file.truncate(HEADER_LIMIT_BYTES * 16)
    cursor = cursor_on(path)
    cursor.skip(HEADER_LIMIT_BYTES, "all that is allowed")
    with pytest.raises(ModelError, match="the longest header that is read"):
        cursor.skip(1, "one more")
    with pytest.raises(ModelError, match="the longest header that is read"):
        cursor_on(path).skip_strings(HEADER_LIMIT_BYTES // 8 + 1, "empty strings")


def test_file_that_shrinks(tmp_path):
    path = tmp_path / "x"
    path.write_bytes(bytes(100))
    with pytest.raises(OpenError, match="now ends at byte 100: it shrank"):
        cursor_on(path, size=200).read(150, "data")
