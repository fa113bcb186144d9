"""A/A runs: their noise, their file, and the floor that they set."""

from dataclasses import replace

import numpy as np
import pytest

from mmvq_cli.compare import Block, GateConfig, Verdict, aa_run, append_aa, compare_paired, noise_floor, read_aa
from mmvq_cli.errors import NothingMatched, OpenError
from scripts.noise_points import ROOT, noise_table, refreshed, session_sd
from tests.compare.records import source, timed

LIMITS = GateConfig().thresholds
H200 = {"env__device": {"name": "NVIDIA H200", "uuid": "GPU-1"}}


def aa_blocks(n=40, process=0.004, launch=0.002, cases="abc", head=0.0, seed=3, **changes):
    rng = np.random.default_rng(seed)
    made = []
    for _ in range(n):
        speed = rng.normal(0, 0.02)  # of the block: it falls out
        arms = [
            source(
                *(
                    timed(
                        case, 50_000 * np.exp(speed + shift + rng.normal(0, process)), noise=launch,
                        seed=int(rng.integers(1 << 30)), **(H200 | changes),
                    )
                    for case in cases
                )
            )
            for shift in (0.0, head)
        ]  # fmt: skip
        made.append(Block(*arms))
    return made


def test_the_noise_that_was_put_in_is_found():
    run = aa_run(aa_blocks(), LIMITS)
    assert run.process_sd == pytest.approx(0.004, rel=0.2)
    assert run.launch_sd == pytest.approx(0.002, rel=0.1)
    assert (run.device, run.uuid, run.blocks) == ("NVIDIA H200", "GPU-1", 40)
    assert set(run.differences) == {"case-a", "case-b", "case-c"}
    assert run.largest < 0.004
    assert np.exp(run.log_ns["case-a"]) == pytest.approx(50_000, rel=0.02)
    assert aa_run(aa_blocks(head=0.03), LIMITS).largest == pytest.approx(0.03, abs=0.003)


def test_invalid_blocks_do_not_count():
    blocks = aa_blocks(4) + aa_blocks(4, process=0.5, env__foreign_pids_n=1)
    assert aa_run(blocks, LIMITS).process_sd < 0.01
    with pytest.raises(NothingMatched, match="two valid blocks"):
        aa_run(blocks[4:], LIMITS)


def test_runs_are_kept_and_the_floor_is_that_of_the_gpu(tmp_path):
    path = tmp_path / "new" / "aa.jsonl"
    assert read_aa(path) == []
    run = aa_run(aa_blocks(4), LIMITS)
    other = replace(run, uuid="GPU-2", differences={"case-a": -0.2})
    for made in (run, other):
        append_aa(made, path)
    runs = read_aa(path)
    assert runs == [run, other]
    assert noise_floor(runs, "GPU-2") == pytest.approx(0.2)
    assert 0 < noise_floor(runs, "GPU-1") <= run.largest
    assert noise_floor(runs, "GPU-3") == noise_floor(runs, None) == 0.0


def test_a_file_of_something_else_and_a_place_that_cannot_be_written_are_errors(tmp_path):
    path = tmp_path / "aa.jsonl"
    path.write_text('{"a": 1}\n')
    with pytest.raises(OpenError, match="no A/A runs"):
        read_aa(path)
    with pytest.raises(OpenError, match="cannot write"):
        append_aa(aa_run(aa_blocks(3), LIMITS), path / "below")


def test_below_the_floor_nothing_is_a_change():
    slow = aa_blocks(8, head=0.05)
    assert {row.verdict for row in compare_paired(slow, GateConfig()).rows} == {Verdict.REGRESSED}
    noisy = GateConfig(thresholds=replace(LIMITS, noise_floor=0.08))
    rows = compare_paired(slow, noisy).rows
    assert {row.verdict for row in rows} == {Verdict.SAME}
    assert all(row.detectable > 0.08 for row in rows)


def test_two_runs_are_two_points_beside_what_was_assumed():
    first = replace(aa_run(aa_blocks(4), LIMITS), process_sd=0.0021, launch_sd=0.0034, log_ns={"a": 10.0, "b": 9.0})
    second = replace(first, log_ns={"a": 10.02, "b": 9.02, "c": 1.0})
    table = noise_table([first, second])
    assert table.count("| measured: NVIDIA H200, ") == 2
    assert table.count("| 1.41 | 0.21 | 0.34 | ") == 2
    assert "| assumed: shared | 2.00 | 1.00 | 3.00 | |" in table
    assert "layout" not in table
    assert session_sd([first]) is None
    assert "| — | 0.21 |" in noise_table([first])


def test_the_page_has_the_points_of_the_committed_runs():
    text = (ROOT / "docs" / "gate.md").read_text(encoding="utf-8")
    assert refreshed(text) == text, "run python -m scripts.noise_points"
