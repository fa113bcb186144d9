"""From a kernel source to a cubin: NVRTC through CuPy's own binding, and a disk cache; needs no GPU."""

from __future__ import annotations

import hashlib
import json
import os
import re
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from mmvq_cli.engine.cuda.source import Source, render
from mmvq_cli.engine.discovery import kernel_cache_dir
from mmvq_cli.errors import BuildError, EnvironmentInvalid
from mmvq_cli.op.formats import find_format
from mmvq_cli.op.problem import layout_checks
from mmvq_cli.op.shape import shape_checks

# No contraction and no flush-to-zero: dequantized weights are bit-equal to ggml's, fp16 scales may be subnormal.
# No -lineinfo: it writes the working directory into the cubin, whose hash is in every record.
OPTIONS = ("--std=c++17", "-fmad=false", "-ftz=false", "--ptxas-options=-v")

# Sources with instructions that one architecture has and newer ones have not (wgmma): their target ends in "a".
_SPECIFIC = frozenset({"wide.cu"})


@dataclass(frozen=True, slots=True)
class Resources:
    """What one kernel occupies, by ptxas: registers and local bytes per thread, static shared bytes per block."""

    entry: str
    registers: int
    shared_bytes: int
    local_bytes: int
    spill_bytes: int


@dataclass(frozen=True, slots=True)
class Cubin:
    """A compiled source; `resources` has one row per entry point, in the compiler's order."""

    image: bytes = field(repr=False)
    architecture: str
    log: str = field(repr=False)
    source_sha256: str
    cubin_sha256: str
    resources: tuple[Resources, ...]

    def resources_of(self, entry: str) -> Resources:
        """Find the row of one entry point.

        Raises `KeyError` when the source has no such entry.
        """
        return {row.entry: row for row in self.resources}[entry]


_LAYOUT_LINE = '#line 1 "op/problem.py"\n'


def build_cubin(entry_file: str, defines: Mapping[str, int | str], architecture: str) -> Cubin:
    """Render `kernels/<entry_file>`, compile it for `architecture` such as `sm_90`, or take it from the cache.

    Raises `BuildError` with the compiler's log, `EnvironmentInvalid` when NVRTC is missing.
    """
    return cached_compile(final_source(entry_file, defines), entry_file, architecture)


def is_built(entry_file: str, defines: Mapping[str, int | str], architecture: str) -> bool:
    """Whether the cache has an entry of what `build_cubin` would compile; raises `EnvironmentInvalid` like it."""
    return _entry_path(final_source(entry_file, defines), architecture).exists()


def final_source(entry_file: str, defines: Mapping[str, int | str]) -> Source:
    """Render the text that the compiler sees, with the layout assertions where the Problem is used."""
    family = {"MMVQ_FAMILY": find_format(int(defines["MMVQ_FORMAT"])).family} if "MMVQ_FORMAT" in defines else {}
    source = render(entry_file, {**defines, **family})
    if "kernels/problem.cuh" not in source.text:
        return source
    checks = layout_checks() + (shape_checks() if entry_file in ("stream.cu", "wide.cu") else "")
    text = f"{source.text}{_LAYOUT_LINE}{checks}"
    return Source(text, hashlib.sha256(text.encode()).hexdigest())


def nvrtc_version() -> str:
    """`major.minor` of the NVRTC library that CuPy finds.

    Raises `EnvironmentInvalid` when there is none.
    """
    major, minor = _nvrtc().getVersion()
    return f"{major}.{minor}"


def compile_source(source: Source, name: str, architecture: str) -> Cubin:
    """Compile without the cache; `name` is the file that messages blame.

    Raises `BuildError`, `EnvironmentInvalid`.
    """
    nvrtc = _nvrtc()
    program = nvrtc.createProgram(source.text, name, (), ())
    try:
        target = f"{architecture}a" if name in _SPECIFIC else architecture
        options = (f"--gpu-architecture={target}", *OPTIONS)
        nvrtc.compileProgram(program, options)
        if not parse_resources(_log(nvrtc, program)):
            # What NVRTC takes from its own cache comes without ptxas's figures.
            nvrtc.compileProgram(program, (*options, "--no-cache"))
        image, log = nvrtc.getCUBIN(program), _log(nvrtc, program)
    except nvrtc.NVRTCError as error:
        log = _log(nvrtc, program)
        raise BuildError(
            f"kernels/{name} does not compile for {architecture}: {_first_error(log) or error}",
            f"NVRTC is {nvrtc_version()}; `mmvq doctor` checks the installation",
            log=log,
        ) from error
    finally:
        nvrtc.destroyProgram(program)
    return Cubin(
        image=image,
        architecture=architecture,
        log=log,
        source_sha256=source.sha256,
        cubin_sha256=hashlib.sha256(image).hexdigest(),
        resources=parse_resources(log),
    )


def cached_compile(source: Source, name: str, architecture: str) -> Cubin:
    """Compile, or read the entry that an earlier process left; a damaged entry is compiled again."""
    path = _entry_path(source, architecture)
    cubin = _read_entry(path)
    if cubin is None:
        cubin = compile_source(source, name, architecture)
        with suppress(OSError):  # a cache that cannot be written costs time, never the run
            _write_entry(path, cubin)
    return cubin


def _entry_path(source: Source, architecture: str) -> Path:
    key = "\n".join((source.sha256, architecture, nvrtc_version(), *OPTIONS))
    return kernel_cache_dir() / f"{hashlib.sha256(key.encode()).hexdigest()}.cubin"


_ENTRY = re.compile(r"Compiling entry function '(\w+)'")
_STACK = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")
_USED = re.compile(r"Used (\d+) registers(?:.*?(\d+) bytes smem)?")


def parse_resources(log: str) -> tuple[Resources, ...]:
    """Read the resource rows of a `--ptxas-options=-v` log.

    Functions that were not inlined count to the entry that they follow.
    """
    rows: list[dict[str, Any]] = []
    for line in log.splitlines():
        if match := _ENTRY.search(line):
            rows.append({"entry": match[1], "registers": 0, "shared_bytes": 0, "local_bytes": 0, "spill_bytes": 0})
        elif not rows:
            continue
        elif match := _STACK.search(line):
            rows[-1]["local_bytes"] += int(match[1])
            rows[-1]["spill_bytes"] += int(match[2]) + int(match[3])
        elif match := _USED.search(line):
            rows[-1]["registers"] = int(match[1])
            rows[-1]["shared_bytes"] = int(match[2] or 0)
    return tuple(Resources(**row) for row in rows)


def _log(nvrtc: Any, program: Any) -> str:
    """Read the log without its compile times, so that equal sources have equal logs."""
    lines = nvrtc.getProgramLog(program).rstrip("\0\n ").splitlines()
    return "\n".join(line for line in lines if "Compile time" not in line)


def _first_error(log: str) -> str:
    return next((line.strip() for line in log.splitlines() if "error" in line), "")


def _nvrtc() -> Any:
    try:
        from cupy_backends.cuda.libs import nvrtc

        nvrtc.getVersion()  # CuPy loads the library at the first call
    except (ImportError, RuntimeError, OSError) as error:
        raise EnvironmentInvalid(
            f"NVRTC, which compiles the kernels, cannot be loaded: {error}",
            "pip install '.[cuda13]' (or cuda12) in the checkout brings it; --engine cpu needs none",
        ) from error
    return nvrtc


def _read_entry(path: Path) -> Cubin | None:
    """Read one line of JSON, then the cubin, whose hash the JSON holds; None when anything is amiss."""
    try:
        header, _, image = path.read_bytes().partition(b"\n")
        fields = json.loads(header)
        rows = tuple(Resources(**row) for row in fields.pop("resources"))
        cubin = Cubin(image=image, resources=rows, **fields)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return cubin if cubin.cubin_sha256 == hashlib.sha256(image).hexdigest() else None


def _write_entry(path: Path, cubin: Cubin) -> None:
    """Write aside and rename, so that a reader sees a whole entry or none."""
    fields = asdict(cubin)
    image = fields.pop("image")
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, aside = tempfile.mkstemp(dir=path.parent, prefix=path.stem, suffix=".tmp")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(json.dumps(fields).encode() + b"\n" + image)
        Path(aside).replace(path)
    except BaseException:
        Path(aside).unlink(missing_ok=True)
        raise
