"""`mmvq bench` from file to table, on the CPU engine."""

import csv
import io
import json
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

from mmvq_cli import measure, runner, session
from mmvq_cli.cli.app import run
from mmvq_cli.engine import cpu
from mmvq_cli.measure import SamplingSettings
from mmvq_cli.record import read_records
from tests.test_run import FakeCanary
from tests.test_runner import HereWorker

DATA = Path(__file__).parents[1] / "data"
MODELS = DATA / "models"
QWEN = str(MODELS / "qwen3moe-Q4_K_M.gguf")
COMPLETE = sorted(path for path in MODELS.glob("*.gguf") if path.stem != "format-zoo")


@pytest.fixture(autouse=True)
def _quick(monkeypatch, tmp_path):
    """Short sampling; records in a folder of the test."""
    quick = partial(SamplingSettings, warmup_min_s=0.0, warmup_max_s=0.01, budget_s=0.05)
    monkeypatch.setattr(measure, "SamplingSettings", quick)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def here(monkeypatch):
    """Cases run in this process, on a machine with a tiny cache, without timing a whole memory first."""
    monkeypatch.setattr(session, "last_level_cache_bytes", lambda: 1 << 16)
    monkeypatch.setattr(
        runner, "Worker", type("FreshWorker", (HereWorker,), {"ran": [], "stop_before": "", "status": {}})
    )
    monkeypatch.setattr(session, "CpuCanary", FakeCanary)


def bench(*arguments):
    return run(["bench", *map(str, arguments), "--engine", "cpu", "--samples", "3", "--tokens", "1"])


def test_a_model_runs_in_a_real_worker(capfd):
    assert bench(QWEN, "-k", "blk.0") == 0
    out, err = capfd.readouterr()
    assert "ok" in out
    assert "3 passed · 0 wrong · 0 skipped" in err


@pytest.mark.parametrize("path", COMPLETE, ids=lambda path: path.stem)
def test_every_model_passes(here, path, tmp_path, capsys):
    assert bench(path, "-o", "jsonl") == 0
    out, err = capsys.readouterr()
    records = [json.loads(line) for line in out.splitlines()]
    assert records
    assert {record["correctness"]["status"] for record in records} == {"PASSED"}
    assert all(record["timing"]["gpu_ns"]["median"] > 0 for record in records)
    assert f"{len(records)} passed · 0 wrong · 0 skipped" in err
    (stored,) = (tmp_path / "results").glob("*.jsonl")
    assert stored.read_text() == out


def test_the_zoo_has_23_that_pass_and_one_without_a_kernel(here, capsys):
    assert bench(MODELS / "format-zoo.gguf", "-o", "csv") == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [row["status"] for row in rows].count("PASSED") == 23
    (other,) = (row for row in rows if row["status"] != "PASSED")
    assert (other["format"], other["status"]) == ("Q1_0", "UNSUPPORTED")
    assert "no dequantizer" in other["reason"]


def test_without_a_model_the_smoke_suite_runs(here, capsys):
    assert bench("-o", "json") == 0
    assert {row["axes"]["model"] for row in json.loads(capsys.readouterr().out)} == {"tiny-moe"}


@pytest.mark.parametrize("form", ["table", "md", "json", "jsonl", "csv"])
def test_stdout_has_only_data_in_the_wanted_form(here, capsys, form):
    assert bench(QWEN, "-o", form) == 0
    out, err = capsys.readouterr()
    if form == "csv":
        assert len(list(csv.DictReader(io.StringIO(out)))) == 4
    elif form == "json":
        assert len(json.loads(out)) == 4
    elif form == "jsonl":
        assert [json.loads(line)["schema"] for line in out.splitlines()] == ["mmvq.result/2"] * 4
    else:
        assert "Q6_K" in out
        assert all(len(line) <= 100 for line in out.splitlines()) or form == "md"
    assert "[1/4]" in err
    assert "4 passed" in err
    assert "4 passed" not in out


def test_quiet_says_nothing_beside_the_data(here, capsys):
    assert bench(QWEN, "-q", "-o", "csv") == 0
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("cache", ["cold", "cold-flush", "hot"])
def test_where_the_weights_come_from_is_a_choice(here, capsys, cache):
    assert bench(QWEN, "-k", "gate", "--cache", cache, "-o", "jsonl") == 0
    (record,) = map(json.loads, capsys.readouterr().out.splitlines())
    assert record["protocol"]["cache"] == cache
    assert (record["protocol"]["reuse_distance_x_l2"] >= 2) == cache.startswith("cold")


def test_exports_are_files_beside_the_output(here, capsys, tmp_path):
    assert bench(QWEN, "-k", "gate", "--export", "csv:a.csv", "--export", "md:b.md") == 0
    assert "wrote" in capsys.readouterr().err
    assert len(list(csv.DictReader((tmp_path / "a.csv").open()))) == 1
    assert "|" in (tmp_path / "b.md").read_text()


def test_records_go_to_the_folder_of_choice_and_resume_finishes_them(here, capsys, tmp_path):
    assert bench(QWEN, "--results", "mine", "--time-budget", "0", "-o", "csv") == 0
    assert {row["status"] for row in csv.DictReader(io.StringIO(capsys.readouterr().out))} == {"SKIPPED"}
    assert bench(QWEN, "--results", "mine", "--resume", "-o", "csv") == 0
    assert {row["status"] for row in csv.DictReader(io.StringIO(capsys.readouterr().out))} == {"PASSED"}
    (path,) = (tmp_path / "mine").glob("*.jsonl")
    assert len(list(read_records(path))) == 8
    assert not (tmp_path / "results").exists()


def test_a_broken_kernel_is_exit_code_3_and_no_time(here, capsys, monkeypatch):
    monkeypatch.setattr(cpu, "execute", lambda *_: None)
    assert bench(QWEN, "-k", "gate", "-o", "jsonl") == 3
    (record,) = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert record["correctness"]["status"] == "WRONG_RESULT"
    assert record["timing"] is None
    assert record["work"]["gbps_unique"] is None


def test_list_prints_ids_and_dry_run_plans_and_neither_runs(capsys, tmp_path):
    assert bench(QWEN, "--list") == 0
    ids = capsys.readouterr().out.splitlines()
    assert len(ids) == 4
    assert bench(QWEN, "--dry-run") == 0
    out = capsys.readouterr().out
    assert all(name in out for name in ids)
    assert "dequantize_blas" in out
    assert list(tmp_path.iterdir()) == []


def test_what_the_model_has_outside_the_blocks_is_said_once(here, capsys):
    assert bench(MODELS / "gpt-oss-MXFP4_MOE.gguf", "--dtype", "f16,f32", "-k", "blk.0.ffn_up_exps") == 0
    notes = [line for line in capsys.readouterr().err.splitlines() if "not applied" in line]
    assert notes
    assert len(set(notes)) == len(notes)


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ([DATA / "hostile" / "03_bad_magic.gguf"], 3, "GGUF"),
        ([DATA / "hostile" / "32_dims_overflow_wrap.gguf"], 3, "error: "),
        (["absent.gguf"], 4, "absent.gguf"),
        ([QWEN, "-k", "nothing"], 6, "no case out of 4 matches -k 'nothing'"),
        ([QWEN, "--layers", "9"], 6, "no case is selected"),
        ([QWEN, "--suite", "smoke"], 2, "MODEL and --suite are given together"),
        ([QWEN, "--top-k", "9"], 2, "top-k is 9 but there are 8 experts"),
        ([QWEN, "--results", "/dev/null/x"], 4, "cannot write"),
    ],
)
def test_what_cannot_run_is_an_error_a_hint_and_a_code(here, capsys, arguments, code, words):
    assert bench(*arguments) == code
    out, err = capsys.readouterr()
    assert words in err
    assert "error: " in err
    assert "hint: " in err
    assert out == ""


def test_ctrl_c_ends_with_130_and_whole_records(tmp_path):
    command = [sys.executable, "-m", "mmvq_cli", "bench", QWEN, "--engine", "cpu", "--tokens", "1,2,4"]
    root = str(Path(__file__).parents[2])
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path, bufsize=0,
        env=os.environ | {"PYTHONPATH": root}, start_new_session=True,
    )  # fmt: skip
    while not any(path.stat().st_size for path in tmp_path.glob("results/*.jsonl")):
        assert process.poll() is None
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)  # a terminal sends it to the whole group
    out, err = process.communicate(timeout=20)
    assert process.returncode == 130
    (path,) = (tmp_path / "results").glob("*.jsonl")
    assert err.splitlines()[-2:] == [
        f"the records so far are in results/{path.name}; the same command with --resume goes on",
        "error: interrupted",
    ]
    assert "Traceback" not in err
    assert out == ""
    assert [record.status.value for record in read_records(path)] == ["PASSED"] * len(path.read_text().splitlines())


def test_ctrl_c_while_the_worker_starts_is_as_quiet(tmp_path):
    # On a busy machine a worker may otherwise be at its first case, or through, before this process goes on.
    slow_start = "import sys, time\nif any('spawn_main' in word for word in sys.orig_argv): time.sleep(3)\n"
    (tmp_path / "sitecustomize.py").write_text(slow_start)
    command = [sys.executable, "-m", "mmvq_cli", "bench", QWEN, "--engine", "cpu", "--tokens", "1"]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": f"{Path(__file__).parents[2]}{os.pathsep}{tmp_path}"}, start_new_session=True,
    )  # fmt: skip
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    while children.exists() and len(children.read_text().split()) < 2:  # the resource tracker, then the worker
        assert process.poll() is None
        time.sleep(0.01)
    time.sleep(0.1)  # the parent listens again, the child still imports
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=20)
    assert process.returncode == 130
    assert err == "error: interrupted\n"
