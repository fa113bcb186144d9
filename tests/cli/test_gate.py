"""`mmvq compare`, `baseline`, `gate` and `report` on stored records."""

import json
from pathlib import Path
from typing import ClassVar

import pytest

from mmvq_cli.cli import gate_paired
from mmvq_cli.cli.app import run
from mmvq_cli.compare import Source
from mmvq_cli.errors import ExitCode
from tests.compare.records import Status, history, make_record, timed

RECORDED = Path(__file__).parents[1] / "data" / "records" / "nvidia-h200-smoke.jsonl.gz"


@pytest.fixture
def mmvq(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("GITHUB_STEP_SUMMARY", raising=False)

    def invoke(*arguments):
        code = run([str(argument) for argument in arguments])
        return code, *capsys.readouterr()

    return invoke


def write(path, *records):
    Path(path).write_text("".join(record.to_json() + "\n" for record in records))
    return path


@pytest.fixture
def runs(tmp_path, mmvq):
    write(tmp_path / "base.jsonl", timed("a"), timed("b"))
    write(tmp_path / "slow.jsonl", timed("a", 60_000, "head", seed=2), timed("b", run_id="head", seed=3))
    write(tmp_path / "history.jsonl", *history(("a", "b")).records)
    return tmp_path


def test_compare_reports_a_regression_and_does_not_fail(mmvq, runs):
    code, out, _ = mmvq("compare", "base.jsonl", "slow.jsonl", "--view", "explain")
    assert code == ExitCode.OK
    assert "REGRESSED" in out
    assert "beyond-threshold" in out


def test_compare_takes_several_heads_and_a_pattern(mmvq, runs):
    code, out, _ = mmvq("compare", "base.jsonl", "slow.jsonl", "base.jsonl", "-k", "case-b", "-o", "json")
    comparisons = json.loads(out)["comparisons"]
    assert code == ExitCode.OK
    assert [c["head"] for c in comparisons] == ["slow.jsonl", "base.jsonl"]
    assert all([row["case_id"] for row in c["rows"]] == ["case-b"] for c in comparisons)


def test_compare_fails_for_a_wrong_result_and_for_nothing_in_common(mmvq, runs):
    write("wrong.jsonl", make_record(Status.WRONG_RESULT, ids__row_id="row-a"))
    assert mmvq("compare", "base.jsonl", "wrong.jsonl")[0] == ExitCode.WRONG
    write("other.jsonl", timed("z"))
    assert mmvq("compare", "base.jsonl", "other.jsonl")[0] == ExitCode.NOTHING_MATCHED
    assert mmvq("compare", "base.jsonl", "slow.jsonl", "-k", "zzz")[0] == ExitCode.NOTHING_MATCHED


def test_a_threshold_changes_the_verdict(mmvq, runs):
    assert "REGRESSED" not in mmvq("compare", "base.jsonl", "slow.jsonl", "--threshold", "50%")[1].split("geomean")[0]
    assert mmvq("compare", "base.jsonl", "slow.jsonl", "--threshold", "much")[0] == ExitCode.USAGE


def test_the_life_of_a_baseline(mmvq, runs):
    assert "no baselines" in mmvq("baseline", "list")[2]
    assert mmvq("baseline", "save", "main", "base.jsonl")[0] == ExitCode.OK
    assert "1 sessions" in mmvq("baseline", "save", "main", "base.jsonl")[2]
    assert (runs / ".mmvq" / "baselines" / "main").is_dir()
    (row,) = json.loads(mmvq("baseline", "list", "-o", "json")[1])
    assert (row["baseline"], row["sessions"], row["rows"], row["gates"]) == ("main", 1, 2, "advisory until 10 sessions")
    assert "case-b" in mmvq("baseline", "show", "main")[1]
    assert mmvq("baseline", "export", "main", "out.jsonl")[0] == ExitCode.OK
    assert mmvq("compare", "main", "out.jsonl")[0] == ExitCode.OK
    assert mmvq("baseline", "rm", "main")[0] == ExitCode.OK
    assert mmvq("baseline", "show", "main")[0] == ExitCode.ENVIRONMENT
    assert mmvq("baseline", "show")[0] == ExitCode.USAGE


def test_the_gate_passes_advises_and_fails(mmvq, runs):
    mmvq("baseline", "save", "main", "history.jsonl")
    code, out, err = mmvq("gate", "slow.jsonl", "--baseline", "main")
    assert code == ExitCode.REGRESSION
    assert "exit code 1" in err
    assert "case-a" in out
    assert mmvq("gate", "slow.jsonl", "--baseline", "main", "-k", "case-b")[0] == ExitCode.OK
    assert mmvq("gate", "slow.jsonl", "--baseline", "main", "--fail-on", "invalid")[0] == ExitCode.OK
    code, _, err = mmvq("gate", "slow.jsonl", "--baseline", "base.jsonl")
    assert code == ExitCode.OK
    assert "advisory: 1 of 10 sessions" in err


def test_the_gate_takes_the_newest_run(mmvq, runs):
    (runs / "results").mkdir()
    write(runs / "results" / "20260101T000000Z-a.jsonl", timed("a", run_id="x", seed=3), timed("b", run_id="x", seed=4))
    write(runs / "results" / "20260102T000000Z-a.jsonl", *(timed(c, 70_000, "y") for c in "ab"))
    assert mmvq("gate", "--baseline", "history.jsonl")[0] == ExitCode.REGRESSION
    assert mmvq("gate", "20260101", "--baseline", "history.jsonl")[0] == ExitCode.OK


def test_github_gets_annotations_and_a_summary(mmvq, runs, monkeypatch):
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(runs / "summary.md"))
    code, out, _ = mmvq("gate", "slow.jsonl", "--baseline", "history.jsonl", "-o", "github")
    assert code == ExitCode.REGRESSION
    assert out.startswith("::error title=REGRESSED case-a::")
    summary = (runs / "summary.md").read_text()
    assert "| case-a |" in summary
    assert "exit code 1" in summary


def test_the_self_test_trips_and_a_blind_gate_fails_it(mmvq, runs):
    code, out, _ = mmvq("gate", "base.jsonl", "--self-test")
    assert code == ExitCode.OK
    assert out.count("ok  ") == 6
    code, out, _ = mmvq("gate", "base.jsonl", "--self-test", "--inject", "2%")
    assert code == ExitCode.WRONG
    assert "FAIL 2 % in one row" in out


def test_the_gate_proves_itself_on_records_of_an_h200(mmvq):
    code, out, _ = mmvq("gate", RECORDED, "--self-test", "--inject", "12%")
    assert (code, out.count("ok  ")) == (ExitCode.OK, 6)


class FakeArm:
    """Stands for `mmvq bench` processes on an H200: 50 us, and what the slowdown adds."""

    made: ClassVar = []

    def __init__(self, arms, arguments, slowdowns=None):
        self.made.append((list(arms), arguments))
        self.slowdowns = slowdowns or {}

    def __call__(self, arm, folder):
        time_ns = 50_000 * (1 + self.slowdowns.get(arm, 0)) * (1 + 0.002 * (int(folder.name[:3]) % 3 - 1))
        seed = int(folder.name.replace("-", ""))
        cubin = None if arm in self.slowdowns else "f" * 64
        device = {"name": "NVIDIA H200", "uuid": "GPU-1"}
        rows = [timed(c, time_ns, seed=seed, env__device=device) for c in "ab"]
        kernel = rows[0].ids.kernel.model_copy(update={"cubin_sha256": cubin})
        ids = [row.ids.model_copy(update={"kernel": kernel}) for row in rows]
        return Source(arm, tuple(row.model_copy(update={"ids": i}) for row, i in zip(rows, ids, strict=True)))


@pytest.fixture
def arm(monkeypatch):
    monkeypatch.setattr(gate_paired, "BenchArm", type("FreshArm", (FakeArm,), {"made": []}))
    return gate_paired.BenchArm


def test_an_aa_run_is_kept_and_sets_the_floor(mmvq, arm, tmp_path):
    code, out, err = mmvq("gate", "--aa", "--blocks", "4", "-k", "gate")
    assert code == ExitCode.OK
    assert "A/A on NVIDIA H200: 2 cases, 4 blocks" in out
    assert "000-1: the same again" in err
    (line,) = (tmp_path / "home" / "mmvq" / "aa.jsonl").read_text().splitlines()
    assert json.loads(line)["uuid"] == "GPU-1"
    assert arm.made[0][1][-2:] == ["-k", "gate"]


def test_the_live_self_test_trips(mmvq, arm):
    code, out, _ = mmvq("gate", "--self-test", "--live", "--blocks", "4", "-q")
    assert code == ExitCode.OK
    assert "ok   the same kernels: exit code 0, expected 0" in out
    assert "ok   10 % more launches: exit code 1, expected 1" in out
    code, out, _ = mmvq("gate", "--self-test", "--live", "--blocks", "4", "-q", "--inject", "1%")
    assert code == ExitCode.WRONG
    assert "FAIL 1 % more launches" in out


def test_two_revisions_are_measured_in_turn(mmvq, arm, monkeypatch):
    monkeypatch.setattr(gate_paired, "kernels_of", lambda revision, repository, target: target)
    code, out, err = mmvq("gate", "--base", "old", "--blocks", "3")
    assert code == ExitCode.OK
    assert "2 same" in err + out
    assert mmvq("gate", "--base", "old", "--head", "old")[0] == ExitCode.USAGE


def test_the_static_gate_reads_compiled_kernels(mmvq, runs):
    def compiled(path, registers):
        kernel = {"entry": "main", "registers": registers, "shared_bytes": 0, "local_bytes": 0, "spill_bytes": 0}
        row = {"name": "k.cu", "architecture": "sm_90", "cubin_bytes": 100, "kernels": [kernel]}
        Path(path).write_text(json.dumps({"nvrtc": "13.0", "compiled": [row]}))

    compiled("a.json", 64)
    compiled("b.json", 128)
    code, out, _ = mmvq("gate", "b.json", "--static", "a.json")
    assert code == ExitCode.REGRESSION
    assert "registers 64 → 128" in " ".join(out.split())
    assert mmvq("gate", "a.json", "--static", "a.json")[0] == ExitCode.OK
    assert mmvq("gate", "--static", "a.json")[0] == ExitCode.USAGE


def test_the_gate_says_what_it_would_do(mmvq):
    code, out, _ = mmvq("gate", "--dump-config", "--preset", "strict", "--threshold", "Q6=5%")
    assert code == ExitCode.OK
    assert "tau = 0.02" in out
    assert '"Q6" = 0.05' in out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["gate"], "nothing to judge by"),
        (["gate", "--baseline", "a", "--self-test"], "--baseline and --self-test"),
        (["gate", "--baseline", "a", "-o", "xml"], "-o 'xml'"),
        (["gate", "--baseline", "a", "--fail-on", "never"], "never"),
        (["gate", "--baseline", "a", "--preset", "lax"], "no gate preset"),
        (["compare", "a", "b", "-o", "jsonl"], "-o 'jsonl'"),
        (["report", "a", "-o", "xml"], "-o 'xml'"),
        (["baseline", "save"], "needs a name"),
    ],
)
def test_what_means_nothing_is_refused(mmvq, arguments, words):
    code, _, err = mmvq(*arguments)
    assert code == ExitCode.USAGE
    assert words in err


def test_a_report_is_a_page_a_table_or_another_tools_file(mmvq, runs):
    code, out, err = mmvq("report", "slow.jsonl")
    assert (code, out, err) == (ExitCode.OK, "", "wrote head.html\n")
    assert (runs / "head.html").read_text().startswith("<!doctype html>")
    assert "| tokens |" in mmvq("report", "slow.jsonl", "-o", "md")[1]
    assert len(json.loads(mmvq("report", "slow.jsonl", "-o", "github-action", "-k", "case-a")[1])) == 1
    assert mmvq("report", "slow.jsonl", "-o", "md", "--to", "x.md", "--export", "nvbench:n.json")[0] == ExitCode.OK
    assert (runs / "x.md").is_file()
    assert json.loads((runs / "n.json").read_text())["benchmarks"]
