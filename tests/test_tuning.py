"""What was tuned: chosen from records, kept and found again, and never taken from a file that is not sound."""

import json
from dataclasses import replace

import pytest

from mmvq_cli import tuning
from mmvq_cli.errors import OpenError
from mmvq_cli.op import Preference
from mmvq_cli.op.tuning import Family
from mmvq_cli.record import Status, TimeStatistics
from mmvq_cli.tuning import Measured, add_measured, fastest, read_tuning, tuning_path, with_tuning
from tests.op.problems import H200, problem
from tests.record.factory import make_record

AUTO, FASTEST, REFERENCE = Preference.AUTO, Preference.FASTEST, Preference.REFERENCE


@pytest.fixture(autouse=True)
def _cache(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


def timed(median_ns, ci95_rel=0.005):
    times = TimeStatistics.of((median_ns,)).model_dump()
    return make_record(timing__gpu_ns=times, timing__samples_ns=(median_ns,), timing__ci95_rel=ci95_rel)


def wrong():
    return make_record(Status.WRONG_RESULT, correctness__reason="made so")


def measured(m_tokens=8, preference=REFERENCE, **changes):
    return Measured(
        family=Family.of(problem(**changes)),
        m_tokens=m_tokens,
        preference=preference,
        run_id="a-run",
        gpu_ns={AUTO: 2000.0, preference: 1000.0},
    )


@pytest.mark.parametrize(
    ("records", "choice"),
    [
        ({AUTO: timed(1000), REFERENCE: timed(900)}, REFERENCE),
        ({AUTO: timed(1000), FASTEST: timed(950), REFERENCE: timed(900)}, REFERENCE),
        ({AUTO: timed(900), REFERENCE: timed(1000)}, AUTO),
        ({AUTO: timed(1000), REFERENCE: timed(985)}, AUTO),  # less than 2 %
        ({AUTO: timed(1000, 0.1), REFERENCE: timed(900)}, AUTO),  # intervals meet
        ({AUTO: timed(1000), REFERENCE: timed(900, 0.2)}, AUTO),
        ({AUTO: timed(1000), FASTEST: wrong(), REFERENCE: timed(990)}, AUTO),
        ({AUTO: wrong(), REFERENCE: timed(1000)}, REFERENCE),
        ({AUTO: wrong(), REFERENCE: wrong()}, AUTO),
    ],
)
def test_the_fastest_right_kernel_is_chosen_where_it_is_surely_faster(records, choice):
    preference, times = fastest(records)
    assert preference is choice
    assert set(times) == {p for p, record in records.items() if record.status is Status.PASSED}


def test_what_was_measured_is_found_again():
    path = add_measured(H200, [measured(8), measured(64, FASTEST)])
    assert path == tuning_path(H200)
    cases = read_tuning(H200).cases
    assert [(case.family, case.m_tokens, case.preference, case.run_id) for case in cases] == [
        (Family.of(problem()), 8, "reference", "a-run"),
        (Family.of(problem()), 64, "fastest", "a-run"),
    ]
    assert with_tuning(H200).tuning == read_tuning(H200)
    assert json.loads(path.read_text())["cases"][0]["gpu_ns"] == {"auto": 2000.0, "reference": 1000.0}


def test_a_problem_that_is_measured_again_is_replaced_and_others_stay():
    add_measured(H200, [measured(8), measured(64)])
    add_measured(H200, [measured(8, FASTEST), measured(8, n_cols=512)])
    cases = read_tuning(H200).cases
    assert [(case.m_tokens, case.family.n_cols, case.preference) for case in cases] == [
        (8, 2048, "fastest"),
        (64, 2048, "reference"),
        (8, 512, "reference"),
    ]


def test_a_problem_without_a_right_kernel_is_forgotten():
    add_measured(H200, [measured(8), measured(64)])
    add_measured(H200, [replace(measured(8), preference=AUTO, gpu_ns={})])
    assert [case.m_tokens for case in read_tuning(H200).cases] == [64]


def test_gpus_of_other_kinds_have_files_of_their_own():
    add_measured(H200, [measured()])
    for other in (replace(H200, name="NVIDIA H200 NVL"), replace(H200, sm_count=66)):
        with pytest.raises(OpenError, match="nothing was tuned"):
            read_tuning(other)
        assert with_tuning(other) == other


def test_times_of_other_kernels_do_not_count(monkeypatch):
    add_measured(H200, [measured(64)])
    monkeypatch.setattr(tuning, "_kernels_sha256", lambda: "other")
    with pytest.raises(OpenError, match="of other kernels"):
        read_tuning(H200)
    assert with_tuning(H200).tuning is None
    add_measured(H200, [measured(8)])
    assert [case.m_tokens for case in read_tuning(H200).cases] == [8]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda file: "", "damaged"),
        (lambda file: file[:-20], "damaged"),
        (lambda file: file.replace('"reference"', '"tuned"'), "tuned is no kernel's"),  # would ask for itself
        (lambda file: file.replace('"m_tokens": 8', '"m_tokens": 0'), "m_tokens"),
        (lambda file: file.replace("mmvq.tuning/1", "mmvq.tuning/2"), "format"),
        (lambda file: file.replace('"device"', '"gadget"'), "gadget|device"),
    ],
)
def test_a_damaged_file_is_named_and_not_taken(change, words):
    path = add_measured(H200, [measured()])
    path.write_text(change(path.read_text()))
    with pytest.raises(OpenError, match=words) as caught:
        read_tuning(H200)
    assert str(path) in caught.value.message
    assert "remove it" in caught.value.hint
    assert with_tuning(H200).tuning is None
    add_measured(H200, [measured(64)])
    assert [case.m_tokens for case in read_tuning(H200).cases] == [64]
