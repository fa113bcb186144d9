"""NVRTC without a GPU, the resource log, and a cache that survives whatever happens to its files."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import pytest

from mmvq_cli.engine.cuda import build
from mmvq_cli.engine.cuda.build import Resources, build_cubin, cached_compile, compile_source, final_source
from mmvq_cli.engine.cuda.source import Source
from mmvq_cli.engine.discovery import kernel_cache_dir
from mmvq_cli.errors import BuildError, EnvironmentInvalid, ExitCode
from mmvq_cli.op.problem import Problem

nvrtc = pytest.importorskip("cupy_backends.cuda.libs.nvrtc", reason="CuPy's NVRTC binding is not installed")

SCALE = '#line 1 "kernels/scale.cu"\nextern "C" __global__ void scale(float* p) { p[threadIdx.x] *= 2; }\n'


def source_of(text: str) -> Source:
    return Source(text, hashlib.sha256(text.encode()).hexdigest())


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return kernel_cache_dir()


@pytest.fixture
def kernels(tmp_path, monkeypatch):
    """A folder of sources of our own in place of kernels/."""
    folder = tmp_path / "kernels"
    folder.mkdir()
    monkeypatch.setattr("mmvq_cli.engine.cuda.source.resource_root", lambda name: folder)
    return folder


@pytest.fixture
def compilations(monkeypatch):
    """Names of the files that reached the compiler."""
    names = []

    def count(source, name, architecture):
        names.append(name)
        return compile_source(source, name, architecture)

    monkeypatch.setattr(build, "compile_source", count)
    return names


def test_a_source_becomes_a_cubin_with_its_resources():
    cubin = compile_source(source_of(SCALE), "scale.cu", "sm_90")
    assert cubin.image[:4] == b"\x7fELF"
    assert cubin.cubin_sha256 == hashlib.sha256(cubin.image).hexdigest()
    assert 0 < cubin.resources_of("scale").registers < 255
    assert cubin.resources_of("scale").spill_bytes == 0


def test_figures_that_the_compilers_own_cache_leaves_out_are_asked_for_again(monkeypatch):
    real, logs = build._log, []

    def first_one_empty(nvrtc, program):
        logs.append(real(nvrtc, program))
        return logs[-1] if len(logs) > 1 else ""

    monkeypatch.setattr(build, "_log", first_one_empty)
    assert compile_source(source_of(SCALE), "scale.cu", "sm_90").resources_of("scale").registers > 0


def test_the_cubin_depends_on_neither_the_folder_nor_the_time(tmp_path, monkeypatch):
    here = compile_source(source_of(SCALE), "scale.cu", "sm_90")
    monkeypatch.chdir(tmp_path)
    assert compile_source(source_of(SCALE), "scale.cu", "sm_90").image == here.image


def test_subnormals_survive_and_nothing_is_contracted():
    text = 'extern "C" __global__ void muladd(float* p) { p[0] = p[1] * p[2] + p[3]; }'
    program = nvrtc.createProgram(text, "muladd.cu", (), ())
    nvrtc.compileProgram(program, ("--gpu-architecture=compute_90", *build.OPTIONS[:-1]))
    ptx = nvrtc.getPTX(program)
    ptx = ptx.decode() if isinstance(ptx, bytes) else ptx
    assert "mul.rn.f32" in ptx
    assert "add.rn.f32" in ptx
    assert ".ftz" not in ptx
    assert "fma" not in ptx


def test_a_source_that_does_not_compile_names_its_line_and_keeps_the_log():
    with pytest.raises(BuildError) as caught:
        compile_source(source_of(SCALE.replace("*= 2", "*= two")), "scale.cu", "sm_90")
    assert caught.value.message.startswith("kernels/scale.cu does not compile for sm_90: kernels/scale.cu(1): error")
    assert "two" in caught.value.log
    assert caught.value.exit_code is ExitCode.ENVIRONMENT


def test_an_architecture_that_nvrtc_does_not_know_is_a_build_error():
    with pytest.raises(BuildError, match="sm_31"):
        compile_source(source_of(SCALE), "scale.cu", "sm_31")


def test_a_missing_nvrtc_names_the_way_out(monkeypatch):
    def absent():
        raise RuntimeError("libnvrtc.so not found")

    monkeypatch.setattr(nvrtc, "getVersion", absent)
    with pytest.raises(EnvironmentInvalid, match="libnvrtc") as caught:
        build.nvrtc_version()
    assert "pip install" in caught.value.hint


def test_the_second_build_comes_from_the_cache(compilations, cache):
    first = cached_compile(source_of(SCALE), "scale.cu", "sm_90")
    assert cached_compile(source_of(SCALE), "scale.cu", "sm_90") == first
    assert compilations == ["scale.cu"]
    assert [path.suffix for path in cache.iterdir()] == [".cubin"]


def test_another_text_or_architecture_is_another_entry(compilations, cache):
    cached_compile(source_of(SCALE), "scale.cu", "sm_90")
    cached_compile(source_of(SCALE), "scale.cu", "sm_80")
    cached_compile(source_of(SCALE.replace("2", "3")), "scale.cu", "sm_90")
    assert len(compilations) == len(list(cache.iterdir())) == 3


def test_another_compiler_or_other_options_are_another_entry(compilations, monkeypatch):
    cached_compile(source_of(SCALE), "scale.cu", "sm_90")
    monkeypatch.setattr(build, "nvrtc_version", lambda: "99.1")
    cached_compile(source_of(SCALE), "scale.cu", "sm_90")
    monkeypatch.setattr(build, "OPTIONS", (*build.OPTIONS, "--maxrregcount=32"))
    cached_compile(source_of(SCALE), "scale.cu", "sm_90")
    assert len(compilations) == 3


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: data[: len(data) // 2],
        lambda data: data[:-1] + bytes([data[-1] ^ 1]),
        lambda data: b"{}\n" + data.partition(b"\n")[2],
        lambda data: b"[1, 2]\n",
        lambda data: b"\xff\xfe no JSON\n",
    ],
    ids=["empty", "half", "one bit", "no fields", "a list", "no text"],
)
def test_a_damaged_entry_is_built_again(damage, compilations, cache):
    first = cached_compile(source_of(SCALE), "scale.cu", "sm_90")
    (entry,) = cache.iterdir()
    entry.write_bytes(damage(entry.read_bytes()))
    assert cached_compile(source_of(SCALE), "scale.cu", "sm_90") == first
    assert cached_compile(source_of(SCALE), "scale.cu", "sm_90") == first
    assert len(compilations) == 2


def test_a_cache_that_cannot_be_written_costs_only_time(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert cached_compile(source_of(SCALE), "scale.cu", "sm_90").image


def test_defines_and_the_family_reach_the_source(kernels):
    (kernels / "family.cu").write_text('#include "MMVQ_FAMILY.cuh"\nstatic_assert(MMVQ_FORMAT == 12, "");\n')
    (kernels / "k_quants.cuh").write_text("constexpr int FOUND = 1;\n")
    text = final_source("family.cu", {"MMVQ_FORMAT": 12}).text
    assert "FOUND" in text
    assert "static_assert(sizeof(Problem)" not in text


def write_problem(folder, reorder=False) -> None:
    fields = [
        f"{'unsigned long long' if Problem.__dict__[name].size == 8 else 'int'} {name};" for name, _ in Problem._fields_
    ]
    if reorder:
        fields[-1], fields[-2] = fields[-2], fields[-1]
    shutil.copytree(Path(__file__).parents[3] / "kernels" / "ptx", folder / "ptx")
    (folder / "problem.cuh").write_text('#include "ptx/language.cuh"\nstruct Problem { ' + " ".join(fields) + " };\n")
    (folder / "user.cu").write_text(
        '#include "problem.cuh"\nextern "C" __global__ void use(Problem p, int* out) { *out = p.n_cols; }\n'
    )


def test_the_compiler_sees_that_the_two_layouts_agree(kernels):
    write_problem(kernels)
    assert build_cubin("user.cu", {}, "sm_90").resources_of("use")


def test_the_compiler_refuses_a_layout_that_drifted(kernels):
    write_problem(kernels, reorder=True)
    with pytest.raises(BuildError, match=r"op/problem.py\(\d+\): error: static assertion failed with .*differs"):
        build_cubin("user.cu", {}, "sm_90")


def test_the_log_of_either_compiler_generation_gives_the_same_rows():
    newer = """
ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function 'second' for 'sm_90'
ptxas info    : Function properties for second
ptxas         .     272 bytes stack frame, 8 bytes spill stores, 12 bytes spill loads
ptxas info    : Used 72 registers, used 1 barriers, 272 bytes cumulative stack size, 512 bytes smem
ptxas info    : Compile time = 12.731 ms
ptxas info    : Compiling entry function 'first' for 'sm_90'
ptxas info    : Function properties for first
ptxas         .     0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 10 registers, used 0 barriers
"""
    used = "Used 72 registers, used 1 barriers, 272 bytes cumulative stack size, 512 bytes smem"
    older = newer.replace("ptxas         . ", "").replace(used, "Used 72 registers, 512 bytes smem, 360 bytes cmem[0]")
    expected = (Resources("second", 72, 512, 272, 20), Resources("first", 10, 0, 0, 0))
    assert build.parse_resources(newer) == expected
    assert build.parse_resources(older) == expected


def test_spills_of_a_function_that_was_not_inlined_count():
    log = """
ptxas info    : Compiling entry function 'outer' for 'sm_90'
ptxas info    : Function properties for outer
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Function properties for _Z5inneri
    16 bytes stack frame, 4 bytes spill stores, 4 bytes spill loads
ptxas info    : Used 30 registers
"""
    assert build.parse_resources(log) == (Resources("outer", 30, 0, 16, 8),)
