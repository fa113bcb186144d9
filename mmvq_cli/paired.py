"""Kernels of two git revisions, measured in turn by this program's own code, each time in a fresh process."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from mmvq_cli.compare import (
    Block,
    Comparison,
    GateConfig,
    Source,
    aa_file,
    compare_paired,
    confirm_comparison,
    noise_floor,
    read_aa,
    regressed,
    too_wide,
)
from mmvq_cli.errors import EnvironmentInvalid, UsageError
from mmvq_cli.record import read_records
from mmvq_cli.resources import KERNELS_VARIABLE, resource_root
from mmvq_cli.session import SLOWDOWN_VARIABLE

WORKING_TREE = "the working tree"
RunArm = Callable[[str, Path], Source]  # (name of the arm, folder for its records) -> its records


def extract_kernels(revision: str, repository: Path, target: Path) -> Path:
    """Write `kernels/` of a revision below `target` and return it; the checkout is not touched.

    Raises `UsageError` when git does not know the revision or it has no kernels.
    """
    command = ["git", "-C", str(repository), "archive", "--format=tar", "--end-of-options", revision, "kernels"]
    try:
        archive = subprocess.run(command, capture_output=True, check=True).stdout
    except OSError as error:
        raise EnvironmentInvalid(f"git cannot run: {error.strerror}", "install git") from error
    except subprocess.CalledProcessError as error:
        reason = error.stderr.decode(errors="replace").strip().splitlines()[-1:]
        raise UsageError(
            f"no kernels of revision {revision!r}: {' '.join(reason)}", "name a commit, branch or tag of this checkout"
        ) from error
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        tar.extractall(target, filter="data")
    return target / "kernels"


class BenchArm:
    """Runs `mmvq bench` in a fresh process on given kernels: `arms` has the kernels' folder of each arm.

    `slowdowns` makes the times of an arm longer by a share.
    """

    def __init__(
        self, arms: Mapping[str, Path], arguments: Sequence[str], slowdowns: Mapping[str, float] | None = None
    ) -> None:
        self._arms = arms
        self._arguments = tuple(arguments)
        self._slowdowns = slowdowns or {}

    def __call__(self, arm: str, folder: Path) -> Source:
        """Run once and read the records.

        Raises `EnvironmentInvalid` when the process leaves none; wrong and broken cases are records.
        """
        command = [sys.executable, "-m", "mmvq_cli", "bench", *self._arguments]
        command += ["--results", str(folder), "--quiet", "-o", "jsonl"]
        environment = os.environ | {KERNELS_VARIABLE: str(self._arms[arm])}
        if arm in self._slowdowns:
            environment[SLOWDOWN_VARIABLE] = str(self._slowdowns[arm])
        result = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
        records = [record for path in sorted(folder.glob("*.jsonl")) for record in read_records(path)]
        if not records:
            raise EnvironmentInvalid(
                f"the process of {arm} ended with code {result.returncode}: {result.stderr.strip()[-300:]}",
                f"try it alone: mmvq bench {' '.join(self._arguments)}",
            )
        return Source(arm, tuple(records))


def run_paired(
    arms: tuple[str, str],
    run_arm: RunArm,
    n_blocks: int,
    folder: Path,
    config: GateConfig,
    *,
    budget_s: float = 0.0,
    clock_s: Callable[[], float] = time.monotonic,
) -> Comparison:
    """Screen, and measure once more in fresh processes when something is slower.

    While an interval is too wide for a verdict, the blocks are doubled as long as that fits into `budget_s`; each such
    look halves the error that its intervals may have. The noise floor of the GPU's A/A runs counts as a threshold.
    """
    start_s = clock_s()
    blocks = run_blocks(arms, run_arm, range(n_blocks), folder / "screen")
    config = with_noise_floor(config, blocks[0].base)
    screen = compare_paired(blocks, config)
    while too_wide(screen) and 2 * (clock_s() - start_s) <= budget_s:
        blocks += run_blocks(arms, run_arm, range(len(blocks), 2 * len(blocks)), folder / "screen")
        config = replace(config, thresholds=replace(config.thresholds, alpha=config.thresholds.alpha / 2))
        screen = compare_paired(blocks, config)
    if not regressed(screen):
        return screen
    second = run_blocks(arms, run_arm, range(len(blocks)), folder / "confirm")
    return confirm_comparison(screen, compare_paired(second, config))


def with_noise_floor(config: GateConfig, source: Source) -> GateConfig:
    """The same settings with the floor of the A/A runs on the GPU that these records come from, where it is higher."""
    uuid = source.records[0].env.device.uuid
    floor = max(config.thresholds.noise_floor, noise_floor(read_aa(aa_file()), uuid))
    return replace(config, thresholds=replace(config.thresholds, noise_floor=floor))


def kernels_of(revision: str | None, repository: Path, target: Path) -> Path:
    """The kernels of a revision, or those of this installation for None."""
    return resource_root("kernels") if revision is None else extract_kernels(revision, repository, target)


def run_blocks(arms: tuple[str, str], run_arm: RunArm, indices: Iterable[int], folder: Path) -> list[Block]:
    """Run each arm once for each index; the order alternates (ABBA), so that a drift hits both arms alike."""
    blocks = []
    for index in indices:
        order = arms if index % 2 == 0 else arms[::-1]
        found = {arm: run_arm(arm, folder / f"{index:03}-{arms.index(arm)}") for arm in order}
        blocks.append(Block(found[arms[0]], found[arms[1]]))
    return blocks
