"""The host's bits are the committed ones: see bits.py; tests/gpu/test_host_bits.py compares a GPU's."""

from __future__ import annotations

import pytest

from tests.host_target.bits import Host, all_cases, committed
from tests.host_target.driver import find_compiler

pytestmark = pytest.mark.skipif(bool(find_compiler().missing), reason=find_compiler().missing)

CASES = {case.name: case for case in all_cases()}
HINT = "python -m tests.host_target.bits writes the file; a GPU must agree with it then"


def test_the_file_has_every_case():
    assert list(committed()) == list(CASES), HINT


@pytest.mark.parametrize("name", CASES)
def test_the_bits_are_the_committed_ones(name):
    row = committed()[name]
    assert CASES[name].digest_of_inputs() == row["inputs"], f"other inputs: {HINT}"
    assert CASES[name].digest(Host()) == row["results"], HINT
