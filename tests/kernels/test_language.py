"""What some NVRTC of those that pyproject.toml allows refuses, and the one of these tests may not."""

import re

import pytest

from mmvq_cli.resources import resource_root

KERNELS = resource_root("kernels")
_GENERIC_LAMBDA = re.compile(r"\[[^\[\]]*\]\s*\([^()]*\bauto\b")


def generic_lambdas(text):
    return _GENERIC_LAMBDA.findall(re.sub(r"//.*", "", text))


@pytest.mark.parametrize("path", sorted(path.relative_to(KERNELS).as_posix() for path in KERNELS.rglob("*.cu*")))
def test_no_lambda_is_generic(path):
    """To NVRTC 13.0 it is a host function."""
    assert generic_lambdas((KERNELS / path).read_text(encoding="utf-8")) == []


def test_a_generic_lambda_is_seen():
    assert generic_lambdas("const auto multiply = [&](auto& first) { };")
    assert not generic_lambdas("const auto add = [&](const float (&part)[4], float factor) { };  // [&](auto x)")
