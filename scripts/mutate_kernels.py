"""Put faults into the kernels and see whether the tests on the host notice: the mutation score.

Each mutant is a copy of `kernels/` with one change (`kernel_mutants.py`): a seeded choice over all lines, and the named
ones of `kernel_mutants.toml`. For each the tests that can notice it run, the cheapest first, until one fails. A hang is
noticed too. Where a file serves every format, a few formats stand for all, so a survivor here might still fail in the
whole suite: the score is a lower bound. Survivors that nothing can notice stand in `kernel_mutants.toml` with the
reason. Writes `results/kernel-mutants.md`. Exit code 1 below the bar of 95 %, or when a listed equivalent was noticed.

    python -m scripts.mutate_kernels --seed 0 --count 210 --processes 2
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import multiprocessing
import os
import re
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmvq_cli.op.formats import FORMATS
from mmvq_cli.resources import KERNELS_VARIABLE, resource_root
from scripts.kernel_mutants import Mutant, choose, equivalents, format_at, named

ROOT = Path(__file__).resolve().parents[1]
RESULT = ROOT / "results" / "kernel-mutants.md"
BAR = 0.95
HANG_S = 20  # of one run on the host; the slowest takes 2 s
LIMIT_S = 900  # of one mutant

KILLED, TIMEOUT, SURVIVED, NOT_COMPILED = "killed", "timeout", "survived", "not compiled"
OUTCOMES = (KILLED, TIMEOUT, SURVIVED, NOT_COMPILED)

_PLANS = "tests/host_target/test_plans.py::"
_OTHER = "tests/host_target/test_other_kernels.py::"
_DECODERS = "tests/kernels/test_formats_host.py::"


def _products(*names: str) -> list[str]:
    return [f"{_PLANS}test_a_format_with_a_dtype[{name}]" for name in names]


def _decoding(*formats: str) -> list[str]:
    return [f"{_OTHER}test_dequantize[{name}]" for name in formats]


_SUMS = [f"{_PLANS}test_large_sums[{dtype}]" for dtype in ("f16", "f32", "bf16")]
_GROUPED = _products("F16-f16", "F32-f32", "Q8_0-bf16", "Q4_K-f16", "MXFP4-f32", "BF16-f32")
_RING = [f"{_PLANS}test_stages_of_the_ring_are_used_again", f"{_PLANS}test_shapes_that_the_cases_have_not"]
_STREAMED = [
    *_products("Q8_0-f16", "Q4_K-f32", "Q6_K-bf16", "Q2_K-f16", "TQ1_0-f32", "MXFP4-f16", "Q5_1-bf16", "IQ1_M-f32"),
    *_products("NVFP4-f16", "MXFP4-bf16", "IQ4_XS-f16", "Q4_0-f16"),
]
_LINES = [f"{_PLANS}test_rows_that_are_copied_by_lines[{name}]" for name in ("Q6_K", "Q4_K", "IQ1_S", "F32")]
_SIDE_BY_SIDE = f"{_PLANS}test_rows_and_activations_side_by_side"
_CROWDS = [
    *(f"{_PLANS}test_crowds[{name}]" for name in ("Q4_1", "Q5_K", "Q4_K", "Q2_K", "Q8_0", "F32", "F16", "Q6_K")),
    *(f"{_SIDE_BY_SIDE}[{case}]" for case in ("low-parts", "two-rows-together", "ends", "gaps")),
    *(
        f"{_PLANS}test_{name}"
        for name in ("columns_of_a_crowd_have_powers_of_their_own", "stages_of_crowds_are_used_again")
    ),
]
_PLAIN = _products("F16-f16", "F32-f32", "BF16-f32", "F16-bf16")
_DIGITS = _products(
    "Q8_0-f16", "Q6_K-bf16", "IQ4_XS-f16", "Q4_0-f16", "Q5_1-bf16", "Q4_K-f16", "Q5_K-bf16", "MXFP4-bf16", "IQ2_XS-f16"
)
_FOLDED = _products(
    "Q4_K-f16", "Q3_K-f16", "IQ2_XXS-bf16", "Q5_K-f16", "NVFP4-f16", "Q2_K-f32", "IQ1_S-f16", "TQ2_0-f16"
)
_CODEBOOK = _products("IQ2_XXS-bf16", "IQ1_S-f16")
_CODES = _decoding("Q4_0", "Q5_1", "Q2_K", "MXFP4", "IQ2_XXS", "IQ4_XS", "TQ1_0", "F32", "F16")
_HELPERS = [f"{_OTHER}test_{name}" for name in ("canary", "fill", "validate_routing")]
_BITS = [f"tests/host_target/test_bits.py::test_the_bits_are_the_committed_ones[{name}]" for name in ("fill-Q4_K",)]
_ATOMIC = [f"{_PLANS}test_sums_by_atomics_are_complete_whatever_interrupts"]
_BROKEN = [f"{_PLANS}test_a_routing_that_breaks_the_contract_reaches_nothing_outside"]
_BEYOND = [f"{_PLANS}test_sums_beyond_the_largest_float_are_infinite"]
_INFINITE = [f"{_PLANS}test_an_infinite_weight_is_seen_in_its_rows_and_in_no_other"]
_ORACLE = [f"{_OTHER}test_oracle"]
_TARGET = ["tests/host_target/test_target.py", "tests/host_target/test_pipeline.py"]

# The tests that can notice a change of a file, the cheapest first; a file of formats has those of its formats.
TESTS = {
    "activation.cuh": [*_GROUPED, *_SUMS, *_ORACLE, *_STREAMED],
    "canary.cu": _HELPERS[:1],
    "combine.cu": [*_products("F16-f16", "F32-f32"), *_BROKEN, *_SUMS],
    "dequantize.cu": _CODES,
    "fill.cu": [*_HELPERS[1:2], *_BITS],
    "format.cuh": [*_CODES, *_GROUPED[:3], *_STREAMED[:2]],
    "formats/choices.cuh": _products("IQ2_XXS-f16", "IQ3_S-bf16", "IQ1_S-f16", "IQ2_S-f16"),
    "formats/fold.cuh": _FOLDED,
    "formats/unpack.cuh": [*_CODES, *_decoding(*FORMATS), *_products("Q4_K-f16"), *_STREAMED],
    "grouped.cu": [*_GROUPED, *_SUMS],
    "mma.cuh": _STREAMED,
    "octets.cuh": [*_GROUPED, *_STREAMED],
    "oracle.cu": _ORACLE,
    "output.cuh": [*_GROUPED[:3], *_SUMS],
    "problem.cuh": [*_GROUPED, *_SUMS],
    "ptx/bits.cuh": [*_HELPERS, *_CODES, *_GROUPED[:3], *_STREAMED],
    "ptx/copies.cuh": [*_TARGET, *_STREAMED[:4], *_LINES],
    "ptx/floats.cuh": [*_CODES, *_GROUPED[:3], *_ATOMIC, *_SUMS, *_ORACLE, *_STREAMED],
    "ptx/language.cuh": _CODES,
    "ptx/memory.cuh": [*_HELPERS, *_CODES, *_GROUPED[:3]],
    "ptx/tensor_cores.cuh": [*_TARGET, *_STREAMED],
    "ptx/warpgroup.cuh": _CROWDS,
    "ptx/threads.cuh": [*_HELPERS, *_GROUPED[:3], *_ATOMIC, *_TARGET, *_SUMS, *_ORACLE, *_STREAMED[:4]],
    "scan.cu": ["tests/host_target/test_scan.py"],
    "wide.cu": _CROWDS,
    "wide/chunk.cuh": _CROWDS,
    "wide/columns.cuh": _CROWDS,
    "stream/box.cuh": [*_products("Q4_K-f16"), *_RING],
    "stream.cu": [*_STREAMED[:2], *_RING, *_STREAMED[2:], *_PLAIN[:2], *_CODEBOOK, *_BEYOND],
    "stream/activations.cuh": [*_STREAMED, *_RING, *_PLAIN[:2], *_DIGITS[-4:]],
    "stream/chunk.cuh": [*_STREAMED, *_RING, *_PLAIN[:1]],
    "stream/copy.cuh": [*_STREAMED[:4], *_LINES, *_RING, *_STREAMED[4:]],
    "stream/floats.cuh": [*_PLAIN, *_RING[1:], *_INFINITE],
    "stream/halves.cuh": _STREAMED,
    "stream/integers.cuh": _DIGITS,
    "stream/mins.cuh": _products("Q4_K-f16", "Q2_K-f16", "Q5_K-bf16"),
    "stream/plain.cuh": [*_PLAIN, *_RING, *_INFINITE],
    "stream/share.cuh": [*_STREAMED[:2], *_RING, *_STREAMED[2:], *_PLAIN[:2], *_CODEBOOK],
    "stream/unit.cuh": [*_STREAMED[:4], *_RING, *_STREAMED[4:]],
    "tiles.cuh": [*_ORACLE, *_GROUPED, *_SUMS],
    "validate.cu": _HELPERS[2:],
}


def tests_of(mutant: Mutant, text: str) -> list[str]:
    """Name the tests that can notice a mutant of a file whose text is `text`."""
    if mutant.file in TESTS:
        return TESTS[mutant.file]
    family = Path(mutant.file).stem
    nearest = format_at(text, mutant.offset)
    names = [f.name for f in sorted(FORMATS.values(), key=lambda f: f.id != nearest) if f.family == family]
    first = names[0]
    products = _products(f"{first}-f32", *(f"{name}-f16" for name in names))
    if family == "plain":
        special = [f"{_DECODERS}test_plain_rows_of_any_length"]
    else:
        kinds = ("test_matches_gguf_on_random_bytes", "test_matches_gguf_with_tiny_and_special_scales")
        special = [f"{_DECODERS}{kind}[{first}]" for kind in kinds]
    return [*_decoding(*names), *special, *products]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a mutant; `by` is the test that noticed it."""

    mutant: Mutant
    result: str
    by: str = ""


class _Failures:
    """A pytest plugin that keeps the first failure."""

    def __init__(self) -> None:
        self.test, self.text = "", ""

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.failed and not self.test:
            self.test, self.text = report.nodeid, str(report.longrepr)


def run_tests(tests: Sequence[str], kernels: Path, build: Path) -> tuple[str, str]:
    """Run tests on a folder of kernels in this process, up to the first failure: the outcome and that test's name."""
    driver: Any = importlib.import_module("tests.host_target.driver")
    pytest: Any = importlib.import_module("pytest")
    driver.BUILD, driver.TIMEOUT_S = build, HANG_S
    os.environ[KERNELS_VARIABLE] = str(kernels)
    failures = _Failures()
    with contextlib.redirect_stdout(io.StringIO()) as said, contextlib.redirect_stderr(said):
        code = pytest.main(["-x", "-q", "-p", "no:cacheprovider", f"--rootdir={ROOT}", *tests], plugins=[failures])
    if code == 0:
        return SURVIVED, ""
    if code != 1:
        raise RuntimeError(f"pytest ends with {code}: {said.getvalue()}")
    if "CompileError" in failures.text:
        return NOT_COMPILED, failures.test
    return TIMEOUT if any(word in failures.text for word in ("out of time", "TimeoutError")) else KILLED, failures.test


def _late(signum: int, frame: object) -> None:
    raise TimeoutError


def try_mutant(job: tuple[Mutant, Path, Path]) -> Outcome:
    """Run one mutant of the kernels in the first folder, compiled into the second."""
    mutant, original, build = job
    with tempfile.TemporaryDirectory() as folder:
        kernels = Path(folder) / "kernels"
        shutil.copytree(original, kernels)
        path = kernels / mutant.file
        text = path.read_text(encoding="utf-8")
        path.write_text(mutant.apply(text), encoding="utf-8")
        signal.signal(signal.SIGALRM, _late)
        signal.alarm(LIMIT_S)
        try:
            return Outcome(mutant, *run_tests(tests_of(mutant, text), kernels, build))
        except TimeoutError:
            return Outcome(mutant, TIMEOUT, f"{LIMIT_S} s")
        finally:
            signal.alarm(0)


def try_all(mutants: Sequence[Mutant], original: Path, processes: int) -> list[Outcome]:
    """Run every mutant in a process of its own, after the tests have passed without one; print each outcome.

    Raises `RuntimeError` when a test fails on the kernels as they are.
    """
    driver: Any = importlib.import_module("tests.host_target.driver")
    for module in ("pytest", "tests.host_target.test_plans", "tests.host_target.test_other_kernels"):
        importlib.import_module(module)  # once, before the processes are forked
    driver.runner()
    texts = {mutant.file: (original / mutant.file).read_text(encoding="utf-8") for mutant in mutants}
    needed = sorted({test for mutant in mutants for test in tests_of(mutant, texts[mutant.file])})
    with tempfile.TemporaryDirectory() as folder:
        build = Path(folder)
        pool = multiprocessing.get_context("fork").Pool(processes, maxtasksperchild=1)
        with pool:
            chunks = [needed[i::processes] for i in range(processes)]
            for result, by in pool.starmap(run_tests, [(chunk, original, build) for chunk in chunks if chunk]):
                if result != SURVIVED:
                    raise RuntimeError(f"{by} fails on the kernels as they are")
            outcomes = []
            for outcome in pool.imap(try_mutant, [(mutant, original, build) for mutant in mutants], chunksize=1):
                outcomes.append(outcome)
                _say(f"{len(outcomes)}/{len(mutants)} {outcome.result}: {describe(outcome.mutant)} {outcome.by}")
    return outcomes


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def describe(mutant: Mutant) -> str:
    """File, line, class or name, and what is changed."""
    return f"{mutant.file}:{mutant.line} {mutant.kind}: `{mutant.before}` -> `{mutant.after}`"


@dataclass(frozen=True, slots=True)
class Score:
    """The counts of a run: survivors are those that no listed equivalent excuses; `reasons` are the excuses' texts."""

    outcomes: tuple[Outcome, ...]
    survivors: tuple[Mutant, ...]
    excused: tuple[tuple[Mutant, str], ...]
    wrong_excuses: tuple[Mutant, ...]

    @property
    def share(self) -> float:
        """Killed of killed and survived."""
        killed = sum(outcome.result in (KILLED, TIMEOUT) for outcome in self.outcomes)
        return killed / max(1, killed + len(self.survivors))


def score(outcomes: Iterable[Outcome]) -> Score:
    """Count, and look survivors up in the list of equivalents."""
    outcomes = tuple(outcomes)
    reasons = {(row.file, row.before, row.after): row.why for row in equivalents()}
    survivors, excused, wrong = [], [], []
    for outcome in outcomes:
        mutant = outcome.mutant
        why = reasons.get((mutant.file, mutant.before, mutant.after))
        if outcome.result == SURVIVED:
            if why:
                excused.append((mutant, why))
            else:
                survivors.append(mutant)
        elif why and outcome.result != NOT_COMPILED:
            wrong.append(mutant)
    return Score(outcomes, tuple(survivors), tuple(excused), tuple(wrong))


def report(found: Score, command: str) -> str:
    """Write the page of results, in Markdown; nothing in it depends on the machine."""
    total = Counter(outcome.result for outcome in found.outcomes)
    counted = [outcome for outcome in found.outcomes if outcome.result != NOT_COMPILED]
    n_named = sum(_class_of(outcome.mutant) == "named" for outcome in counted)
    lines = [
        "# Mutants of the kernels",
        "",
        f"`{command}`",
        "",
        f"{len(counted)} mutants compile ({n_named} of them named): {total[KILLED]} killed, {total[TIMEOUT]} hung "
        f"(a kill), {total[SURVIVED]} survived, {len(found.excused)} of these equivalent. "
        f"{total[NOT_COMPILED]} more did not compile and do not count.",
        "",
        f"**Score {100 * found.share:.1f} %** = killed / (killed + survived - equivalent).",
        "",
    ]
    for title, key in (("file", _file_of), ("class", _class_of)):
        lines += [f"| {title} | killed | hung | survived | equivalent | not compiled |", "|---|--:|--:|--:|--:|--:|"]
        for group in sorted({key(outcome.mutant) for outcome in found.outcomes}):
            count = Counter(outcome.result for outcome in found.outcomes if key(outcome.mutant) == group)
            same = sum(key(mutant) == group for mutant, _ in found.excused)
            numbers = (count[KILLED], count[TIMEOUT], count[SURVIVED] - same, same, count[NOT_COMPILED])
            lines.append(f"| {group} | " + " | ".join(map(str, numbers)) + " |")
        lines.append("")
    lines += ["## Survivors", ""]
    lines += [f"- {describe(mutant)}" for mutant in found.survivors] or ["None."]
    lines += ["", "## Survivors that count as equivalent", ""]
    lines += [f"- {describe(mutant)}: {why}" for mutant, why in found.excused] or ["None."]
    return "\n".join(lines) + "\n"


def _file_of(mutant: Mutant) -> str:
    return mutant.file


def _class_of(mutant: Mutant) -> str:
    return mutant.kind if mutant.kind in _KINDS else "named"


_KINDS = ("barrier", "bound", "condition", "constant", "dropped", "index", "mask", "min/max", "operator", "shift")


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--count", type=int, default=210, help="generated mutants, besides the named ones")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--only", default="", help="only files that this expression finds; writes no results")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the mutants, write the results, print the score; return the exit code."""
    options = parse(arguments)
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        original = Path(folder) / "kernels"
        shutil.copytree(resource_root("kernels"), original)
        sources = {
            str(path.relative_to(original)): path.read_text(encoding="utf-8") for path in original.rglob("*.cu*")
        }
        mutants = [
            mutant
            for mutant in [*named(sources), *choose(sources, options.seed, options.count)]
            if re.search(options.only, mutant.file)
        ]
        found = score(try_all(mutants, original, options.processes))
    page = report(found, f"python -m scripts.mutate_kernels --seed {options.seed} --count {options.count}")
    if not options.only:
        RESULT.write_text(page, encoding="utf-8")
    print(page)
    for mutant in found.wrong_excuses:
        _say(f"error: listed as equivalent, but noticed: {describe(mutant)}")
    _say(f"{time.monotonic() - started:.0f} s")
    return int(found.share < BAR or bool(found.wrong_excuses))


if __name__ == "__main__":
    sys.exit(main())
