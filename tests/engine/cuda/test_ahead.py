"""Kernels of a run are built before it, each once, and what fails is left to its case."""

import pytest

from mmvq_cli.engine.cuda import ahead
from mmvq_cli.engine.cuda.ahead import build_ahead
from mmvq_cli.errors import BuildError, EnvironmentInvalid
from mmvq_cli.op import FORMATS, Plan
from tests.op.problems import H200, problem

PLANS = [Plan.select(problem(format=FORMATS[name]), H200) for name in ("Q4_K", "Q8_0", "Q4_K")]


@pytest.fixture
def builds(monkeypatch, tmp_path):
    """Names of the files that are built; `cached` is what counts as built, `failing` what does not compile."""

    class Builds(list):
        cached, failing = set(), set()

    made = Builds()

    def build(file, defines, architecture):
        made.append((file, defines.get("MMVQ_FORMAT"), architecture))
        if file in made.failing:
            raise BuildError("does not compile", "mend it")

    monkeypatch.setattr(ahead, "build_cubin", build)
    monkeypatch.setattr(ahead, "is_built", lambda file, defines, architecture: file in made.cached)
    monkeypatch.setattr(ahead, "kernel_cache_dir", lambda: tmp_path / "kernels")
    return made


def test_each_kernel_is_built_once(builds):
    told = []
    build_ahead(PLANS, lambda *counts: told.append(counts))
    q4, q8 = FORMATS["Q4_K"].id, FORMATS["Q8_0"].id
    assert len(set(builds)) == len(builds)
    assert {("oracle.cu", q4, "sm_90"), ("oracle.cu", q8, "sm_90"), ("canary.cu", None, "sm_90")} < set(builds)
    assert {("stream.cu", q4, "sm_90"), ("stream.cu", q8, "sm_90"), ("combine.cu", None, "sm_90")} < set(builds)
    assert told == [(done, len(builds)) for done in range(len(builds) + 1)]


def test_what_the_cache_has_is_not_built(builds):
    builds.cached = {"oracle.cu", "canary.cu", "fill.cu", "validate.cu", "combine.cu"}
    build_ahead(PLANS)
    assert {file for file, *_ in builds} == {"stream.cu"}
    builds.clear()
    builds.cached |= {"stream.cu"}
    told = []
    build_ahead(PLANS, lambda *counts: told.append(counts))
    assert builds == told == []


def test_a_kernel_that_does_not_compile_stops_no_other(builds):
    builds.failing = {"oracle.cu"}
    build_ahead(PLANS)
    assert {file for file, *_ in builds} >= {"oracle.cu", "stream.cu", "combine.cu", "canary.cu"}


def test_nothing_is_built_that_could_not_be_kept(builds, monkeypatch):
    monkeypatch.setattr(ahead.os, "access", lambda *_: False)
    build_ahead(PLANS)
    assert builds == []


def test_without_a_compiler_loading_complains(builds, monkeypatch):
    def no_compiler(*_):
        raise EnvironmentInvalid("no NVRTC", "install it")

    monkeypatch.setattr(ahead, "is_built", no_compiler)
    build_ahead(PLANS)
    assert builds == []


def test_what_was_built_is_found(monkeypatch, tmp_path):
    pytest.importorskip("cupy_backends.cuda.libs.nvrtc", reason="CuPy's NVRTC binding is not installed")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(ahead, "_jobs", lambda plans: [("canary.cu", {}, "sm_90"), ("fill.cu", {}, "sm_90")])
    told = []
    build_ahead([], lambda *counts: told.append(counts))
    assert told == [(0, 2), (1, 2), (2, 2)]
    build_ahead([], lambda *counts: told.append(counts))
    assert len(told) == 3
