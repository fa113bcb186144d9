"""The error tree, its exit codes, and their order."""

import pickle

import pytest

from mmvq_cli import errors
from mmvq_cli.errors import ExitCode, MmvqError, worst

MADE = [
    (errors.UsageError("a", "b"), 2),
    (errors.ModelError("a", "b"), 3),
    (errors.OpenError("a", "b"), 4),
    (errors.EnvironmentInvalid("a", "b"), 4),
    (errors.BuildError("a", "b", log="long"), 4),
    (errors.OutOfMemory(3 << 30, 1 << 29), 4),
    (errors.NothingMatched("a", "b"), 6),
    (errors.Unsupported("a", "b"), 2),
    (errors.InvalidProblem("a", "b"), 2),
    (errors.WorkspaceTooSmall(10, 4), 2),
    (errors.LaunchError("CUDA_ERROR", "grouped"), 4),
]
IDS = [type(error).__name__ for error, _ in MADE]


def subclasses(kind):
    return {kind, *(s for child in kind.__subclasses__() for s in subclasses(child))}


def test_every_class_is_in_this_list_and_in_the_drawn_tree():
    assert subclasses(MmvqError) - {MmvqError} == {type(error) for error, _ in MADE}
    assert all(name in errors.__doc__ for name in IDS)


@pytest.mark.parametrize(("error", "code"), MADE, ids=IDS)
def test_exit_code_message_and_hint(error, code):
    assert error.exit_code == code
    assert error.message
    assert error.hint
    assert str(error) == f"{error.message} ({error.hint})"
    line = next(line for line in errors.__doc__.splitlines() if f" {type(error).__name__} " in f"{line} ")
    assert str(code) in line or isinstance(error, errors.WorkspaceTooSmall)


@pytest.mark.parametrize(("error", "code"), MADE, ids=IDS)
def test_errors_survive_the_way_from_a_worker(error, code):
    back = pickle.loads(pickle.dumps(error))
    assert type(back) is type(error)
    assert back.__dict__ == error.__dict__
    assert (str(back), back.args) == (str(error), error.args)


def test_what_a_program_may_want_to_know_is_an_attribute():
    assert (errors.WorkspaceTooSmall(10, 4).needed, errors.WorkspaceTooSmall(10, 4).got) == (10, 4)
    assert errors.OutOfMemory(3 << 30, 1 << 29).message == "needs 3.00 GiB of device memory, 0.50 GiB are free"
    assert errors.LaunchError("CUDA_ERROR", "grouped").kernel == "grouped"
    assert errors.BuildError("a", log="long").log == "long"
    assert str(errors.MmvqError("only this")) == "only this"


@pytest.mark.parametrize(
    ("codes", "expected"),
    [([], 0), ([0, 0], 0), ([5, 1], 1), ([1, 6], 6), ([6, 4], 4), ([4, 3, 1, 0], 3), ([5, 0], 5)],
)
def test_the_worst_code_wins_and_is_never_a_count(codes, expected):
    assert worst(ExitCode(code) for code in codes) == expected
    assert worst(reversed([ExitCode(code) for code in codes] * 3)) == expected
