"""The run of everything that needs a GPU: its commands are valid, and a failure shows."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from scripts.check_gpu import Job, jobs, main, run


def test_matrices_of_all_dtypes_and_plans_are_known_to_check(tmp_path):
    listed = jobs(tmp_path, "/usr/bin/compute-sanitizer")
    matrices = [job for job in listed if "mmvq_cli" in job.command]
    assert len(matrices) == 2 * (3 + 1)
    assert len({job.command[job.command.index("--results") + 1] for job in matrices}) == 7
    command = list(matrices[0].command)
    command[command.index("cuda")] = "cpu"
    outcome = subprocess.run([sys.executable, *command, "--list"], capture_output=True, text=True, check=False)
    assert outcome.returncode == 0, outcome.stderr
    assert outcome.stdout.count("\n") > 1000


def test_memory_errors_need_the_sanitizer_and_times_run_alone(tmp_path):
    names = {job.name: job.is_alone for job in jobs(tmp_path, None)}
    assert not any(name.startswith("memcheck") for name in names)
    assert [name for name, is_alone in names.items() if is_alone] == ["timed-tests"]


def test_plans_can_be_chosen(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr("scripts.check_gpu.cuda_available", lambda: (True, ""))
    monkeypatch.setattr("scripts.check_gpu.run", lambda job, logs: asked.append(job.command) or True)
    assert main(["--logs", str(tmp_path), "--prefer", "auto"]) == 0
    plans = {command[command.index("--prefer") + 1] for command in asked if "--prefer" in command}
    assert plans == {"auto"}


def test_paths_of_the_tests_exist(tmp_path):
    paths = [part.removeprefix("--ignore=") for job in jobs(tmp_path, None) for part in job.command if "tests/" in part]
    assert paths
    assert all(Path(path).exists() for path in paths)


def test_a_job_that_fails_is_said_and_keeps_its_log(tmp_path, capsys, monkeypatch):
    bad = Job("bad", ("-c", "print('why'); raise SystemExit(3)"))
    assert not run(bad, tmp_path)
    assert "bad: exit code 3" in capsys.readouterr().err
    assert (tmp_path / "bad.log").read_text() == "why\n"
    good = Job("good", (sys.executable, "-c", ""), is_alone=True)
    monkeypatch.setattr("scripts.check_gpu.cuda_available", lambda: (True, ""))
    for listed, code in (([bad, good], 1), ([good], 0)):
        monkeypatch.setattr("scripts.check_gpu.jobs", lambda *_, listed=listed: listed)
        assert main(["--logs", str(tmp_path / "logs")]) == code
    assert "1 of 2 ended well" in capsys.readouterr().err


def test_without_a_gpu_nothing_counts_as_good(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("scripts.check_gpu.cuda_available", lambda: (False, "no driver"))
    assert main(["--logs", str(tmp_path / "logs")]) == 4
    assert "no driver" in capsys.readouterr().err
    assert not (tmp_path / "logs").exists()
