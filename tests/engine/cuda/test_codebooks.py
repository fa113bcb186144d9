"""The generated tables, read back from the C text and compared with gguf's tables."""

from __future__ import annotations

import re

import numpy as np
import pytest
from gguf import quants

from mmvq_cli.engine.cuda.codebooks import codebook_source
from mmvq_cli.op.formats import FORMATS

GRIDS = [
    ("iq2", "iq2_xxs_grid", "IQ2_XXS"),
    ("iq2", "iq2_xs_grid", "IQ2_XS"),
    ("iq2", "iq2_s_grid", "IQ2_S"),
    ("iq3", "iq3_xxs_grid", "IQ3_XXS"),
    ("iq3", "iq3_s_grid", "IQ3_S"),
]


def words(family: str, name: str) -> tuple[str, list[int]]:
    """The type and the literals of one generated array."""
    match = re.search(rf"DEVICE_TABLE (\w+) {name}\[(\d+)\] = \{{(.*?)\}};", codebook_source(family), re.DOTALL)
    literals = [int(text, 16) for text in re.findall(r"0x[0-9a-f]+", match[3])]
    assert len(literals) == int(match[2])
    return match[1], literals


@pytest.mark.parametrize(("family", "name", "type_name"), GRIDS)
def test_magnitude_grids(family, name, type_name):
    traits = getattr(quants, type_name)
    traits.init_grid()
    width, literals = words(family, name)
    assert width == ("uint64_t" if traits.grid_shape[1] == 8 else "uint32_t")
    unpacked = [[(word >> 8 * i & 255) - 128 for i in range(traits.grid_shape[1])] for word in literals]
    assert np.array_equal(unpacked, traits.grid.reshape(traits.grid_shape))


def test_iq1_grid():
    quants.IQ1_S.init_grid()
    _, literals = words("iq1", "iq1_grid")
    unpacked = [[(word >> (8 * (i % 4) + 4 * (i // 4)) & 15) - 1 for i in range(8)] for word in literals]
    assert np.array_equal(unpacked, quants.IQ1_S.grid.reshape(2048, 8))


@pytest.mark.parametrize(("family", "type_name"), [("fp4", "MXFP4"), ("fp4", "NVFP4"), ("iq4", "IQ4_NL")])
def test_sixteen_values(family, type_name):
    literals = [int(text, 16) for text in re.findall(r"0x[0-9a-f]+", codebook_source(family))]
    values = [(word >> 8 * i & 255) - 128 for word in literals for i in range(4)]
    assert values == list(getattr(quants, type_name).kvalues)


@pytest.mark.parametrize(("name", "sign"), [("iq2_magnitudes", 1), ("iq2_negatives", -1)])
def test_distinct_magnitudes(name, sign):
    literal = re.search(rf"uint32_t {name}\(\) \{{ return (0x[0-9a-f]+)u; \}}", codebook_source("iq2"))[1]
    first, *rest = (byte - (byte > 127) * 256 for byte in int(literal, 16).to_bytes(4, "little"))
    assert [first, *rest] == [sign * 8, sign * 25, sign * 43, 0]  # ggml-common.h has no other bytes in these grids


def test_the_eighth_sign_is_the_parity_of_the_others():
    """`complete_signs` in kernels/formats/unpack.cuh computes what gguf tabulates."""
    assert [seven | (seven.bit_count() & 1) << 7 for seven in range(128)] == list(quants.IQ2_XXS.ksigns)


def test_other_families_have_no_tables():
    with_tables = {family for family in {f.family for f in FORMATS.values()} if codebook_source(family)}
    assert with_tables == {"fp4", "iq1", "iq2", "iq3", "iq4"}


def test_a_table_that_two_types_no_longer_share_is_noticed(monkeypatch):
    monkeypatch.setattr(quants.NVFP4, "kvalues", (1, *quants.NVFP4.kvalues[1:]))
    with pytest.raises(ValueError, match="no longer share"):
        codebook_source.__wrapped__("fp4")


def test_magnitudes_that_grids_no_longer_share_are_noticed(monkeypatch):
    quants.IQ2_S.init_grid()
    monkeypatch.setattr(quants.IQ2_S, "grid", quants.IQ2_S.grid + 1)
    monkeypatch.setattr(quants.IQ2_S, "init_grid", lambda: None)
    with pytest.raises(ValueError, match="no longer share"):
        codebook_source.__wrapped__("iq2")
