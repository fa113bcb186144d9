"""The kernel that reads scales, on the host: its numbers are the CPU's to the last bit, and so are the findings."""

from __future__ import annotations

import ctypes
import re
from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest

from mmvq_cli.engine import cuda
from mmvq_cli.engine.cuda import scan
from mmvq_cli.op import FORMATS
from mmvq_cli.op.ggml import GGML
from mmvq_cli.resources import resource_root
from mmvq_cli.validate import Request, validate
from mmvq_cli.validate.facts import cuda_gather, facts_of
from tests.host_target.driver import Array, HostLaunch, find_compiler, kernel_library, pointer_to, run_job
from tests.validate.conftest import make

pytestmark = pytest.mark.skipif(bool(find_compiler().missing), reason=find_compiler().missing)


class HostArray(np.ndarray):
    """A NumPy array that answers as CuPy's do."""

    def set(self, values):
        self[...] = values

    def get(self):
        return np.asarray(self).copy()


class HostCupy:
    """What `scan_scales` asks of CuPy."""

    int32, uint64 = np.int32, np.uint64

    @staticmethod
    def zeros(shape, dtype):
        return np.zeros(shape, dtype).view(HostArray)


def launch_on_host(grid, block, arguments):
    """One launch of `scan_scales`, in the host target."""
    packed, n_blocks, expert_blocks, field, extremes, powers = arguments
    arrays = [Array("blocks", np.asarray(packed), packed.nbytes)]
    arrays += [
        Array(name, np.asarray(result), result.nbytes, writes=True)
        for name, result in (("extremes", extremes), ("powers", powers))
    ]
    pointers = [ctypes.c_void_p(pointer_to(index)) for index in range(3)]
    values = (pointers[0], n_blocks, expert_blocks, field, *pointers[1:])
    launch = HostLaunch(kernel_library("scan.cu", {}), "scan_scales", min(grid[0], 3), block[0], values)
    for result, found in zip((extremes, powers), run_job(arrays, [launch], 5, 300), strict=True):
        result[...] = np.frombuffer(found, result.dtype).reshape(result.shape)


@pytest.fixture
def launches():
    """The grids that were launched."""
    return []


@pytest.fixture
def gather(monkeypatch, launches):
    """`cuda_gather`, with the host target in the GPU's place."""

    def launch(grid, block, arguments):
        launches.append(grid)
        launch_on_host(grid, block, arguments)

    no_context = {name: lambda *_: nullcontext() for name in ("on_device", "launch_errors", "_stream")}
    replaced = {
        "import_cupy": lambda: HostCupy,
        "load_kernel": lambda entry, source, defines, index: launch,
        "allocate": lambda n_bytes, index: np.empty(n_bytes, np.uint8).view(HostArray),
        "current_device": lambda index: SimpleNamespace(sm_count=1),
    }
    for name, value in (no_context | replaced).items():
        monkeypatch.setattr(scan, name, value)
    monkeypatch.setattr(cuda, "current_device", scan.current_device)
    return cuda_gather(0)


def test_python_and_the_kernel_state_the_same_struct():
    body = re.search(r"struct ScaleField \{(.*?)\};", (resource_root("kernels") / "scan.cu").read_text(), re.DOTALL)[1]
    types = {"int32_t": ctypes.c_int32, "uint32_t": ctypes.c_uint32}
    fields = [(name, types[kind]) for kind, name in re.findall(r"^ *(u?int32_t) (\w+);", body, re.MULTILINE)]
    assert fields == cuda.ScaleField._fields_


def same(one, other):
    assert (one.is_any == other.is_any).all()
    assert (one.has_odd_exponent == other.has_odd_exponent).all()
    for left, right in zip(one.fields, other.fields, strict=True):
        assert (left.largest == right.largest).all()
        assert (left.is_negative == right.is_negative).all()
        np.testing.assert_array_equal(left.powers, right.powers)


@pytest.mark.parametrize("name", FORMATS)
def test_the_kernel_gathers_what_the_cpu_gathers(gather, name):
    size = FORMATS[name].type_size
    blocks = np.random.default_rng(FORMATS[name].id).integers(0, 256, (3, 150, size), np.uint8)
    blocks[1] = 0
    blocks[2, 40:] &= 0x3F  # small and positive
    blocks[0, :7] = 0xFF  # NaN
    blocks[0, 7:9] = 0x80  # -0
    same(gather(blocks, FORMATS[name]), facts_of(blocks, FORMATS[name]))
    edges = np.array([0, 0, 0, 1, 0x3F, 0x40, 0x7F, 0x80, 0xA0, 0xA1, 0xFF], np.uint8)
    few = np.random.default_rng(1).choice(edges, (400, 1, size))  # one block an expert: each flag by itself
    few[::2, :, 1:] &= 0x80
    same(gather(few, FORMATS[name]), facts_of(few, FORMATS[name]))
    single = np.zeros((8, 1, size), np.uint8)
    single[:, 0, -1] = 1 << np.arange(8)  # one bit in all of an expert
    same(gather(single, FORMATS[name]), facts_of(single, FORMATS[name]))


@pytest.mark.parametrize("kind", [GGML.Q4_K, GGML.MXFP4])
def test_findings_are_identical(gather, launches, tmp_path, kind):
    model = make(kind)
    gate, up = (model.tensors[f"blk.0.ffn_{role}_exps.weight"] for role in ("gate", "up"))
    gate.expert(1)[...] = 0
    gate.expert(2)[...] = gate.expert(5)
    gate.expert(3)[77, :4] = 0xFF
    up.expert(4)[...] = np.random.default_rng(0).integers(0, 256, up.expert(4).shape, np.uint8)
    path = model.write(tmp_path / "x.gguf")
    here, there = (validate(Request(path, engine=engine)) for engine in ("cpu", "cuda"))
    assert (here.blocks_engine, there.blocks_engine) == ("cpu", "cuda")
    assert here.findings == there.findings
    assert len(launches) >= 3
    assert len(here.findings) >= 5
