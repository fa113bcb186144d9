"""`mmvq check` on the CPU engine: the matrix, a model, selection and refusals."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mmvq_cli.cli.app import run
from mmvq_cli.errors import ExitCode

MODELS = Path(__file__).parents[1] / "data" / "models"


@pytest.fixture
def check(tmp_path, capsys):
    def invoke(*arguments):
        code = run(["check", "--engine", "cpu", "--results", str(tmp_path / "results"), *map(str, arguments)])
        return code, *capsys.readouterr()

    return invoke


def test_the_quick_matrix_passes_and_its_records_have_no_times(check, tmp_path):
    code, out, err = check("--formats", "Q4_K,mxfp4,F16", "--quiet", "--export", f"jsonl:{tmp_path / 'out.jsonl'}")
    assert code == ExitCode.OK, out
    assert err == ""
    records = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    (stored,) = (tmp_path / "results").glob("*-check-quick-*.jsonl")
    assert len(stored.read_text().splitlines()) == len(records)
    assert {r["axes"]["ggml_type"] for r in records} == {"Q4_K", "MXFP4", "F16"}
    assert {r["axes"]["dtype"] for r in records} == {"f32", "f16", "bf16"}
    assert all(r["correctness"]["status"] == "PASSED" and r["timing"] is None for r in records)
    assert "µs" not in out


def test_a_model_is_checked_like_it_is_benched(check):
    code, out, err = check(MODELS / "qwen3moe-Q4_K_M.gguf", "--tokens", "1,3", "--tensors", "down", "--dtype", "f32")
    assert code == ExitCode.OK
    assert "correct" in out
    assert "µs" not in out
    assert "4 passed · 0 wrong" in err


def test_list_prints_ids_and_runs_nothing(check, tmp_path):
    code, out, _ = check("--matrix", "sanitizer", "--formats", "Q5_0", "--list")
    assert code == ExitCode.OK
    assert len(out.splitlines()) == 11  # two and a crowd of each dtype, and narrow tiles of f16 and bf16
    assert all(line.startswith("check/Q5_0/") for line in out.splitlines())
    assert not (tmp_path / "results").exists()


def test_a_pattern_chooses(check):
    code, out, _ = check("-k", "nonfinite$", "--dtype", "f16", "--formats", "Q4_0", "--list")
    assert (code, out) == (ExitCode.OK, "check/Q4_0/f16-nonfinite\n")
    assert check("-k", "nothing-like-it")[0] == ExitCode.NOTHING_MATCHED


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--tokens", "4"], "--tokens needs a MODEL"),
        (["--top-k", "4"], "--top-k needs a MODEL"),
        (["--matrix", "slow"], "no matrix 'slow'"),
        (["--preset", "deepseek-v3", "--matrix", "quick"], "--matrix is given with"),
        (["--dtype", "f64"], "'f64' is not one of"),
        (["-o", "xml"], "-o 'xml'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_means_nothing_is_refused(check, arguments, words):
    code, _, err = check(*arguments)
    assert code == ExitCode.USAGE
    assert words in err
