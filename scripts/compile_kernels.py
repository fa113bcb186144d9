"""Compile every kernel that a plan can pick, for named architectures, and print what each occupies. Needs no GPU.

Exit codes: 0 all compiled without spills, 3 a kernel spills more than its listed exception, 4 one does not compile.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from multiprocessing import get_context

from mmvq_cli.engine.cuda import nvrtc_version
from mmvq_cli.engine.cuda.variants import Compiled, Variant, all_variants, compile_variant
from mmvq_cli.errors import BuildError, ExitCode, MmvqError, worst

DEFAULT_ARCHITECTURES = ("sm_80", "sm_89", "sm_90", "sm_100", "sm_120")


def main(arguments: Sequence[str] | None = None) -> int:
    """Compile, print the table to standard output and progress to standard error; return the exit code."""
    options = parse(arguments)
    try:
        work = [(variant, architecture) for architecture in options.arch for variant in all_variants(architecture)]
        compiled, failures = split_outcomes(outcomes(work, options.jobs))
        print(RENDERERS[options.output](compiled))
    except MmvqError as error:
        print(f"error: {error.message}\nhint: {error.hint}", file=sys.stderr)
        return int(error.exit_code)
    for message, count in Counter(error.message for error in failures).items():
        print(f"error: {message}" + f" ({count} sources)" * (count > 1), file=sys.stderr)
    spilling = [row for row in compiled if row.spills_too_much]
    for row in spilling:
        print(f"error: {row.name} spills {row.spill_bytes} bytes on {row.architecture}", file=sys.stderr)
    waiting = [row for row in compiled if row.waits_for_products]
    for row in waiting:
        print(f"error: {row.name} waits for its products one by one on {row.architecture}", file=sys.stderr)
    print(f"{len(compiled)} compiled, {len(failures)} failed, {len(spilling)} spill", file=sys.stderr)
    return int(worst([*(error.exit_code for error in failures), *(ExitCode.WRONG for _ in (*spilling, *waiting))]))


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arch", nargs="+", default=DEFAULT_ARCHITECTURES, metavar="sm_XY", help="architectures")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="compile so many at once")
    parser.add_argument("-o", "--output", choices=sorted(RENDERERS), default="md", help="form of the table")
    return parser.parse_args(arguments)


def outcomes(work: Sequence[tuple[Variant, str]], jobs: int) -> Iterator[Compiled | BuildError]:
    """Compile in several processes; yield in the order of the work, and say how far it is."""
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        for number, outcome in enumerate(pool.map(attempt, work, chunksize=8), start=1):
            if number % 50 == 0 or number == len(work):
                print(f"{number} of {len(work)}", file=sys.stderr)
            yield outcome


def attempt(job: tuple[Variant, str]) -> Compiled | BuildError:
    """Compile one variant; a source that does not compile is an outcome."""
    try:
        return compile_variant(*job)
    except BuildError as error:
        return error


def split_outcomes(found: Iterable[Compiled | BuildError]) -> tuple[list[Compiled], list[BuildError]]:
    """Part what compiled from what did not."""
    compiled: list[Compiled] = []
    failures: list[BuildError] = []
    for outcome in found:
        if isinstance(outcome, Compiled):
            compiled.append(outcome)
        else:
            failures.append(outcome)
    return compiled, failures


def as_markdown(rows: Iterable[Compiled]) -> str:
    """One line per entry point."""
    lines = [
        f"NVRTC {nvrtc_version()}",
        "",
        "| source | kernel | arch | registers | shared bytes | local bytes | spill bytes | cubin bytes |",
        "|---|---|---|--:|--:|--:|--:|--:|",
    ]
    lines += [
        f"| {row.name} | {kernel.entry} | {row.architecture} | {kernel.registers} | {kernel.shared_bytes} "
        f"| {kernel.local_bytes} | {kernel.spill_bytes} | {row.cubin_bytes} |"
        for row in rows
        for kernel in row.kernels
    ]
    return "\n".join(lines)


def as_json(rows: Iterable[Compiled]) -> str:
    """All fields, one object per source and architecture."""
    return json.dumps({"nvrtc": nvrtc_version(), "compiled": [asdict(row) for row in rows]}, indent=1)


RENDERERS = {"md": as_markdown, "json": as_json}

if __name__ == "__main__":
    sys.exit(main())
