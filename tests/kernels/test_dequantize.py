"""The oracle's dequantize kernel compiles for every format, without a GPU, and spills nothing."""

from __future__ import annotations

import re

import pytest

from mmvq_cli.engine.cuda.source import format_defines, render
from mmvq_cli.op.formats import FORMATS, Format

nvrtc = pytest.importorskip("cupy_backends.cuda.libs.nvrtc", reason="CuPy is not installed")

OPTIONS = ("--gpu-architecture=sm_90", "-fmad=false", "--std=c++17", "--ptxas-options=-v")


def compile_text(text: str) -> str:
    """Compile to a cubin and return the log; raises NVRTCError."""
    try:
        program = nvrtc.createProgram(text, "dequantize.cu", (), ())
    except RuntimeError as error:
        pytest.skip(f"NVRTC cannot be loaded: {error}")
    try:
        nvrtc.compileProgram(program, OPTIONS)
        return nvrtc.getProgramLog(program)
    except nvrtc.NVRTCError:
        raise AssertionError(nvrtc.getProgramLog(program)) from None
    finally:
        nvrtc.destroyProgram(program)


@pytest.mark.parametrize("format", FORMATS.values(), ids=str)
def test_compiles_without_spills_or_warnings(format: Format):
    log = compile_text(render("dequantize.cu", format_defines(format)).text)
    assert re.search(r"0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads", log), log
    assert "warning" not in log, log


def test_errors_name_the_file_and_line_of_the_checkout():
    text = render("dequantize.cu", format_defines(FORMATS["Q4_K"])).text
    broken = text.replace("struct Format<12> {", "struct Format<12> { oops")
    with pytest.raises(AssertionError, match=r"kernels/formats/k_quants\.cuh\(\d+\): error"):
        compile_text(broken)


def test_a_wrong_block_size_does_not_compile():
    """The struct and gguf's table are two descriptions; a static_assert keeps them equal."""
    defines = format_defines(FORMATS["Q6_K"]) | {"MMVQ_TYPE_SIZE": 212}
    with pytest.raises(AssertionError, match="differ in bytes"):
        compile_text(render("dequantize.cu", defines).text)
