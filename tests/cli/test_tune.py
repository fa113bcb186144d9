"""`mmvq tune`, with a worker that has times by preference instead of a GPU."""

import json
import re
from pathlib import Path

import pytest

from mmvq_cli import runner, session
from mmvq_cli.cli.app import run
from mmvq_cli.engine import cuda
from mmvq_cli.errors import EnvironmentInvalid, ExitCode, OpenError
from mmvq_cli.op import Device, Preference
from mmvq_cli.record import Status, TimeStatistics, read_records
from mmvq_cli.tuning import read_tuning
from mmvq_cli.worker import row_id
from tests.record.factory import make_record
from tests.test_runner_looks import H200, GpuWorker, reading

PRESET = ("--preset", "qwen3-30b-a3b", "--tensors", "gate,up")


class TunedWorker(GpuWorker):
    """Times by preference in us; a status instead fails the case."""

    times: dict

    def run(self, case, identity, observe):
        self.events.append(case.id)
        time_us = self.times[case.preference]
        ids = {
            "ids__row_id": row_id(case, session.RunSettings(engine="cuda"), H200),
            "ids__case_id": case.id,
            "ids__run_id": identity.run_id,
        }
        if isinstance(time_us, Status):
            return make_record(time_us, correctness__reason="made so", **ids)
        times = TimeStatistics.of((1e3 * time_us,)).model_dump()
        return make_record(timing__gpu_ns=times, timing__samples_ns=(1e3 * time_us,), **ids)


@pytest.fixture
def tune(monkeypatch, tmp_path, capsys):
    """Run the command on a made H200 with these times; exit code, stdout, stderr and what was run."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "runtime"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(session, "cuda_available", lambda: (True, ""))
    monkeypatch.setattr(cuda, "current_device", lambda index: H200)
    monkeypatch.setattr(runner, "build_ahead", lambda plans, notify: list(plans))

    def run_with(*arguments, source=PRESET, looks=3, gb_s=4550.0, **times):
        times = {Preference.AUTO: 20.0, Preference.FASTEST: 21.0, **{Preference(n): t for n, t in times.items()}}
        events = []
        kind = {"looks": [reading(gb_s) for _ in range(looks)], "events": events, "times": times}
        monkeypatch.setattr(runner, "Worker", type("FreshWorker", (TunedWorker,), kind))
        code = run(["tune", *source, *arguments])
        captured = capsys.readouterr()
        return code, captured.out, captured.err, [event for event in events if event != "look"]

    return run_with


def test_problems_of_the_same_sizes_are_tuned_once_and_equal_plans_timed_once(tune):
    code, out, err, cases = tune("--tokens", "8", reproducible=18.0, reference=40.0)
    assert code == ExitCode.OK
    # Gate and up are the same problem; the fastest plan is the rules' own.
    assert [case.rpartition("f16")[2] for case in cases] == ["", "-reproducible", "-reference"]
    assert re.search(r"gate/Q4_K-\S+ +20\.0 +=  +18\.0 +40\.0 +reproducible\n", out)
    assert out.split("\n")[0].split() == [
        *("problem", "auto", "µs", "fastest", "µs"),
        *("reproducible", "µs", "reference", "µs", "takes"),
    ]
    assert "kept in" in err
    (case,) = read_tuning(H200).cases
    assert (case.m_tokens, case.preference) == (8, "reproducible")
    assert (case.family.n_rows_per_expert, case.family.n_cols) == (768, 2048)


def test_a_model_is_tuned_tensor_by_tensor(tune):
    model = Path(__file__).parents[1] / "data" / "models" / "qwen3moe-Q4_K_M.gguf"
    code, out, _, cases = tune("--tokens", "1", source=(str(model),), reproducible=18.0, reference=10.0)
    assert code == ExitCode.OK
    tuned = read_tuning(H200).cases
    assert {case.preference for case in tuned} == {"reference"}
    assert {case.family.format for case in tuned} == {"Q4_K", "Q6_K"}
    assert len(out.splitlines()) == 1 + len(tuned)
    assert len(cases) > len(tuned)


def test_where_there_is_no_choice_nothing_is_run(tune, monkeypatch):
    old = Device(name="Tesla T4", backend="cuda", compute_capability=(7, 5), sm_count=40)
    monkeypatch.setattr(cuda, "current_device", lambda index: old)
    code, _, err, cases = tune("--tokens", "8")
    assert (code, cases) == (ExitCode.NOTHING_MATCHED, [])
    assert "no problem has a choice of kernels" in err


def test_the_records_are_those_of_a_run(tune, tmp_path):
    _, _, err, cases = tune("--tokens", "8", "--results", "here", reproducible=18.0, reference=40.0)
    (path,) = (tmp_path / "here").glob("*-tune-*.jsonl")
    assert str(path.relative_to(tmp_path)) in err
    assert [record.ids.case_id for record in read_records(path)] == cases
    assert {case.run_id for case in read_tuning(H200).cases} == {path.stem}


def test_a_wrong_kernel_is_never_kept_and_ends_with_its_code(tune):
    code, out, _, _ = tune("--tokens", "8", reproducible=Status.WRONG_RESULT, reference=40.0)
    assert code == ExitCode.WRONG
    assert re.search(r"20\.0 +=  +- +40\.0 +auto\n", out)
    assert [case.preference for case in read_tuning(H200).cases] == ["auto"]


def test_nothing_is_kept_of_a_run_whose_times_are_not_valid(tune):
    code, _, err, _ = tune("--tokens", "8", gb_s=1000.0, reproducible=18.0, reference=40.0)
    assert code == ExitCode.ENVIRONMENT
    assert "nothing is kept: the times are not valid" in err
    with pytest.raises(OpenError, match="nothing was tuned"):
        read_tuning(H200)


def test_what_is_kept_can_be_read_by_programs(tune):
    code, out, _, _ = tune("--tokens", "8", "-o", "json", "-q", reproducible=18.0, reference=40.0)
    (row,) = json.loads(out)
    assert (code, row["takes"], row["auto µs"]) == (ExitCode.OK, "reproducible", "20.0")


def test_a_list_names_what_would_be_timed(tune):
    code, out, _, cases = tune("--tokens", "8", "--list", reproducible=18.0, reference=40.0)
    assert (code, cases) == (ExitCode.OK, [])
    assert [line.rpartition("f16")[2] for line in out.splitlines()] == ["", "-reproducible", "-reference"]


def test_bench_takes_what_was_tuned_and_says_when_there_is_nothing(tune, capsys):
    arguments = ["bench", *PRESET, "--tokens", "8", "--prefer", "tuned", "--engine", "cuda"]
    assert run(arguments) == ExitCode.ENVIRONMENT
    assert "`mmvq tune` measures" in capsys.readouterr().err
    tune("--tokens", "8", reproducible=18.0, reference=40.0)
    assert run([*arguments, "--dry-run"]) == ExitCode.OK
    assert "`reproducible` was fastest at 8 tokens in" in capsys.readouterr().out
    assert run([*arguments[:-1], "cpu"]) == ExitCode.USAGE
    assert "--prefer tuned chooses among the kernels of a GPU" in capsys.readouterr().err


def test_without_a_gpu_it_says_so(monkeypatch, capsys):
    def none(wanted):
        raise EnvironmentInvalid("the CUDA engine cannot run: no driver", "`mmvq doctor` shows how to mend it")

    monkeypatch.setattr(session, "resolve_engine", none)
    assert run(["tune", *PRESET]) == ExitCode.ENVIRONMENT
    assert "no driver" in capsys.readouterr().err
    assert run(["tune", *PRESET, "-o", "html"]) == ExitCode.USAGE
