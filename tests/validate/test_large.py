"""Files larger than any buffer here: a split model with holes, in bounded memory."""

from __future__ import annotations

import sys

import pytest

from mmvq_cli.validate import Request, validate
from scripts.validate_large import anonymous_bytes, peak_of_anonymous_memory, write_model


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_blocks_are_read_in_bounded_memory(tmp_path):
    first = write_model(tmp_path, 390_000_000, 2)
    validate(Request(first, ("structure", "moe")))  # imports
    before = anonymous_bytes()
    with peak_of_anonymous_memory() as peak:
        report = validate(Request(first))
    assert report.checked_bytes > 700_000_000
    assert 0 < peak[0] - before < 64 * 2**20
