"""The kernels of a whole run, built before its first case: several at once, into the cache that loading reads."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

from mmvq_cli.engine.cuda.build import build_cubin, is_built
from mmvq_cli.engine.discovery import kernel_cache_dir
from mmvq_cli.errors import MmvqError
from mmvq_cli.op import Plan
from mmvq_cli.op.launches import format_defines

_MAX_JOBS = 16  # a compilation takes some 300 MB
_OF_EVERY_RUN = ("canary.cu", "fill.cu", "validate.cu")

_Kernel = tuple[str, tuple[tuple[str, int], ...]]  # file and compile-time values


def build_ahead(plans: Iterable[Plan], notify: Callable[[int, int], None] = lambda done, total: None) -> None:
    """Build what the plans' cases will load and the cache has not, on all processors.

    `notify` is told how many of how many are built, the first time before any is. Nothing is raised for a kernel that
    does not compile: the case that needs it says so. Without a cache that can be written nothing is built.
    """
    with suppress(MmvqError):  # no compiler: loading says so
        missing = [job for job in _jobs(plans) if not is_built(*job)]
        if not missing or not _can_keep():
            return
        notify(0, len(missing))
        with ThreadPoolExecutor(min(os.cpu_count() or 1, _MAX_JOBS)) as pool:
            for done, _ in enumerate(pool.map(_attempt, missing), start=1):
                notify(done, len(missing))


def _jobs(plans: Iterable[Plan]) -> list[tuple[str, dict[str, int], str]]:
    """File, compile-time values and architecture of each kernel once, in the order of the cases."""
    found = dict.fromkeys((kernel, plan.device.architecture) for plan in plans for kernel in _kernels(plan))
    return [(file, dict(defines), architecture) for (file, defines), architecture in found]


def _kernels(plan: Plan) -> Iterator[_Kernel]:
    for launch in plan.launches:
        yield launch.source, launch.defines
    yield "oracle.cu", format_defines(plan.descriptor)
    yield from ((file, ()) for file in _OF_EVERY_RUN)


def _attempt(job: tuple[str, dict[str, int], str]) -> None:
    with suppress(MmvqError):
        build_cubin(*job)


def _can_keep() -> bool:
    folder = kernel_cache_dir()
    with suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
    return os.access(folder, os.W_OK)
