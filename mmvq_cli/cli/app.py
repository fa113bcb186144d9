"""The `mmvq` program: its commands, and the one place where errors become messages and exit codes."""

from __future__ import annotations

import importlib
import os
import sys
import traceback
import warnings
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from mmvq_cli import __version__
from mmvq_cli.errors import ExitCode, MmvqError

EXIT_CODES = (
    "Exit codes: 0 good · 1 performance regression · 2 usage · 3 wrong result, or a model file with errors · "
    "4 cannot open, no such device, environment invalid · 5 inconclusive · 6 nothing matched · 130 interrupted"
)

# Command -> (module in this room, one line of help). A command's module is imported when the command runs, so that
# `mmvq --help` does not wait for what it does not need.
COMMANDS = {
    "bench": ("bench", "Check and time the kernels on a model's expert tensors, a preset or a suite."),
    "check": ("check", "Check correctness only: every format x dtype x edge case, or a model's tensors."),
    "inspect": ("inspect", "Show what a model holds: experts, formats, router, which tensors have kernels."),
    "validate": ("validate", "Check that a model file is sound, down to every block of every expert."),
    "report": ("report", "Write a run as one HTML page with charts, or in any other format."),
    "tune": ("tune", "Time every kernel that could run a problem here, and keep which is fastest."),
    "compare": ("compare", "Compare stored runs: ratio, interval and verdict for each row."),
    "gate": ("gate", "Judge a run by a baseline, or compiled kernels by earlier ones; exits with the verdict."),
    "baseline": ("baseline", "Save, list, show, remove or export named baselines."),
    "list": ("listing", "List formats, kernels, presets or suites."),
    "plan": ("plan", "Show which kernel would run and why, for any GPU, without having it."),
    "trace": ("trace", "Import, look at, make and export traces of expert routing."),
    "doctor": ("doctor", "Show what this machine can run, what is wrong, and how to mend it."),
}


class _LazyGroup(TyperGroup):
    """A command group that imports a command's module only to run it or to print its own help."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in COMMANDS:
            return None
        module, summary = COMMANDS[cmd_name]
        if ctx.meta.get("only listing"):
            return typer.core.TyperCommand(cmd_name, help=summary, short_help=summary)
        return _load(cmd_name, module)

    def format_help(self, ctx: Any, formatter: Any) -> None:
        ctx.meta["only listing"] = True
        super().format_help(ctx, formatter)


def _load(name: str, module: str) -> Any:
    """The command's function, or the group of its subcommands, is called like its module."""
    target = getattr(importlib.import_module(f"mmvq_cli.cli.{module}"), module)
    if isinstance(target, typer.Typer):
        group = typer.main.get_command(target)
        group.name = name
        return group
    single = typer.Typer(rich_markup_mode="rich", add_completion=False, pretty_exceptions_enable=False)
    single.command(name, epilog=EXIT_CODES)(target)
    command = typer.main.get_command(single)
    command.name = name
    return command


app = typer.Typer(
    cls=_LazyGroup,
    rich_markup_mode=None,  # rich's help costs 0.2 s of imports; the commands' own help has its panels
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog=EXIT_CODES,
)


_HELP = """Are batched expert mat-vec kernels right, and how fast are they against the limit of the hardware?

\b
Examples:
  mmvq bench                                    the smoke suite, on a tiny packaged model
  mmvq bench model.gguf --tokens 1,8,64         the expert tensors of your model
  mmvq bench --preset qwen3-30b-a3b -k gate     the shapes of a released model, without its file
  mmvq check model.gguf                         correctness only
  mmvq inspect model.gguf                       what is in it
  mmvq plan --device H200 --preset deepseek-v3  which kernel would run there, and why
"""


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"mmvq {__version__}")
        raise typer.Exit


@app.callback(help=_HELP)
def mmvq(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Read the options before the command."""


def main() -> None:
    """Run the program and exit."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Run with these arguments and return the exit code; every error and warning is printed here."""
    warnings.showwarning = _print_warning
    try:
        result: Any = app(args=arguments or ["--help"], prog_name="mmvq", standalone_mode=False)
        if result == ExitCode.INTERRUPTED:  # typer turns Ctrl-C into this code, without a word
            _print_error("interrupted", "")
        return int(result or ExitCode.OK)
    except MmvqError as error:
        _print_error(error.message, error.hint)
        return error.exit_code
    except typer.TyperException as error:  # a wrong option or argument
        context = getattr(error, "ctx", None)
        _print_error(error.format_message(), f"`{context.command_path} --help` lists the options" if context else "")
        return error.exit_code
    except (KeyboardInterrupt, typer.Abort):
        _print_error("interrupted", "")
        return ExitCode.INTERRUPTED
    except SystemExit as end:  # shell completion; and code 1 for a closed pipe (`mmvq list formats | head`)
        return ExitCode.OK if end.code == 1 else int(end.code or 0)
    except Exception as error:  # a bug of ours: no traceback for the user, all of it for whoever asks
        if os.environ.get("MMVQ_DEBUG"):
            raise
        where = traceback.extract_tb(error.__traceback__)[-1]
        _print_error(
            f"internal error at {Path(where.filename).name}:{where.lineno}: {type(error).__name__}: {error}",
            "please report it with the output of the same command under MMVQ_DEBUG=1",
        )
        return ExitCode.ENVIRONMENT


def _print_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    print(f"warning: {message}", file=sys.stderr)


def _print_error(message: str, hint: str) -> None:
    print(f"error: {message}", file=sys.stderr)
    if hint:
        print(f"hint: {hint}", file=sys.stderr)
