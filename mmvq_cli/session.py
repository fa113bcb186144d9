"""What all cases of a run share: the engine, the canaries, the settings, and the facts about where it runs."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from mmvq_cli.engine.base import Engine
from mmvq_cli.engine.discovery import cuda_available
from mmvq_cli.errors import EnvironmentInvalid, UsageError
from mmvq_cli.measure import (
    Canary,
    CanaryBench,
    CpuCanary,
    CpuFlush,
    CudaCanary,
    CudaFlush,
    DeviceState,
    Nvml,
    SamplingSettings,
    Watch,
    last_level_cache_bytes,
    open_nvml,
)
from mmvq_cli.op import Plan
from mmvq_cli.record import Git
from mmvq_cli.tuning import with_tuning

# Tells `mmvq bench` to make its times longer by a share: the gate's own test on a device.
SLOWDOWN_VARIABLE = "MMVQ_SLOWDOWN"

ENGINES = ("auto", "cuda", "cpu")


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSettings:
    """How to run, apart from what: engine, device, sampling, draws, and whether to time at all.

    `draws_n` routing draws with their own activations are cycled through while timing; the first one is checked.
    `case_timeout_s` ends a case that hangs. `slowdown` makes timed launches longer by this share: a gate's own test.
    """

    engine: str = "cpu"
    device_index: int = 0
    timed: bool = True
    draws_n: int = 4
    sampling: SamplingSettings = field(default_factory=SamplingSettings)
    case_timeout_s: float = 600.0
    slowdown: float = 0.0


def sampling_for(engine: str, max_samples: int) -> SamplingSettings:
    """How long to sample: on the CPU shorter, because other processes keep its times from ever settling."""
    if engine == "cpu":
        return SamplingSettings(max_samples=max_samples, warmup_max_s=0.5, budget_s=1.0)
    return SamplingSettings(max_samples=max_samples)


def asked_slowdown() -> float:
    """The share that `MMVQ_SLOWDOWN` asks for, 0 without it.

    Raises `UsageError` for anything but a number from 0 to 10.
    """
    text = os.environ.get(SLOWDOWN_VARIABLE, "0")
    try:
        share = float(text)
    except ValueError:
        share = -1.0
    if not 0 <= share <= 10:
        raise UsageError(f"{SLOWDOWN_VARIABLE} is {text!r}, not a share from 0 to 10", f"unset {SLOWDOWN_VARIABLE}")
    return share


def resolve_engine(wanted: str) -> tuple[str, str]:
    """The engine to use for `auto`, `cuda` or `cpu`, and why it is not the GPU ("" when nothing needs saying).

    Raises `UsageError` for another word, `EnvironmentInvalid` when CUDA is asked for and cannot run.
    """
    if wanted not in ENGINES:
        raise UsageError(f"--engine is {wanted!r}", f"use one of {', '.join(ENGINES)}")
    if wanted == "cpu":
        return "cpu", ""
    available, problem = cuda_available()
    if available:
        return "cuda", ""
    if wanted == "cuda":
        raise EnvironmentInvalid(f"the CUDA engine cannot run: {problem}", "`mmvq doctor` shows how to mend it")
    return "cpu", f"running on the CPU engine: {problem}"


@dataclass(frozen=True, slots=True)
class Reading:
    """What one look at the machine gives: a streaming read, and the GPU's state where NVML tells it."""

    canary: Canary
    state: DeviceState | None

    @property
    def gb_s(self) -> float | None:
        """Bandwidth of the read; None when the words read did not add up."""
        return self.canary.gb_s if self.canary.checksum_ok else None


class Session:
    """One process's engine with its canaries; made anew in every worker."""

    def __init__(self, settings: RunSettings) -> None:
        """Open the engine; raises `EnvironmentInvalid` when it cannot run."""
        self.settings = settings
        self.engine: Engine = _open_engine(settings)
        self._first: Reading | None = None
        if settings.engine == "cpu":
            self.engine.device = replace(self.engine.device, l2_bytes=last_level_cache_bytes())
        else:
            self.engine.device = with_tuning(self.engine.device)

    @cached_property
    def facts(self) -> dict[str, Any]:
        """The engine's versions and names, and the kind of container."""
        return self.engine.facts() | {"container": container_kind()}

    def prepare(self, plan: Plan) -> tuple[Any, ...]:
        """Build and load the plan's kernels; the facts of each launch (none on the CPU)."""
        if plan.device.backend == "cpu":
            return ()
        from mmvq_cli.engine.cuda import prepare

        return prepare(plan)

    def release(self) -> None:
        """Give back the memory of the last case."""
        release = getattr(self.engine, "release", None)
        if release:
            release()

    @cached_property
    def canary(self) -> CanaryBench:
        """The canaries of the engine's device."""
        if self.settings.engine == "cpu":
            return CpuCanary()
        from mmvq_cli.engine.cuda import load_kernel

        return CudaCanary(load_kernel, self.engine.device)

    @cached_property
    def cache_flush(self) -> Any:
        """What empties the last-level cache: called with a stream on a GPU, without arguments on the CPU."""
        if self.settings.engine == "cpu":
            return CpuFlush(self.engine.device.l2_bytes)
        from mmvq_cli.engine.cuda import load_kernel

        return CudaFlush(load_kernel, self.engine.device)

    @cached_property
    def nvml(self) -> Nvml | None:
        """The GPU through NVML; None on the CPU and where NVML is not there."""
        return None if self.settings.engine == "cpu" else open_nvml(self.facts.get("uuid"))

    def watch(self) -> Watch | None:
        """A new watch over one case's samples; None without NVML."""
        return Watch(self.nvml) if self.nvml else None

    def look(self) -> Reading:
        """Read the stream anew, and the GPU's state right after it.

        Raises `LaunchError` when the device fails.
        """
        reading = Reading(self.canary.stream(), self.nvml.state() if self.nvml else None)
        self._first = self._first or reading
        return reading

    @property
    def stream_gb_s(self) -> float:
        """Bandwidth of the first look, which is taken now if there was none."""
        return (self._first or self.look()).canary.gb_s

    @cached_property
    def launch_ns(self) -> float:
        """What a launch costs that does next to nothing: the canary of 16 bytes."""
        return self.canary.size_matched(16).time_ns


def _open_engine(settings: RunSettings) -> Engine:
    if settings.engine == "cuda":
        from mmvq_cli.engine.cuda import CudaEngine

        return CudaEngine(settings.device_index)
    from mmvq_cli.engine.cpu import CpuEngine

    return CpuEngine()


def container_kind(root: Path = Path("/")) -> str | None:
    """The kind of container that this process runs in, where it is one of the well-known ones."""
    if (root / ".dockerenv").exists():
        return "docker"
    if (root / "run" / ".containerenv").exists():
        return "podman"
    return "kubernetes" if os.environ.get("KUBERNETES_SERVICE_HOST") else None


def git_state(folder: Path) -> Git | None:
    """Commit and dirtiness of the checkout that holds `folder`; None outside one or without git.

    A copy of a checkout without its history can name its commit in `MMVQ_COMMIT`; it counts as clean.
    """
    if commit := os.environ.get("MMVQ_COMMIT"):
        return Git(rev=commit, dirty=False)
    try:
        rev = _git(folder, "rev-parse", "HEAD")
        return Git(rev=rev, dirty=bool(_git(folder, "status", "--porcelain", "--untracked-files=no")))
    except (OSError, subprocess.SubprocessError):
        return None


def _git(folder: Path, *arguments: str) -> str:
    result = subprocess.run(
        ["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=True, timeout=10
    )
    return result.stdout.strip()
