"""Tensor cores, copies that go on by themselves, and their barriers: right on the host, and compiled for GPUs."""

from __future__ import annotations

import ctypes
import re
from pathlib import Path

import numpy as np
import pytest

from mmvq_cli.engine.cuda.build import compile_source
from mmvq_cli.engine.cuda.source import Source, render
from mmvq_cli.engine.elements import narrow, widen
from mmvq_cli.op import Dtype
from tests.host_target.driver import Array, HostError, HostLaunch, find_compiler, library, pointer_to, run_job

on_host = pytest.mark.skipif(bool(find_compiler().missing), reason=find_compiler().missing)

PIPELINE = (Path(__file__).parent / "pipeline.cu").read_text(encoding="utf-8")
TILES, STAGE_BYTES = 7, 768
THREADS, SHARED_BYTES = 96, 2 * STAGE_BYTES
KERNELS = ("copy_by_bulk", "copy_by_lines")


def source(dtype=Dtype.F16, on_host=True):
    defines = {"MMVQ_HOST": 1} if on_host else {}
    head = render("ptx.cuh", defines | ({"PIPELINE_BFLOAT": 1} if dtype is Dtype.BF16 else {})).text
    return f'{head}#line 1 "kernels/pipeline.cu"\n' + PIPELINE.replace('#include "ptx.cuh"', "")


def run_pipeline(kernel, text, dtype=Dtype.F16, seed=0, preempt=0):
    """The product of the tiles and what NumPy says of it, f32 [tiles, 16, 8]."""
    rng = np.random.default_rng(seed)
    a, b = (narrow(rng.standard_normal((TILES, rows, 16), dtype=np.float32), dtype) for rows in (16, 8))
    out = np.zeros((TILES, 16, 8), np.float32)
    arrays = [Array("a", a, a.nbytes), Array("b", b, b.nbytes), Array("out", out, out.nbytes, writes=True)]
    arguments = (*(ctypes.c_void_p(pointer_to(index)) for index in range(3)), ctypes.c_int32(TILES))
    launch = HostLaunch(library(text, "pipeline"), kernel, 1, THREADS, arguments, SHARED_BYTES)
    found = np.frombuffer(run_job(arrays, [launch], seed, preempt)[0], np.float32).reshape(out.shape)
    if kernel == "copy_by_lines":
        b[:, -1, -3:] = 0  # what LAST_LINE leaves out
    return found, np.einsum("tik,tjk->tij", widen(a, dtype).astype(np.float64), widen(b, dtype))


@on_host
@pytest.mark.parametrize("dtype", [Dtype.F16, Dtype.BF16])
@pytest.mark.parametrize("kernel", KERNELS)
def test_products_of_tiles(kernel, dtype):
    for seed in range(6):
        found, expected = run_pipeline(kernel, source(dtype), dtype, seed, preempt=20 * seed)
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


# What is left out or changed, and what is said of it under at least one of the seeds.
DEFECTS = {
    "the copy is not waited for": ("copy_by_bulk", "barrier_wait(full + stage, round & 1);", "", "race"),
    "the stage is not waited for": (
        "copy_by_bulk",
        "barrier_wait(empty + stage, (round & 1) ^ 1);",
        "",
        "race|deadlock",
    ),
    "the wrong parity": ("copy_by_bulk", "(round & 1) ^ 1", "round & 1", "deadlock: .*\n.*barrier_wait"),
    "too few bytes expected": ("copy_by_bulk", "full + stage, A_BYTES + B_BYTES)", "full + stage, A_BYTES)", "race"),
    "too many bytes expected": ("copy_by_bulk", "full + stage, A_BYTES + B_BYTES)", "full + stage, 800)", "deadlock"),
    "the stage is not given back": ("copy_by_bulk", "barrier_arrive(empty + stage);", "", "deadlock|divergence"),
    "no barrier after the set-up": ("copy_by_bulk", "block_barrier();", "", "race|uninitialized"),
    "a stage too many": (
        "copy_by_bulk",
        "tile % STAGES, round",
        "tile % 3, round",
        "overflow|uninitialized|out of bounds",
    ),
    "a misaligned copy": ("copy_by_bulk", "copy_bulk(to + A_BYTES,", "copy_bulk(to + 8,", "misaligned copy"),
    "a copy past the end": (
        "copy_by_bulk",
        "b + tile * B_BYTES, B",
        "b + (tile + 1) * B_BYTES, B",
        "heap-buffer-overflow",
    ),
    "a named barrier for too many": ("copy_by_bulk", "named_barrier(1, 64)", "named_barrier(1, 96)", "deadlock"),
    "lines are not waited for": ("copy_by_lines", "barrier_wait(full + stage, round & 1);", "", "race"),
    "an arrival that is not behind the lines": (
        "copy_by_lines",
        "barrier_arrive_behind_copies(full",
        "barrier_arrive(full",
        "race",
    ),
    "lines behind the arrival": (
        "copy_by_lines",
        "copy_line(to, a",
        "barrier_arrive_behind_copies(full + stage), copy_line(to, a",
        "race|more than 32 arrivals",
    ),
    "what a lane stores itself is not behind its arrival": (
        "copy_by_lines",
        "barrier_arrive_behind_copies(full + stage);",
        "to[0] = 0, barrier_arrive_behind_copies(full + stage);",
        "race",
    ),
    "lines of a stage in use": ("copy_by_lines", "barrier_wait(empty + stage, (round & 1) ^ 1);", "", "race|deadlock"),
    "a misaligned line": ("copy_by_lines", "copy_line(to + A_BYTES,", "copy_line(to + 8,", "% 16 == 0"),
}


@on_host
@pytest.mark.parametrize("name", DEFECTS)
def test_a_defect_is_reported(name):
    kernel, old, new, message = DEFECTS[name]
    text = source()
    at = text.rindex("kernels/pipeline.cu")
    assert old in text[at:]
    text = text[:at] + text[at:].replace(old, new)
    reports = []
    for seed in range(10):
        try:
            run_pipeline(kernel, text, seed=seed)
        except HostError as error:
            reports.append(str(error))
    assert reports
    assert all(re.search(message, report) for report in reports), reports


@pytest.mark.parametrize("dtype", [Dtype.F16, Dtype.BF16])
def test_compiles(dtype):
    pytest.importorskip("cupy_backends.cuda.libs.nvrtc", reason="CuPy's NVRTC binding is not installed")
    cubin = compile_source(Source(source(dtype, on_host=False), ""), "pipeline.cu", "sm_90")
    assert sorted(row.entry for row in cubin.resources if row.spill_bytes == 0) == sorted(KERNELS)
    assert "warning" not in cubin.log
