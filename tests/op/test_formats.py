"""The table of formats against gguf, and the reasons of those that are not in it."""

import numpy as np
import pytest
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf.quants import _type_traits

from mmvq_cli.errors import Unsupported
from mmvq_cli.op import FORMATS, find_format
from mmvq_cli.op.formats import known_types, type_name, unsupported_reason

SCALE_BYTES = {"f16": 2, "f32": 4, "e8m0": 1, "ue4m3": 1, "iq1m": 8}
NO_REASON = unsupported_reason("no such type")


def test_all_formats_of_the_contract_are_there():
    contract = (
        "Q4_0 Q4_1 Q5_0 Q5_1 Q8_0 Q2_K Q3_K Q4_K Q5_K Q6_K Q8_K MXFP4 NVFP4 IQ4_NL IQ4_XS IQ3_S IQ3_XXS "
        "IQ2_S IQ2_XS IQ2_XXS IQ1_S IQ1_M TQ1_0 TQ2_0 F32 F16 BF16"
    )
    assert set(FORMATS) == set(contract.split())


@pytest.mark.parametrize("kind", list(GGMLQuantizationType), ids=lambda kind: kind.name)
def test_every_type_of_gguf_has_a_row_or_a_reason(kind):
    if kind.name in FORMATS:
        row = FORMATS[kind.name]
        assert (row.block_size, row.type_size) == GGML_QUANT_SIZES[kind]
        assert row.id == int(kind)
    else:
        assert unsupported_reason(kind.name) != NO_REASON


@pytest.mark.parametrize("kind", list(_type_traits), ids=lambda kind: kind.name)
def test_what_gguf_can_dequantize_has_a_kernel(kind):
    assert kind.name in FORMATS


@pytest.mark.parametrize("row", FORMATS.values(), ids=str)
def test_scale_fields_lie_inside_the_block_and_do_not_overlap(row):
    used = [byte for kind, offset in row.scales for byte in range(offset, offset + SCALE_BYTES[kind])]
    assert len(set(used)) == len(used)
    assert all(0 <= byte < row.type_size for byte in used)
    assert bool(row.scales) is not row.is_float


@pytest.mark.parametrize("row", [row for row in FORMATS.values() if row.scales and row.name != "Q8_K"], ids=str)
def test_scale_fields_are_what_scales_the_weights(row):
    """Only scales set to 0 (NVFP4, MXFP4: to the smallest power of two) and random codes: the weights vanish."""
    from gguf.quants import dequantize

    blocks = np.random.default_rng(0).integers(0, 256, (8, row.type_size), dtype=np.uint8)
    for kind, offset in row.scales:
        if kind == "iq1m":
            blocks[:, offset + 1 : offset + 8 : 2] &= 0x0F
        else:
            blocks[:, offset : offset + SCALE_BYTES[kind]] = 0
    assert np.abs(dequantize(blocks, row.type)).max() < 1e-30


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("Q8_1", "activation format"),
        ("Q1_0", "no dequantizer"),
        ("Q2_0", "no dequantizer"),
        (42, "Q2_0 has no kernel"),
        ("I32", "integer type"),
        ("IQ4_K", "private ids of other engines"),
        (137, "type 137 has no kernel"),
    ],
)
def test_rejected_by_name_with_the_reason(name, words):
    with pytest.raises(Unsupported, match=words) as caught:
        find_format(name)
    assert "mmvq list formats" in caught.value.hint


def test_names_ignore_case_and_numbers_are_those_of_files():
    assert find_format("q4_k") is find_format(12) is FORMATS["Q4_K"]
    assert type_name(14) == "Q6_K"
    assert (42, "Q2_0") in known_types()


def test_row_bytes_and_bits():
    assert FORMATS["Q4_K"].row_bytes(2880 // 256 * 256) == 11 * 144
    assert FORMATS["Q4_0"].row_bytes(96) == 54
    assert FORMATS["Q4_K"].bits_per_weight == 4.5
    assert str(FORMATS["BF16"]) == "BF16"
