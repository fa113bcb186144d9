"""A/A runs: what identical builds differ by on a machine, and the floor below which no difference is a change."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mmvq_cli.compare.baseline import user_baselines
from mmvq_cli.compare.matching import Pair, invalidity, match, stream_drift
from mmvq_cli.compare.paired import Block
from mmvq_cli.compare.rule import Thresholds
from mmvq_cli.compare.statistics import block_difference
from mmvq_cli.errors import NothingMatched, OpenError

_FLOOR_QUANTILE = 0.99  # of the absolute differences of a machine's A/A runs


@dataclass(frozen=True, slots=True, kw_only=True)
class AaRun:
    """One kernel against itself: standard deviations of ln(time), and what each case came out with.

    `launch_sd` is that of the samples within a process (a sample is the mean of a replayed graph), `process_sd` that of
    the medians between processes. `differences` are the means over the blocks of ln(second arm / first arm), `log_ns`
    those of ln(median time in ns), by case id.
    """

    time_utc: str
    device: str
    uuid: str | None
    driver: str | None
    blocks: int
    launch_sd: float
    process_sd: float
    canary_gbps: float | None
    differences: dict[str, float]
    log_ns: dict[str, float]

    @property
    def largest(self) -> float:
        """Largest absolute difference."""
        return max(map(abs, self.differences.values()))


def aa_run(blocks: Sequence[Block], limits: Thresholds) -> AaRun:
    """Sum up at least two blocks whose two arms ran the same kernels; blocks in which a case is invalid are left out.

    Raises `NothingMatched` when no case has two valid blocks.
    """
    by_case: dict[str, list[Pair]] = {}
    for block in blocks:
        for pair in match(block.base.latest, block.head.latest):
            if _is_valid(pair, limits):
                by_case.setdefault(pair.any.ids.case_id, []).append(pair)
    rows = {case_id: _samples(pairs) for case_id, pairs in by_case.items() if len(pairs) > 1}
    if not rows:
        raise NothingMatched("no case was timed in two valid blocks", "`mmvq bench` alone shows what is wrong")
    differences = {case: [float(block_difference(*arms)) for arms in blocks_] for case, blocks_ in rows.items()}
    samples = [np.log(arm) for arms in rows.values() for pair_ in arms for arm in pair_]
    env = next(iter(by_case.values()))[0].any.env
    return AaRun(
        time_utc=f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}",
        device=env.device.name,
        uuid=env.device.uuid,
        driver=env.driver,
        blocks=len(blocks),
        launch_sd=_root_mean([float(np.var(logs, ddof=1)) for logs in samples if logs.size > 1]),
        process_sd=_root_mean([float(np.var(found, ddof=1)) / 2 for found in differences.values()]),
        canary_gbps=env.canary_gbps.start if env.canary_gbps else None,
        differences={case: float(np.mean(found)) for case, found in differences.items()},
        log_ns={case: float(np.mean([np.log(np.median(a)) for p in arms for a in p])) for case, arms in rows.items()},
    )


def aa_file() -> Path:
    """Where the A/A runs of this machine are kept: `mmvq/aa.jsonl` in the user's data folder."""
    return user_baselines().parent / "aa.jsonl"


def append_aa(run: AaRun, path: Path) -> None:
    """Keep a run.

    Raises `OpenError` when the file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(run)) + "\n")
    except OSError as error:
        raise OpenError(f"cannot write {path}: {error.strerror}", "check the path and its permissions") from error


def read_aa(path: Path) -> list[AaRun]:
    """Read the runs of a file, none when it is not there.

    Raises `OpenError` when it holds something else.
    """
    try:
        return [AaRun(**json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, TypeError) as error:
        raise OpenError(
            f"{path} holds no A/A runs: {error}", "move it away; `mmvq gate --aa` makes a new one"
        ) from error


def noise_floor(runs: Sequence[AaRun], uuid: str | None) -> float:
    """The 99 % quantile of the absolute differences on one GPU; 0 without a run on it."""
    found = [abs(value) for run in runs if uuid and run.uuid == uuid for value in run.differences.values()]
    return float(np.quantile(found, _FLOOR_QUANTILE)) if found else 0.0


def _is_valid(pair: Pair, limits: Thresholds) -> bool:
    base, head = pair.base, pair.head
    if not (base and head and base.timing and head.timing):
        return False
    return invalidity(base, head, limits.canary_drift) is None and abs(stream_drift(base, head)) <= limits.canary_drift


def _samples(pairs: Sequence[Pair]) -> list[list[NDArray[np.float64]]]:
    """The samples of both arms, by block."""
    return [[np.asarray(r.timing.samples_ns) for r in (p.base, p.head) if r and r.timing] for p in pairs]


def _root_mean(variances: Sequence[float]) -> float:
    return math.sqrt(float(np.mean(variances))) if variances else 0.0
