"""Compiles kernel sources for the host and runs whole plans on NumPy arrays, under the sanitizers.

The sources are what NVRTC gets, with MMVQ_HOST defined. The runner (`main.cpp` and the other parts) is compiled once, a
library per source text; both are found again by the sha256 of everything that goes into them.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from mmvq_cli.engine.cuda.build import final_source
from mmvq_cli.engine.cuda.launch import launch_values
from mmvq_cli.op import Args, Plan
from mmvq_cli.op.args import bind
from mmvq_cli.op.boxes import Boxes
from mmvq_cli.op.device import CPU
from mmvq_cli.op.problem import Problem, bind_problem

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
PARTS = ("main.cpp", "threads.cpp", "memory.cpp")
BUILD = ROOT / "build" / "host-target"
TIMEOUT_S = 120
KEEP_VARIABLE = "MMVQ_KEEP_JOB"  # names a file that keeps the last job, for a debugger
SANITIZE = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all")
# No contraction, as for the device. Every access is a call, which memory.cpp answers; shared memory has red zones too.
KERNEL_FLAGS = (
    "-std=c++17", "-Og", "-g1", "-fPIC", "-shared", "-ffp-contract=off", "-fno-strict-aliasing",
    "-fno-omit-frame-pointer", "-Wno-unknown-pragmas",
    *SANITIZE, "-fsanitize-sections=mmvq_shared", "--param", "asan-instrumentation-with-call-threshold=0",
)  # fmt: skip
HEADERS = "".join(
    f"#include <{name}>\n" for name in ("algorithm", "cassert", "cmath", "cstddef", "cstdint", "cstring", "utility")
)
_ENTRY = re.compile(r"^KERNEL(?:_BOUNDED\(.*\))?\s+(\w+)\(", re.M)
_POINTERS = [field.offset for name, _ in Problem._fields_ if (field := getattr(Problem, name)).size == 8]
_PROBE = "int main() { return 0; }"


class HostError(AssertionError):
    """What the host target, a sanitizer or an assertion of a kernel reports; the text names kernel, block, thread."""


class CompileError(HostError):
    """A kernel source that the compiler refuses; the text is the compiler's."""


@dataclass(frozen=True, slots=True)
class Array:
    """A kernel argument that is memory: an input (`writes` False), an output with its old bytes, or scratch (no bytes).

    `phase` bytes after a multiple of 16.
    """

    name: str
    data: np.ndarray | None
    n_bytes: int
    writes: bool = False
    phase: int = 0

    @property
    def kind(self) -> int:
        return 2 if self.data is None else int(self.writes)


@dataclass(frozen=True, slots=True)
class HostLaunch:
    """One launch: a compiled source, an entry of it, and ctypes values; a pointer is `pointer_to(index of array)`."""

    library: Path
    entry: str
    n_blocks: int
    n_threads: int
    arguments: tuple[Any, ...]
    dynamic_bytes: int = 0


def pointer_to(index: int, offset: int = 0) -> int:
    """The number that stands for the address of an array of the job."""
    return (index + 1) << 40 | offset


@dataclass(frozen=True, slots=True)
class Compiler:
    """A compiler that can build for the host target, or the reason why there is none."""

    path: str
    version: str
    missing: str = ""


class HostTensorMap(ctypes.Structure):
    """`TensorMap` of kernels/ptx/copies.cuh on the host."""

    _fields_ = (
        ("address", ctypes.c_uint64),
        *((field, ctypes.c_uint64) for field in ("width", "height", "box_width", "box_height")),
        ("rest", ctypes.c_uint64 * 11),
    )

    @classmethod
    def of(cls, boxes: Boxes | None, address: int) -> HostTensorMap:
        return cls(address, **asdict(boxes)) if boxes else cls(address)


@cache
def find_compiler() -> Compiler:
    """CXX or g++, tried once with every flag that is needed."""
    path = os.environ.get("CXX") or shutil.which("g++")
    if not path:
        return Compiler("", "", "there is no g++, which the host target compiles kernels with")
    with tempfile.TemporaryDirectory() as folder:
        program = str(Path(folder) / "probe")
        flags = [flag for flag in KERNEL_FLAGS if flag != "-shared"]
        built = _compile(path, [*flags, "-x", "c++", "-", "-o", program], _PROBE)
        if built.returncode or subprocess.run([program], capture_output=True).returncode:
            first = (built.stderr.strip().splitlines() or ["the program that it makes does not run"])[0]
            return Compiler("", "", f"{path} has no sanitizers for the host target: {first}")
    version = subprocess.run([path, "--version"], capture_output=True, text=True).stdout.splitlines()[0]
    return Compiler(path, version)


def _compile(
    compiler: str, flags: Sequence[str], text: str = "", folder: Path = ROOT
) -> subprocess.CompletedProcess[str]:
    """From the root of the checkout, so that debuggers find kernels/*.cu by the names in the text."""
    return subprocess.run([compiler, *flags], input=text, capture_output=True, text=True, cwd=folder)


@contextmanager
def _cached(name: str, *key: Any, suffix: str = "") -> Iterator[tuple[Path, Path | None]]:
    """The file that an earlier run made from the same key, and None; or a place to make it in."""
    digest = hashlib.sha256(repr((find_compiler(), str(ROOT), *key)).encode()).hexdigest()
    path = BUILD / f"{name}-{digest[:32]}{suffix}"
    if path.exists():
        yield path, None
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(
        dir=BUILD
    ) as folder:  # test processes share BUILD: a file appears when it is whole
        aside = Path(folder) / name
        yield path, aside
        aside.replace(path)


def _run_compiler(flags: Sequence[str], text: str = "", folder: Path = ROOT) -> None:
    done = _compile(find_compiler().path, flags, text, folder)
    if done.returncode:
        raise CompileError(done.stderr)


@cache
def runner() -> Path:
    """The compiled runner: linked with the sanitizers, some of whose functions it replaces, but not instrumented."""
    compiled = ("-std=c++17", "-O2", "-g", "-Wall", "-Wextra", "-Werror", "-c")
    texts = [(HERE / name).read_text(encoding="utf-8") for name in ("target.hpp", *PARTS)]
    with _cached("runner", compiled, texts) as (path, aside):
        if aside:
            whole = "".join(f'#include "{HERE / part}"\n' for part in PARTS)  # calls between the parts are inlined
            object = aside.with_suffix(".o")
            _run_compiler([*compiled, "-x", "c++", "-", "-o", str(object)], whole)
            _run_compiler([*SANITIZE, "-rdynamic", str(object), "-o", str(aside), "-ldl"])
    return path


def prelude(flags: tuple[str, ...]) -> Path:
    """The standard headers of `ptx/language.cuh`, compiled before it, as a header found by this name."""
    with _cached("prelude", flags, HEADERS, suffix=".gch") as (path, aside):
        if aside:
            header = path.with_suffix("")
            header.write_text(HEADERS, encoding="utf-8")
            _run_compiler([*flags, "-x", "c++-header", str(header), "-o", str(aside)])
    return path.with_suffix("")


def library(text: str, name: str) -> Path:
    """The compiled library of a kernel source with MMVQ_HOST defined; `name` is a part of its file name."""
    entries = [
        f'extern "C" void host_entry_{entry}(void** v) {{ host_call({entry}, v); }}' for entry in entries_of(text)
    ]
    epilogue = (HERE / "epilogue.cpp").read_text(encoding="utf-8")
    complete = "\n".join([text, epilogue, *entries, ""])
    # Lines are all that a report needs; a debugger wants variables too.
    flags = (*KERNEL_FLAGS, "-g") if os.environ.get(KEEP_VARIABLE) else KERNEL_FLAGS
    with _cached(name, flags, complete) as (path, aside):
        if aside:
            _run_compiler([*flags, "-include", str(prelude(flags)), "-x", "c++", "-", "-o", str(aside)], complete)
    return path


def entries_of(text: str) -> list[str]:
    """The kernels that a rendered source defines."""
    return _ENTRY.findall(text)


def kernel_library(source: str, defines: Mapping[str, int | str]) -> Path:
    """The compiled library of `kernels/<source>`."""
    return library(final_source(source, {**defines, "MMVQ_HOST": 1}).text, source.replace(".", "-"))


def run_job(
    arrays: Sequence[Array], launches: Sequence[HostLaunch], seed: int = 0, preempt_per_mille: int = 0
) -> list[bytes]:
    """Run launches in order; returns the bytes of the arrays that are no inputs. Raises `HostError`."""
    lines = [f"{seed} {preempt_per_mille} {TIMEOUT_S}", str(len(arrays))]
    lines += [f"{array.kind} {array.name} {array.phase} {array.n_bytes}" for array in arrays]
    lines.append(str(len(launches)))
    for launch in launches:
        lines.append(f"{launch.library} {launch.entry} {launch.n_blocks} {launch.n_threads} {launch.dynamic_bytes}")
        lines.append(str(len(launch.arguments)))
        lines += [_argument(value) for value in launch.arguments]
    data = b"".join(array.data.tobytes() for array in arrays if array.data is not None)
    job = "\n".join(lines).encode() + b"\n" + data
    if keep := os.environ.get(KEEP_VARIABLE):
        Path(keep).write_bytes(job)
        print(f"{runner()} < {keep}")
    done = subprocess.run([runner()], input=job, capture_output=True, env=_environment())
    if done.returncode:
        raise HostError(f"{done.stderr.decode(errors='replace')}seed {seed}, exit status {done.returncode}")
    ends = np.cumsum([0, *(array.n_bytes for array in arrays if array.kind)])
    return [done.stdout[begin:end] for begin, end in pairwise(ends)]


def _environment() -> dict[str, str]:
    options = "abort_on_error=1:handle_abort=0:detect_leaks=0:disable_coredump=1"
    return os.environ | {"ASAN_OPTIONS": options, "UBSAN_OPTIONS": "abort_on_error=1:print_stacktrace=1"}


def _argument(value: Any) -> str:
    """A ctypes value as a line of the job."""
    offsets = [0] if isinstance(value, ctypes.c_void_p | HostTensorMap) else []
    if isinstance(value, Problem):
        offsets = _POINTERS
    raw = bytes(value)
    return " ".join(map(str, (len(offsets), *offsets, len(raw), raw.hex())))


def run_on_host(
    plan: Plan, args: Args, seed: int = 0, preempt_per_mille: int = 0, phase: int = 0, max_blocks: int = 2**31
) -> np.ndarray:
    """Run a plan's launches on NumPy arrays and return the output; see `run_plan`."""
    output = run_plan(plan, args, seed, preempt_per_mille, phase, max_blocks)["output"]
    return np.frombuffer(output, args.output.dtype).reshape(args.output.shape)


def run_plan(
    plan: Plan, args: Args, seed: int = 0, preempt_per_mille: int = 0, phase: int = 0, max_blocks: int = 2**31
) -> dict[str, bytes]:
    """Run a plan's launches on NumPy arrays; `args` stay as they are. Returns `output` and each part of the workspace.

    Activations and output start `phase` bytes after a multiple of 16; a larger grid than `max_blocks` is cut, so that
    blocks wrap around. Raises `HostError`.
    """
    arrays, views = [], {}
    for name in ("weights", "activations", "sorted_token_ids", "expert_offsets", "topk_weights", "output"):
        values = getattr(args, name)
        if values is not None:
            view = getattr(bind(args, plan.descriptor, CPU), name)
            views[name] = replace(view, pointer=pointer_to(len(arrays)))
            shifted = phase if name in ("activations", "output") else 0
            arrays.append(Array(name, np.ascontiguousarray(values), values.nbytes, name == "output", shifted))
    bound = replace(bind(args, plan.descriptor, CPU), **views)
    problem = bind_problem(plan.descriptor, bound, 0)
    for region in plan.workspace:
        setattr(problem, region.name, pointer_to(len(arrays)))
        arrays.append(Array(region.name, None, region.n_bytes))
    launches = []
    for launch in plan.launches:
        compiled = kernel_library(launch.source, dict(launch.defines))
        n_blocks = min(launch.grid[0], max_blocks)
        arguments: tuple[Any, ...] = (problem,)
        if launch.values:
            arguments = (problem, launch_values(launch), HostTensorMap.of(launch.boxes, problem.weights))
        launches.append(HostLaunch(compiled, launch.entry, n_blocks, launch.block[0], arguments, launch.shared_bytes))
    written = run_job(arrays, launches, seed, preempt_per_mille)
    return dict(zip((array.name for array in arrays if array.kind), written, strict=True))
