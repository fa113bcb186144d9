"""`mmvq check`: correctness only."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from mmvq_cli.cli.options import (
    SELECT,
    Accumulation,
    DeviceIndex,
    DtypeNames,
    EngineName,
    Exports,
    Layers,
    ListOnly,
    OptionalModel,
    OutputFormat,
    Pattern,
    PreferenceName,
    PresetName,
    Quiet,
    ResultsFolder,
    Routing,
    Seed,
    SuiteName,
    Tensors,
    Tokens,
    TopK,
    choose_suite,
    given_axes,
)


def check(
    model: OptionalModel = None,
    preset: PresetName = None,
    suite: SuiteName = None,
    matrix: Annotated[
        str | None,
        typer.Option(
            help="Without a model: quick (default), full (sizes of released models, for a GPU) or sanitizer "
            "(some 300 tiny cases).",
            rich_help_panel=SELECT,
            show_default=False,
        ),
    ] = None,
    formats: Annotated[
        str | None,
        typer.Option(
            help="Weight formats of the matrix or of --preset, e.g. Q4_K,Q6_K.",
            rich_help_panel=SELECT,
            show_default=False,
        ),
    ] = None,
    dtype: DtypeNames = None,
    pattern: Pattern = None,
    layers: Layers = None,
    tensors: Tensors = None,
    tokens: Tokens = None,
    top_k: TopK = None,
    routing: Routing = None,
    seed: Seed = None,
    engine: EngineName = "auto",
    device: DeviceIndex = 0,
    prefer: PreferenceName = None,
    accumulate: Accumulation = None,
    output: OutputFormat = "table",
    exports: Exports = None,
    results: ResultsFolder = Path("results"),
    list_only: ListOnly = False,
    quiet: Quiet = False,
) -> None:
    """Check the batched expert kernels against a float64 product: every format x dtype x edge, or a model's tensors.

    [bold]Examples[/bold]

    mmvq check

    mmvq check --formats Q4_K,MXFP4 --dtype f16 -k nonfinite

    mmvq check --matrix full --engine cuda

    mmvq check model.gguf --tokens 1,8

    mmvq check --matrix full --engine cuda --prefer reference

    The matrix has all three dtypes and its own sizes, routings and seeds. Nothing is timed.
    """
    from mmvq_cli.cli.execute import OutputChoice, announce_engine, execute, print_cases
    from mmvq_cli.session import RunSettings

    choice = OutputChoice(format=output, exports=tuple(exports or ()), folder=results, quiet=quiet)
    choice.validate()
    axes: dict[str, Any] = {
        "layers": layers,
        "tensors": tensors,
        "tokens": tokens,
        "top_k": top_k,
        "routing": routing,
        "seed": seed,
        "accumulate": accumulate,
    }
    if model is None and preset is None and suite is None:
        chosen = _matrix(matrix or "quick", formats, dtype, prefer, axes)
    else:
        chosen = _sources(model, preset, suite, matrix, formats, given_axes(dtype=dtype, prefer=prefer, **axes))
    chosen = chosen.matching(pattern)
    if list_only:
        print_cases(chosen)
        return
    settings = RunSettings(engine=announce_engine(engine, quiet), device_index=device, timed=False)
    execute(chosen, settings, choice)


def _matrix(matrix: str, formats: str | None, dtype: str | None, prefer: str | None, axes: dict[str, Any]) -> Any:
    """The matrix's suite.

    Raises `UsageError` for options that only tensors have.
    """
    from mmvq_cli.edges import matrix_suite
    from mmvq_cli.errors import UsageError
    from mmvq_cli.op import Dtype

    given = [name for name, value in axes.items() if value is not None]
    if given:
        raise UsageError(
            f"--{given[0].replace('_', '-')} needs a MODEL, --preset or --suite",
            "the matrix has its own axes; choose from it with --formats, --dtype, --prefer and -k",
        )
    chosen_axes = given_axes(dtype=dtype, prefer=prefer)
    names = tuple(name.strip() for name in formats.split(",")) if formats else ()
    return matrix_suite(matrix, names, chosen_axes.get("dtypes", tuple(Dtype)), chosen_axes.get("preference"))


def _sources(
    model: Path | None,
    preset: str | None,
    suite: str | None,
    matrix: str | None,
    formats: str | None,
    given: dict[str, Any],
) -> Any:
    from mmvq_cli.errors import UsageError

    if matrix is not None:
        raise UsageError("--matrix is given with a MODEL, --preset or --suite", "check one or the other")
    return choose_suite(model, preset, suite, formats, given)
