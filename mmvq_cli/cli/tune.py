"""`mmvq tune`: which kernel is fastest here."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mmvq_cli.cli.options import (
    MEASURE,
    OUTPUT,
    DeviceIndex,
    DtypeNames,
    Formats,
    Layers,
    ListOnly,
    OptionalModel,
    Pattern,
    PresetName,
    Quiet,
    ResultsFolder,
    SuiteName,
    Tensors,
    Tokens,
    TopK,
    choose_suite,
    given_axes,
)
from mmvq_cli.cli.tables import Row, print_rows, require_format

if TYPE_CHECKING:
    from mmvq_cli.op import Device, Preference
    from mmvq_cli.record import Record
    from mmvq_cli.suite import Case
    from mmvq_cli.tuning import Measured


def tune(
    model: OptionalModel = None,
    preset: PresetName = None,
    suite: SuiteName = None,
    pattern: Pattern = None,
    layers: Layers = None,
    tensors: Tensors = None,
    tokens: Tokens = None,
    top_k: TopK = None,
    dtype: DtypeNames = None,
    formats: Formats = None,
    device: DeviceIndex = 0,
    samples: Annotated[int, typer.Option(min=1, help="Most samples per kernel.", rich_help_panel=MEASURE)] = 30,
    output: Annotated[
        str, typer.Option("-o", "--output", help="Print table, md or json.", rich_help_panel=OUTPUT)
    ] = "table",
    results: ResultsFolder = Path("results"),
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Go on with the newest run of `tune` in --results.", rich_help_panel=OUTPUT),
    ] = False,
    list_only: ListOnly = False,
    quiet: Quiet = False,
) -> None:
    """Time every kernel that could run each problem on this GPU, and keep which is fastest for `--prefer tuned`.

    [bold]Examples[/bold]

    mmvq tune model.gguf

    mmvq tune --preset qwen3-30b-a3b --tokens 1,2,4..64 --dtype f16,bf16

    mmvq bench model.gguf --prefer tuned

    A kernel is checked before it is timed, and only a right one is kept.
    Problems of the same sizes are tuned once.
    What is kept serves up to twice or half as many tokens, until the kernels change.
    """
    from mmvq_cli.cli.execute import print_cases
    from mmvq_cli.cli.progress import ProgressObserver, note
    from mmvq_cli.engine.cuda import current_device
    from mmvq_cli.errors import NothingMatched
    from mmvq_cli.runner import run_suite
    from mmvq_cli.session import RunSettings, resolve_engine, sampling_for
    from mmvq_cli.suite import Suite
    from mmvq_cli.tuning import add_measured

    require_format(output)
    given = given_axes(layers=layers, tensors=tensors, tokens=tokens, top_k=top_k, dtype=dtype)
    chosen = choose_suite(model, preset, suite, formats, given).matching(pattern)
    engine, _ = resolve_engine("cuda")
    gpu = current_device(device)
    problems = list(_problems(chosen.cases, gpu))
    if not problems:
        raise NothingMatched("no problem has a choice of kernels", "`mmvq plan` shows the kernel of each")
    cases = tuple(case for problem in problems for case in problem.cases.values())
    wanted = Suite(f"tune-{chosen.name}", "every kernel that could run a problem", cases)
    if list_only:
        print_cases(wanted)
        return
    settings = RunSettings(engine=engine, device_index=device, sampling=sampling_for(engine, samples))
    with ProgressObserver(len(cases), quiet) as observer:
        result = run_suite(wanted, settings, results, observer, resume=resume)
    records = iter(result.records)  # in the order of the cases
    measured = [problem.measured({preference: next(records) for preference in problem.cases}) for problem in problems]
    rows = [_row(problem, outcome) for problem, outcome in zip(problems, measured, strict=True)]
    print_rows(rows, output)
    note(f"records: {result.path}", quiet)
    if result.problems:
        note("nothing is kept: the times are not valid", quiet)
    else:
        path = add_measured(gpu, measured)
        note(f"kept in {path}; `--prefer tuned` takes it", quiet)
    raise typer.Exit(result.exit_code)


@dataclass(frozen=True, slots=True)
class _Problem:
    """One problem with a case for each kernel that could run it, by preference; the rules' own comes first."""

    case: Case
    cases: dict[Preference, Case]

    def measured(self, records: dict[Preference, Record]) -> Measured:
        """Its entry of the file; without times where no kernel was timed."""
        from mmvq_cli.op.tuning import Family
        from mmvq_cli.tuning import Measured, fastest

        preference, times = fastest(records)
        run_id = next(iter(records.values())).ids.run_id
        return Measured(
            family=Family.of(self.case.descriptor),
            m_tokens=self.case.n_tokens,
            preference=preference,
            run_id=run_id,
            gpu_ns=times,
        )


def _problems(cases: Iterable[Case], device: Device) -> Iterator[_Problem]:
    """Those that differ, with a choice of kernels; equal launches are timed once."""
    from mmvq_cli.errors import InvalidProblem, Unsupported
    from mmvq_cli.op import Plan
    from mmvq_cli.op.tuning import Family
    from mmvq_cli.tuning import CANDIDATES

    seen = set()
    for case in cases:
        with suppress(InvalidProblem, Unsupported):
            d = case.descriptor
            problem = (Family.of(d), d.m_tokens)
            if problem in seen:
                continue
            seen.add(problem)
            first: dict[object, Preference] = {}
            for preference in CANDIDATES:
                first.setdefault(Plan.select(d, device, preference).launches, preference)
            if len(first) > 1:
                yield _Problem(case, {wanted: replace(case, preference=wanted) for wanted in first.values()})


def _row(problem: _Problem, measured: Measured) -> Row:
    """Times in us; `-` where a kernel was not right or not timed, `=` where it is that of an earlier column."""
    from mmvq_cli.tuning import CANDIDATES

    row: Row = {"problem": problem.case.id}
    for preference in CANDIDATES:
        time_ns = measured.gpu_ns.get(preference)
        missing = "-" if preference in problem.cases else "="
        row[f"{preference} µs"] = f"{time_ns / 1e3:.1f}" if time_ns else missing
    return row | {"takes": str(measured.preference)}
