"""What this machine can run, and how to mend what it cannot: the findings behind `mmvq doctor` and `--engine auto`.

Nothing here imports CuPy into this process: a child tries it, so that a broken or crashing installation is a finding.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from mmvq_cli import __version__
from mmvq_cli.driver import CUDA_EXTRAS, Driver, format_cuda_version, query_driver
from mmvq_cli.errors import EnvironmentInvalid
from mmvq_cli.op.device import OLDEST_COMPUTE_CAPABILITY
from mmvq_cli.resources import resource_root

PROBE_TIMEOUT_S = 120
PROBE_MARK = "mmvq-probe:"  # as in cuda/probe.py, which is a program and not imported here

_PACKAGES = ("gguf", "numpy", "pandas", "pydantic", "rich", "typer")
# The packages that install the module `cupy`, and the CUDA major version each is built for (0: built by the user).
_CUPY_PACKAGES = {"cupy-cuda13x": 13, "cupy-cuda12x": 12, "cupy-cuda11x": 11, "cupy": 0}
_DRIVER_PAGE = "install NVIDIA's driver (525 or later) for the GPU; without one the CPU engine runs"


class Level(StrEnum):
    """How bad a finding is: a `problem` keeps an engine from running, a `warning` does not."""

    OK = "ok"
    WARNING = "warning"
    PROBLEM = "problem"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at: its name, what was seen, and how to mend it (empty when nothing is to be done)."""

    name: str
    level: Level
    seen: str
    mend: str = ""


@dataclass(frozen=True, slots=True)
class CudaProbe:
    """What a child process that used CuPy reported; `error` is the last line of its trouble, or "".

    `step` is how far it came: `import`, `nvrtc`, `headers`, `device` or, with all done, `launched`.
    """

    step: str = "import"
    cupy_version: str = ""
    nvrtc_version: str = ""
    header_folder: str = ""
    device_count: int = 0
    error: str = ""


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """All findings, and whether the CUDA engine can run (`cuda_problem` is "" then)."""

    findings: tuple[Finding, ...]
    cuda_problem: str


def cuda_available() -> tuple[bool, str]:
    """Whether the CUDA engine should run here, and if not why, in words. Quick: CuPy is looked up, not imported."""
    problem = _cuda_problem(query_driver(), _installed_cupys(), os.environ)
    return not problem, problem


def kernel_cache_dir() -> Path:
    """Name the folder of compiled kernels: `mmvq` in XDG_CACHE_HOME, else in the user's cache folder. Makes nothing."""
    home = os.environ.get("XDG_CACHE_HOME")
    if home and Path(home).is_absolute():  # the XDG specification tells to ignore a relative path
        return Path(home) / "mmvq"
    return Path.home() / ("Library/Caches" if sys.platform == "darwin" else ".cache") / "mmvq"


def diagnose(
    query: Callable[[], Driver] = query_driver,
    probe: Callable[[], CudaProbe] | None = None,
    installed: Callable[[str], str] | None = None,
) -> Diagnosis:
    """Look at everything a run depends on; never raises.

    `query` asks the driver, `probe` tries CuPy, `installed` gives a package's version or "": tests replace them.
    """
    version_of = installed or _version_of
    driver = query()
    cupys = _installed_cupys(version_of)
    tried = (probe or probe_cuda)() if cupys else None
    findings = [
        Finding(
            "mmvq", Level.OK, f"{__version__}, Python {platform.python_version()}, {platform.platform(terse=True)}"
        ),
        *(_package_finding(name, version_of(name)) for name in _PACKAGES),
        _libgguf_finding(version_of("libgguf")),
        *(_resource_finding(name) for name in ("kernels", "configs")),
        _cache_finding(kernel_cache_dir()),
        _driver_finding(driver),
        *_gpu_findings(driver, os.environ),
        _cupy_finding(driver, cupys),
        *(_probe_findings(tried, driver) if tried else ()),
    ]
    problem = _cuda_problem(driver, cupys, os.environ)
    if not problem and tried and tried.step != "launched":
        problem = f"CuPy fails at the step {tried.step}: {tried.error}"
    return Diagnosis(tuple(findings), problem)


def _cuda_problem(driver: Driver, cupys: dict[str, str], environment: Mapping[str, str]) -> str:
    """Give the first reason why the CUDA engine cannot run, or ""."""
    if driver.problem:
        return driver.problem
    if environment.get("CUDA_VISIBLE_DEVICES", "all").strip() in ("", "-1"):
        return "CUDA_VISIBLE_DEVICES hides every GPU"
    capabilities = [gpu.compute_capability for gpu in driver.gpus or ()]
    if capabilities and max(capabilities) < OLDEST_COMPUTE_CAPABILITY:
        return "every GPU is older than sm_80"
    return _cupy_problem(driver, cupys)


def _cupy_problem(driver: Driver, cupys: dict[str, str]) -> str:
    if not cupys:
        return "CuPy is not installed"
    if len(cupys) > 1:
        return f"{' and '.join(cupys)} are installed together and break each other"
    major = _CUPY_PACKAGES[next(iter(cupys))]
    if driver.cuda_version and major > driver.cuda_version // 1000:
        return (
            f"{next(iter(cupys))} needs CUDA {major}, the driver runs up to {format_cuda_version(driver.cuda_version)}"
        )
    return ""


def _version_of(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _installed_cupys(version_of: Callable[[str], str] = _version_of) -> dict[str, str]:
    return {name: version for name in _CUPY_PACKAGES if (version := version_of(name))}


def _package_finding(name: str, version: str) -> Finding:
    if version:
        return Finding(name, Level.OK, version)
    return Finding(name, Level.PROBLEM, "not installed", "pip install . in the checkout, without --no-deps")


def _libgguf_finding(version: str) -> Finding:
    if version:
        return Finding("libgguf", Level.OK, version)
    return Finding(
        "libgguf",
        Level.WARNING,
        "not installed: the CPU engine dequantizes with gguf-py, several times slower",
        "pip install libgguf where it has wheels (Python < 3.14 on x86-64 Linux, macOS or Windows)",
    )


def _resource_finding(name: str) -> Finding:
    try:
        return Finding(f"{name}/", Level.OK, str(resource_root(name)))
    except EnvironmentInvalid as error:
        return Finding(f"{name}/", Level.PROBLEM, error.message, error.hint)


def _cache_finding(folder: Path) -> Finding:
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    if not (existing.is_dir() and os.access(existing, os.W_OK | os.X_OK)):
        return Finding(
            "kernel cache", Level.WARNING, f"{folder} cannot be written", "set XDG_CACHE_HOME to a folder that can be"
        )
    sizes = [path.stat().st_size for path in folder.rglob("*") if path.is_file()]
    return Finding("kernel cache", Level.OK, f"{folder}: {len(sizes)} files, {sum(sizes) / 2**20:.1f} MiB")


def _driver_finding(driver: Driver) -> Finding:
    if driver.problem:
        # Without a driver nothing is broken: the CPU engine is what this machine gets.
        level = Level.PROBLEM if driver.cuda_version else Level.WARNING
        return Finding("driver", level, driver.problem, _DRIVER_PAGE)
    return Finding("driver", Level.OK, str(driver))


def _gpu_findings(driver: Driver, environment: Mapping[str, str]) -> Iterable[Finding]:
    if driver.gpus is None:
        yield Finding(
            "GPU",
            Level.WARNING,
            "NVML (libnvidia-ml.so.1) cannot list them",
            "in a container, allow the capability utility",
        )
    for index, gpu in enumerate(driver.gpus or ()):
        major, minor = gpu.compute_capability
        seen = f"{gpu.name}, sm_{major}{minor}, {gpu.memory_bytes / 2**30:.1f} GiB"
        if gpu.compute_capability < OLDEST_COMPUTE_CAPABILITY:
            yield Finding(
                f"GPU {index}", Level.WARNING, seen, "the kernels need sm_80 or later: use another GPU or the CPU"
            )
        else:
            yield Finding(f"GPU {index}", Level.OK, seen)
    visible = environment.get("CUDA_VISIBLE_DEVICES")
    if driver.gpus and visible is not None:
        hidden = visible.strip() in ("", "-1")
        yield Finding(
            "CUDA_VISIBLE_DEVICES",
            Level.WARNING if hidden else Level.OK,
            f"{visible!r}: {'every GPU is hidden' if hidden else 'only these GPUs are used'}",
            "unset CUDA_VISIBLE_DEVICES" if hidden else "",
        )


def _cupy_finding(driver: Driver, cupys: dict[str, str]) -> Finding:
    extra = driver.extra or CUDA_EXTRAS[0][0]
    seen = ", ".join(f"{name} {version}" for name, version in cupys.items()) or "not installed"
    problem = _cupy_problem(driver, cupys)
    if not problem:
        return Finding("CuPy", Level.OK, seen)
    # Without a driver a missing CuPy is as it should be.
    level = Level.PROBLEM if cupys or driver.extra else Level.OK
    remedy = f"pip uninstall {' '.join(cupys)}, then " if cupys else ""
    return Finding(
        "CuPy",
        level,
        problem if cupys else seen,
        f"{remedy}pip install '.[{extra}]' in the checkout" if level != Level.OK else "",
    )


def _probe_findings(probe: CudaProbe, driver: Driver) -> Iterable[Finding]:
    """One finding for each step that the probe took, the last of them perhaps a failed one."""
    extra = driver.extra or CUDA_EXTRAS[0][0]
    reached = {
        "import": ("CuPy import", probe.cupy_version),
        "nvrtc": ("NVRTC", probe.nvrtc_version),
        "headers": ("CUDA headers", f"{probe.header_folder}: cuda_fp16.h and cuda_bf16.h compile"),
        "device": ("launch", f"a kernel ran on {probe.device_count} GPU{'s' * (probe.device_count != 1)}"),
    }
    for step, (name, seen) in reached.items():
        if step == probe.step:
            if step == "device" and driver.problem:
                return  # nothing to launch on, which the finding on the driver says
            mend = "the driver and CuPy do not work together" if step == "device" else "the installation is incomplete"
            yield Finding(
                name, Level.PROBLEM, probe.error, f"{mend}: pip install --force-reinstall '.[{extra}]' in the checkout"
            )
            return
        yield Finding(name, Level.OK, seen)


def probe_cuda(python: str = sys.executable) -> CudaProbe:
    """Use CuPy in a child process: import it, compile with the CUDA headers for sm_80, launch on every GPU."""
    try:
        child = subprocess.run(
            [python, "-P", str(Path(__file__).parent / "cuda" / "probe.py")],
            capture_output=True,
            text=True,
            timeout=PROBE_TIMEOUT_S,
            check=False,
            stdin=subprocess.DEVNULL,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return CudaProbe(error=str(error))
    reports = [line.removeprefix(PROBE_MARK) for line in child.stdout.splitlines() if line.startswith(PROBE_MARK)]
    reported = json.loads(reports[-1]) if reports else {}
    if reported.get("step") != "launched" and not reported.get("error"):
        last = (child.stderr.strip().splitlines() or ["no message"])[-1]
        reported["error"] = f"{last} (exit {child.returncode})"
    return CudaProbe(**reported)
