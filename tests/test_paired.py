"""Revisions to arms, arms to blocks in ABBA order, and one real pass on the CPU engine."""

import subprocess
from pathlib import Path

import pytest

from mmvq_cli.compare import AaRun, GateConfig, Verdict, aa_file, append_aa
from mmvq_cli.errors import EnvironmentInvalid, UsageError
from mmvq_cli.paired import BenchArm, extract_kernels, kernels_of, run_paired, with_noise_floor
from mmvq_cli.resources import KERNELS_VARIABLE, resource_root
from tests.compare.records import source, timed

CONFIG = GateConfig()


@pytest.fixture(autouse=True)
def _no_noise_floor(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))


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


def wandering(spread, calls):
    """An arm whose processes differ by `spread` in a fixed pattern, so that few blocks leave a wide interval."""

    def arm(name, folder):
        calls.append((folder.parent.name, folder.name, name))
        factor = 1 + spread * (len(calls) % 5 - 2)
        return source(timed("a", 50_000 * factor, seed=len(calls), env__device=H200), name=name)

    return arm


H200 = {"name": "NVIDIA H200", "uuid": "GPU-1"}


@pytest.mark.parametrize(("budget_s", "processes"), [(0.0, 4), (100.0, 8), (160.0, 16)])
def test_blocks_are_doubled_within_the_budget(tmp_path, budget_s, processes):
    """Each process takes 10 s: 2 blocks 40 s, doubled 80 s, doubled again 160 s."""
    calls = []
    arm = wandering(0.02, calls)
    run_paired(("old", "new"), arm, 2, tmp_path, CONFIG, budget_s=budget_s, clock_s=lambda: 10.0 * len(calls))
    assert len(calls) == processes
    assert len({folder for _, folder, _ in calls}) == processes


def test_a_narrow_interval_needs_no_more_blocks(tmp_path):
    calls = []
    result = run_paired(
        ("old", "new"), wandering(0.0, calls), 2, tmp_path, CONFIG, budget_s=1e9, clock_s=lambda: len(calls)
    )
    assert result.rows[0].verdict is Verdict.SAME
    assert len(calls) == 4


def test_the_floor_of_the_gpus_own_noise_counts(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    run = AaRun(
        time_utc="", device="", uuid="GPU-1", driver=None, blocks=2, launch_sd=0.0, process_sd=0.0, canary_gbps=None,
        differences={"a": 0.3}, log_ns={},
    )  # fmt: skip

    def arm(name, folder):
        return source(timed("a", 60_000 if name == "new" else 50_000, seed=len(folder.name), env__device=H200))

    assert run_paired(("old", "new"), arm, 2, tmp_path, CONFIG).rows[0].verdict is Verdict.REGRESSED
    append_aa(run, aa_file())
    assert run_paired(("old", "new"), arm, 2, tmp_path, CONFIG).rows[0].verdict is Verdict.SAME
    assert with_noise_floor(CONFIG, arm("new", tmp_path)).thresholds.noise_floor == pytest.approx(0.3)


def test_an_arm_can_be_slowed_down_on_purpose(tmp_path):
    arguments = ["--suite", "smoke", "--engine", "cpu", "--samples", "2", "-k", "gate.*-t1-"]
    arm = BenchArm(dict.fromkeys(("a", "b"), resource_root("kernels")), arguments, {"b": 0.5})
    (as_is,), (slowed,) = (arm(name, tmp_path / name).records for name in "ab")
    assert slowed.ids.kernel.version == f"{as_is.ids.kernel.version}+slowed-0.5"
    assert slowed.ids.row_id == as_is.ids.row_id
