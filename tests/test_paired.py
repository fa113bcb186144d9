"""Revisions to arms, arms to blocks in ABBA order, and one real pass on the CPU engine."""

import subprocess
from pathlib import Path

import pytest

from mmvq_cli.compare import GateConfig, Verdict
from mmvq_cli.errors import EnvironmentInvalid, UsageError
from mmvq_cli.paired import BenchArm, extract_kernels, kernels_of, run_paired
from mmvq_cli.resources import KERNELS_VARIABLE, resource_root
from tests.compare.records import source, timed

CONFIG = GateConfig()


@pytest.fixture
def repository(tmp_path):
    folder = tmp_path / "repo"
    (folder / "kernels").mkdir(parents=True)

    def git(*arguments):
        identity = ["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false"]
        subprocess.run(["git", "-C", folder, *identity, *arguments], check=True, capture_output=True)

    git("init", "-q")
    for text in ("old", "new"):
        (folder / "kernels" / "format.cuh").write_text(text)
        git("add", ".")
        git("commit", "-qm", text)
    return folder


def test_kernels_come_from_the_revision_and_the_checkout_stays(repository, tmp_path, monkeypatch):
    old = extract_kernels("HEAD~1", repository, tmp_path / "old")
    assert (old / "format.cuh").read_text() == "old"
    assert (repository / "kernels" / "format.cuh").read_text() == "new"
    monkeypatch.setenv(KERNELS_VARIABLE, str(old))
    assert resource_root("kernels") == old
    assert resource_root("configs") != old
    assert kernels_of(None, repository, tmp_path) == old
    monkeypatch.setenv(KERNELS_VARIABLE, str(tmp_path))
    with pytest.raises(EnvironmentInvalid, match=r"has no format\.cuh"):
        resource_root("kernels")


@pytest.mark.parametrize("revision", ["nowhere", "--output=x", ""])
def test_what_is_no_revision_is_refused(repository, tmp_path, revision):
    with pytest.raises(UsageError, match="no kernels of revision"):
        extract_kernels(revision, repository, tmp_path / "out")
    assert not (Path.cwd() / "x").exists()


def test_arms_alternate_and_a_regression_is_measured_twice(tmp_path):
    calls = []

    def arm(name, folder):
        calls.append(name)
        time_ns = 60_000 if name == "new" and folder.parent.name == "screen" else 50_000
        return source(timed("a", time_ns, seed=len(calls)), timed("b", 50_000, seed=len(calls)), name=name)

    result = run_paired(("old", "new"), arm, 4, tmp_path, CONFIG)
    assert calls[:8] == ["old", "new", "new", "old", "old", "new", "new", "old"]
    assert len(calls) == 16
    assert [row.verdict for row in result.rows] == [Verdict.INCONCLUSIVE, Verdict.SAME]
    assert (result.base, result.head) == ("old", "new")


def test_without_a_regression_one_pass_is_enough(tmp_path):
    calls = []

    def arm(name, folder):
        calls.append(name)
        return source(timed("a", seed=len(calls)), name=name)

    assert run_paired(("old", "new"), arm, 2, tmp_path, CONFIG).rows[0].verdict is Verdict.SAME
    assert len(calls) == 4


def test_an_arm_is_a_bench_in_a_fresh_process(tmp_path):
    arguments = ["--suite", "smoke", "--engine", "cpu", "--samples", "2", "-k", "gate.*-t1-"]
    arm = BenchArm({"here": resource_root("kernels")}, arguments)
    found = arm("here", tmp_path / "0")
    assert [record.timing is not None for record in found.records] == [True]
    with pytest.raises(EnvironmentInvalid, match="ended with code 6"):
        BenchArm({"here": resource_root("kernels")}, ["-k", "nothing"])("here", tmp_path / "1")
