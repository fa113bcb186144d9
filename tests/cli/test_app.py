"""The program: help, version, errors in words, exit codes."""

import subprocess
import sys
import time

import pytest

from mmvq_cli import __version__
from mmvq_cli.cli.app import COMMANDS, EXIT_CODES, run
from mmvq_cli.errors import ExitCode, UsageError

app_module = sys.modules["mmvq_cli.cli.app"]  # the room's door exports the function of that name


def process(*arguments, **options):
    command = [sys.executable, "-m", "mmvq_cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, **options)


def words(text):
    """The text without line breaks and the borders of panels."""
    return " ".join(text.replace("│", " ").split())


def test_help_starts_with_examples_lists_all_and_ends_with_the_exit_codes(capsys):
    assert run(["--help"]) == 0
    text = capsys.readouterr().out
    assert "\\b" not in text
    assert "\n    mmvq bench model.gguf --tokens 1,8,64" in text  # one example a line
    assert text.index("Examples:") < text.index("Options:") < text.index("Commands:")
    assert all(f"\n  {name} " in text for name in COMMANDS)
    assert words(text).endswith(words(EXIT_CODES))


def test_no_arguments_and_h_are_help(capsys):
    assert run([]) == run(["-h"]) == 0
    first, second = capsys.readouterr().out.split("Usage: mmvq")[1:]
    assert first == second


@pytest.mark.parametrize("command", COMMANDS)
def test_every_commands_help_starts_with_examples_and_ends_with_the_exit_codes(command, capsys):
    assert run([command, "--help"]) == 0
    text = words(capsys.readouterr().out)
    assert f"Usage: mmvq {command}" in text
    assert f"mmvq {command}" in text.split("Examples")[1]
    assert text.index("Examples") < text.index("Options")
    assert text.endswith(words(EXIT_CODES))


def test_the_exit_codes_of_the_help_are_those_of_the_program():
    assert all(f"{code.value} " in EXIT_CODES for code in ExitCode)


def test_version(capsys):
    assert run(["--version"]) == 0
    assert capsys.readouterr().out == f"mmvq {__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["bogus"], "No such command 'bogus'"),
        (["bench", "--bogus"], "No such option: --bogus"),
        (["list"], "Missing argument"),
        (["list", "things"], "'things' is not one of"),
        (["bench", "--samples", "0"], "--samples"),
        (["bench", "--engine", "gpu"], "--engine is 'gpu'"),
        (["bench", "--tokens", "8..1"], "runs backwards"),
        (["bench", "--dtype", "f64"], "'f64' is not one of"),
        (["bench", "--tensors", "router"], "'router' is not one of"),
        (["bench", "--routing", "zipf"], "zipf"),
        (["bench", "--accumulate", "fast"], "--accumulate 'fast'"),
        (["bench", "--prefer", "best"], "--prefer 'best'"),
        (["bench", "--layers", "x"], "--layers 'x'"),
        (["bench", "--suite", "none"], "no suite 'none'"),
        (["bench", "--preset", "none"], "none"),
        (["bench", "--formats", "Q4_K"], "--formats needs --preset"),
        (["bench", "x.gguf", "--preset", "mixtral-8x7b"], "MODEL and --preset are given together"),
        (["bench", "-o", "xml"], "-o 'xml'"),
        (["bench", "--export", "xml:x"], "xml"),
        (["bench", "-k", "("], "not a regular expression"),
        (["plan", "--device", "H2000"], "no device is called 'H2000'"),
        (["plan", "-o", "csv"], "-o 'csv'"),
    ],
)
def test_a_wrong_option_is_an_error_a_hint_and_exit_code_2(arguments, message, capsys):
    assert run(arguments) == 2
    out, err = capsys.readouterr()
    first, *_, last = err.splitlines()
    assert first.startswith("error: ")
    assert message in err
    assert last.startswith("hint: ")
    assert out == ""


def test_a_bug_of_ours_is_no_traceback_unless_asked_for(monkeypatch, capsys):
    def broken(**_):
        raise ZeroDivisionError("oops")

    monkeypatch.setattr(app_module, "app", broken)
    monkeypatch.delenv("MMVQ_DEBUG", raising=False)
    assert run(["bench"]) == 4
    err = capsys.readouterr().err
    assert "internal error at test_app.py" in err
    assert "MMVQ_DEBUG=1" in err
    assert "Traceback" not in err
    monkeypatch.setenv("MMVQ_DEBUG", "1")
    with pytest.raises(ZeroDivisionError):
        run(["bench"])


@pytest.mark.parametrize(
    ("error", "code", "printed"),
    [
        (UsageError("bad", "do so"), 2, "error: bad\nhint: do so\n"),
        (UsageError("bad"), 2, "error: bad\n"),
        (KeyboardInterrupt(), 130, "error: interrupted\n"),
    ],
)
def test_errors_become_messages_and_codes(monkeypatch, capsys, error, code, printed):
    def fail(**_):
        raise error

    monkeypatch.setattr(app_module, "app", fail)
    assert run(["bench"]) == code
    assert capsys.readouterr().err == printed


def test_help_is_quick():
    best_s = 9.0
    for _ in range(3):
        start_s = time.perf_counter()
        assert process("--help").returncode == 0
        best_s = min(best_s, time.perf_counter() - start_s)
    assert best_s < 1.0


def test_a_closed_pipe_is_no_error():
    code = f"{sys.executable} -m mmvq_cli list formats; echo $? >&2"
    result = subprocess.run(["bash", "-c", f"( {code} ) | head -c 10"], capture_output=True, text=True, check=False)
    assert result.stderr == "0\n"
