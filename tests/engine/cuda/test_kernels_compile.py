"""Every kind of source that a plan asks for on sm_90 compiles without spills; one test a format, so that they spread.

Dtypes take turns, as they load activations in another way and no more: f16 with every format, f32 and bf16 with every
second; of the oracle f32, and of crowds f16, with every second width. Of the other architectures, some
formats that have between them every kind of product and of copies. `make compile-all` leaves out nothing.
"""

from __future__ import annotations

from itertools import product

import pytest

from mmvq_cli.engine.cuda.variants import all_variants, common_variants, compile_variant, format_variants
from mmvq_cli.errors import UsageError
from mmvq_cli.op import FORMATS, Dtype
from scripts.compile_kernels import DEFAULT_ARCHITECTURES

pytest.importorskip("cupy_backends.cuda.libs.nvrtc", reason="CuPy's NVRTC binding is not installed")

ARCHITECTURE = "sm_90"


@pytest.fixture(autouse=True)
def _cache_in_the_checkout(monkeypatch, pytestconfig):
    """Kernels that did not change are not compiled again; git ignores build/."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(pytestconfig.rootpath / "build" / "test-cache"))


def check(variants, architecture=ARCHITECTURE):
    compiled = [compile_variant(variant, architecture) for variant in variants]
    assert all(row.kernels and row.cubin_bytes for row in compiled)
    assert [(row.name, row.spill_bytes) for row in compiled if row.spills_too_much] == []
    assert [row.name for row in compiled if row.waits_for_products] == []


@pytest.mark.parametrize("name", FORMATS)
def test_every_source_of_a_format(name):
    oracles = {f"{name} f32"}
    turn = list(FORMATS).index(name) % 2
    left_out = ("f32", "bf16")[turn]
    variants = format_variants(FORMATS[name], ARCHITECTURE)
    chosen = [
        v for v in variants if (v.label in oracles if v.source == "oracle.cu" else left_out not in v.label.split())
    ]
    crowds = [v for v in chosen if v.source == "wide.cu" and "f16" in v.label.split()]
    check([v for v in chosen if v.source != "wide.cu"] + (crowds[turn::2] or crowds))


@pytest.mark.parametrize(
    ("name", "architecture"),
    [
        *(("Q4_K", architecture) for architecture in DEFAULT_ARCHITECTURES if architecture != ARCHITECTURE),
        ("F16", "sm_80"),
        ("IQ2_XXS", "sm_120"),
    ],
)
def test_other_architectures(name, architecture):
    variants = format_variants(FORMATS[name], architecture)
    check([variant for variant in variants if " f16" in variant.label], architecture)


def test_the_sources_of_no_format():
    check(common_variants())


def test_the_list_reaches_each_format_with_each_dtype():
    names = {variant.name for variant in all_variants(ARCHITECTURE)}
    by_dtype = product(("grouped.cu", "oracle.cu"), FORMATS, Dtype)
    expected = {f"{source} {format} {dtype}" for source, format, dtype in by_dtype}
    assert expected | {f"dequantize.cu {name}" for name in FORMATS} <= names
    assert {"combine.cu f32", "combine.cu f16", "combine.cu bf16", "fill.cu", "validate.cu", "canary.cu"} <= names


def test_no_variant_is_listed_twice():
    variants = all_variants(ARCHITECTURE)
    assert len(set(variants)) == len(variants) == len({variant.name for variant in variants})


@pytest.mark.parametrize("spelling", ["90", "sm90", "sm_9", "sm_90a", ""])
def test_an_architecture_must_be_spelled_right(spelling):
    with pytest.raises(UsageError, match="no architecture"):
        all_variants(spelling)
