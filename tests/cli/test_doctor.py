"""`mmvq doctor`: both forms of the answer, and its exit code."""

from __future__ import annotations

import importlib
import json

import pytest
import typer
from typer.testing import CliRunner

from mmvq_cli.engine.discovery import Diagnosis, Finding, Level
from mmvq_cli.errors import EnvironmentInvalid, ExitCode

BROKEN = Diagnosis(
    (
        Finding("driver", Level.OK, "NVIDIA driver 550.54 (CUDA 12.4)"),
        Finding("CuPy", Level.PROBLEM, "CuPy is [not] installed", "pip install '.[cuda12]'"),
    ),
    "CuPy is not installed",
)
GOOD = Diagnosis((Finding("driver", Level.OK, "NVIDIA driver 580.95 (CUDA 13.0)"),), "")


def run(monkeypatch, diagnosis, *arguments):
    monkeypatch.setattr(doctor_module(), "diagnose", lambda: diagnosis)
    app = typer.Typer()
    app.command()(doctor_module().doctor)
    return CliRunner().invoke(app, arguments)


def doctor_module():
    # By its full name: the room's door may bind the function to the name of its module.
    return importlib.import_module("mmvq_cli.cli.doctor")


def test_the_table_shows_what_was_seen_and_how_to_mend_it(monkeypatch):
    result = run(monkeypatch, BROKEN)
    assert result.exit_code == 0
    for words in ("NVIDIA driver 550.54", "problem", "CuPy is [not] installed", "mend: pip install '.[cuda12]'"):
        assert words in result.output
    assert "engines: cpu yes, cuda no (CuPy is not installed)" in result.output


def test_json_holds_the_same(monkeypatch):
    answer = json.loads(run(monkeypatch, BROKEN, "-o", "json").stdout)
    assert (answer["cpu_engine"], answer["cuda_engine"], answer["cuda_problem"]) == (
        True,
        False,
        "CuPy is not installed",
    )
    assert answer["findings"][1] == {
        "name": "CuPy",
        "level": "problem",
        "seen": "CuPy is [not] installed",
        "mend": "pip install '.[cuda12]'",
    }


@pytest.mark.parametrize("engine", ["auto", "cpu"])
def test_an_engine_that_works_is_exit_0(monkeypatch, engine):
    assert run(monkeypatch, BROKEN, "--engine", engine).exit_code == 0
    assert run(monkeypatch, GOOD, "--engine", "cuda").exit_code == 0


def test_an_engine_that_was_asked_for_and_cannot_run_is_exit_4_after_the_findings(monkeypatch):
    result = run(monkeypatch, BROKEN, "--engine", "cuda")
    assert isinstance(result.exception, EnvironmentInvalid)
    assert result.exception.exit_code is ExitCode.ENVIRONMENT
    assert "mend: pip install" in result.output
