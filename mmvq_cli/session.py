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
from mmvq_cli.measure import CanaryBench, CpuCanary, CudaCanary, SamplingSettings, last_level_cache_bytes
from mmvq_cli.op import Plan
from mmvq_cli.record import Git

ENGINES = ("auto", "cuda", "cpu")


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSettings:
    """How to run, apart from what: engine, device, sampling, draws, and whether to time at all.

    `draws_n` routing draws with their own activations are cycled through while timing; the first one is checked.
    `case_timeout_s` ends a case that hangs.
    """

    engine: str = "cpu"
    device_index: int = 0
    timed: bool = True
    draws_n: int = 4
    sampling: SamplingSettings = field(default_factory=SamplingSettings)
    case_timeout_s: float = 600.0


def sampling_for(engine: str, max_samples: int) -> SamplingSettings:
    """How long to sample: on the CPU shorter, because other processes keep its times from ever settling."""
    if engine == "cpu":
        return SamplingSettings(max_samples=max_samples, warmup_max_s=0.5, budget_s=1.0)
    return SamplingSettings(max_samples=max_samples)


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


class Session:
    """One process's engine with its canaries; made anew in every worker."""

    def __init__(self, settings: RunSettings) -> None:
        """Open the engine; raises `EnvironmentInvalid` when it cannot run."""
        self.settings = settings
        self.engine: Engine = _open_engine(settings)
        if settings.engine == "cpu":
            self.engine.device = replace(self.engine.device, l2_bytes=last_level_cache_bytes())

    @cached_property
    def facts(self) -> dict[str, Any]:
        """The engine's versions and names."""
        return self.engine.facts()

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
    def stream_gb_s(self) -> float:
        """Bandwidth of the long streaming read, measured once, before the first timed case."""
        return self.canary.stream().gb_s


def _open_engine(settings: RunSettings) -> Engine:
    if settings.engine == "cuda":
        from mmvq_cli.engine.cuda import CudaEngine

        return CudaEngine(settings.device_index)
    from mmvq_cli.engine.cpu import CpuEngine

    return CpuEngine()


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
