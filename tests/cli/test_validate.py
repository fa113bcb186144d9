"""`mmvq validate` as a user calls it: outputs, exit codes, options."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mmvq_cli.cli.app import run

DATA = Path(__file__).parents[1] / "data"
QWEN = DATA / "models" / "qwen3moe-Q4_K_M.gguf"
TRAILING = DATA / "hostile" / "49_trailing_1MB.gguf"


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ([QWEN], 0),
        ([TRAILING], 0),
        ([TRAILING, "--fail-on", "warning"], 3),
        ([DATA / "hostile" / "03_bad_magic.gguf"], 3),
        ([DATA / "hostile" / "03_bad_magic.gguf", "--checks", "blocks"], 3),
        ([DATA / "models" / "format-zoo.gguf"], 3),
        ([DATA / "models" / "format-zoo.gguf", "--skip", "moe"], 0),
        ([DATA / "none.gguf"], 4),
        ([DATA], 4),
        ([], 2),
        ([QWEN, "--checks", "nothing"], 2),
        ([QWEN, "--fail-on", "info"], 2),
        ([QWEN, "-o", "yaml"], 2),
        (["--explain", "nothing"], 2),
        (["--list-checks"], 0),
        (["--explain", "blocks.dead-expert"], 0),
    ],
)
def test_exit_codes(capsys, arguments, code):
    assert run(["validate", *map(str, arguments)]) == code
    assert bool(capsys.readouterr().err) == (code in (2, 4) or "blocks" in arguments)


def test_the_table(capsys):
    run(["validate", str(QWEN)])
    lines = capsys.readouterr().out.splitlines()
    assert lines[1] == "0 errors, 0 warnings, 0 info in 27 tensors (6 of experts)"
    assert lines[2].startswith("12,288 blocks in 1.8 MiB")
    assert "not checked" in lines


def test_json(capsys):
    run(["validate", str(TRAILING), "-o", "json"])
    document = json.loads(capsys.readouterr().out)
    assert document["counts"]["warning"] == 1


def test_all_checks_are_listed_and_one_explained(capsys):
    run(["validate", "--list-checks"])
    assert any(line.split() == ["blocks.dead-expert", "error"] for line in capsys.readouterr().out.splitlines())
    run(["validate", "--explain", "blocks.dead-expert"])
    assert "zero" in capsys.readouterr().out


def test_manifest_round_trip(capsys, tmp_path):
    manifest = str(tmp_path / "m.json")
    assert run(["validate", str(QWEN), "--checks", "structure", "--write-manifest", manifest]) == 0
    assert run(["validate", str(QWEN), "--checks", "structure", "--manifest", manifest]) == 0
    other = str(DATA / "models" / "llama-Q3_K_M.gguf")
    assert run(["validate", other, "--checks", "structure", "--manifest", manifest]) == 3
    assert "manifest.missing" in capsys.readouterr().out
