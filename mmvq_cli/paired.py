"""Kernels of two git revisions, measured in turn by this program's own code, each time in a fresh process."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path

from mmvq_cli.compare import Block, Comparison, GateConfig, Source, compare_paired, confirm_comparison, regressed
from mmvq_cli.errors import EnvironmentInvalid, UsageError
from mmvq_cli.record import read_records
from mmvq_cli.resources import KERNELS_VARIABLE, resource_root

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
    """Runs `mmvq bench` in a fresh process on given kernels: `arms` has the kernels' folder of each arm."""

    def __init__(self, arms: dict[str, Path], arguments: Sequence[str]) -> None:
        self._arms = arms
        self._arguments = tuple(arguments)

    def __call__(self, arm: str, folder: Path) -> Source:
        """Run once and read the records.

        Raises `EnvironmentInvalid` when the process leaves none; wrong and broken cases are records.
        """
        command = [sys.executable, "-m", "mmvq_cli", "bench", *self._arguments]
        command += ["--results", str(folder), "--quiet", "-o", "jsonl"]
        environment = os.environ | {KERNELS_VARIABLE: str(self._arms[arm])}
        result = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
        records = [record for path in sorted(folder.glob("*.jsonl")) for record in read_records(path)]
        if not records:
            raise EnvironmentInvalid(
                f"the process of {arm} ended with code {result.returncode}: {result.stderr.strip()[-300:]}",
                f"try it alone: mmvq bench {' '.join(self._arguments)}",
            )
        return Source(arm, tuple(records))


def run_paired(arms: tuple[str, str], run_arm: RunArm, n_blocks: int, folder: Path, config: GateConfig) -> Comparison:
    """Screen, and measure once more in fresh processes when something is slower.

    The order within blocks alternates (ABBA), so that a drift hits both arms alike.
    """
    screen = compare_paired(_blocks(arms, run_arm, n_blocks, folder / "screen"), config)
    if not regressed(screen):
        return screen
    return confirm_comparison(screen, compare_paired(_blocks(arms, run_arm, n_blocks, folder / "confirm"), config))


def kernels_of(revision: str | None, repository: Path, target: Path) -> Path:
    """The kernels of a revision, or those of this installation for None."""
    return resource_root("kernels") if revision is None else extract_kernels(revision, repository, target)


def _blocks(arms: tuple[str, str], run_arm: RunArm, n_blocks: int, folder: Path) -> list[Block]:
    blocks = []
    for index in range(n_blocks):
        order = arms if index % 2 == 0 else arms[::-1]
        found = {arm: run_arm(arm, folder / f"{index:03}-{arms.index(arm)}") for arm in order}
        blocks.append(Block(found[arms[0]], found[arms[1]]))
    return blocks
