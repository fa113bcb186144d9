"""Everything that only a GPU can tell, in one run: its tests, every matrix with every plan, memory errors.

    python -m scripts.check_gpu --results results

Jobs run side by side, those that time anything alone at the end; what each said is in a log of its own. The exit code
is 1 when one failed. Nothing here is a measurement: `mmvq bench --suite ...` is the next step, alone on the GPU.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from mmvq_cli.engine.discovery import cuda_available

DTYPES = ("f32", "f16", "bf16")
PREFERENCES = ("auto", "fastest")
MEMCHECK = ("--tool", "memcheck", "--target-processes", "all", "--error-exitcode", "9")


@dataclass(frozen=True, slots=True)
class Job:
    """One command; `is_alone`: it times something, so that nothing may run beside it."""

    name: str
    command: tuple[str, ...]
    is_alone: bool = False


def jobs(results: Path, sanitizer: str | None, preferences: Sequence[str] = PREFERENCES) -> list[Job]:
    """List what to run; without a `sanitizer` (the path of compute-sanitizer) memory errors are left out."""
    tests = ("-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "gpu")
    timed = "tests/gpu/test_measure.py"
    listed = [Job("tests", (*tests, "tests/gpu", f"--ignore={timed}"))]
    for preference in preferences:
        for dtype in DTYPES:
            folder = results / f"check-full-{dtype}{'' if preference == 'auto' else f'-{preference}'}"
            listed.append(_matrix("full", preference, dtype, folder))
        if sanitizer:
            job = _matrix("sanitizer", preference, None, results / "sanitizer")
            listed.append(Job(f"memcheck-{preference}", (sanitizer, *MEMCHECK, sys.executable, *job.command)))
    return [*listed, Job("timed-tests", (*tests, timed), is_alone=True)]


def _matrix(matrix: str, preference: str, dtype: str | None, folder: Path) -> Job:
    options = ("--matrix", matrix, "--engine", "cuda", "--prefer", preference, "--results", str(folder), "-q")
    chosen = ("--dtype", dtype) if dtype else ()
    return Job(f"{matrix}-{dtype}-{preference}", ("-m", "mmvq_cli", "check", *options, *chosen, "-o", "csv"))


def run(job: Job, logs: Path) -> bool:
    """Run it, its output into `<name>.log`; says on stderr how it ended, and whether well."""
    command = job.command if Path(job.command[0]).is_absolute() else (sys.executable, *job.command)
    begin = time.monotonic()
    with (logs / f"{job.name}.log").open("wb") as log:
        code = subprocess.run(command, stdout=log, stderr=subprocess.STDOUT, check=False).returncode
    print(f"{job.name}: {f'exit code {code}' if code else 'ok'}, {time.monotonic() - begin:.0f} s", file=sys.stderr)
    return code == 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run all jobs; 1 when one failed, 4 without a GPU, where tests would be skipped and count as good."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=Path("results"), help="folder for the matrices' records")
    parser.add_argument("--logs", type=Path, default=Path("build/check-gpu"))
    parser.add_argument(
        "--prefer", nargs="+", choices=PREFERENCES, default=PREFERENCES, help="plans; on sm_90 `auto` has all of both"
    )
    parser.add_argument("--processes", type=int, default=4, help="jobs at once")
    given = parser.parse_args(arguments)
    is_usable, reason = cuda_available()
    if not is_usable:
        print(
            f"error: nothing here can be checked: {reason}\nhint: `mmvq doctor` says what is missing", file=sys.stderr
        )
        return 4
    given.logs.mkdir(parents=True, exist_ok=True)
    sanitizer = shutil.which("compute-sanitizer")
    if sanitizer is None:
        print("compute-sanitizer is not on the PATH: memory errors are left out", file=sys.stderr)
    listed = jobs(given.results, sanitizer, given.prefer)
    with ThreadPoolExecutor(given.processes) as pool:
        ended = list(pool.map(lambda job: run(job, given.logs), [job for job in listed if not job.is_alone]))
    ended += [run(job, given.logs) for job in listed if job.is_alone]
    print(f"{sum(ended)} of {len(ended)} ended well; logs: {given.logs}", file=sys.stderr)
    return 0 if all(ended) else 1


if __name__ == "__main__":
    sys.exit(main())
