"""Which engine runs, and what its session knows."""

import subprocess

import pytest

from mmvq_cli import session as session_module
from mmvq_cli.errors import EnvironmentInvalid, UsageError
from mmvq_cli.op import CPU, Plan
from mmvq_cli.session import RunSettings, Session, git_state, resolve_engine
from tests.op.problems import make_descriptor


@pytest.mark.parametrize(
    ("wanted", "available", "engine", "says"),
    [
        ("cpu", True, "cpu", ""),
        ("auto", True, "cuda", ""),
        ("cuda", True, "cuda", ""),
        ("auto", False, "cpu", "running on the CPU engine: no NVIDIA driver"),
    ],
)
def test_which_engine(monkeypatch, wanted, available, engine, says):
    monkeypatch.setattr(session_module, "cuda_available", lambda: (available, "" if available else "no NVIDIA driver"))
    assert resolve_engine(wanted) == (engine, says)


def test_cuda_without_cuda_and_unknown_engines_are_refused(monkeypatch):
    monkeypatch.setattr(session_module, "cuda_available", lambda: (False, "no NVIDIA driver"))
    with pytest.raises(EnvironmentInvalid, match="no NVIDIA driver") as caught:
        resolve_engine("cuda")
    assert "mmvq doctor" in caught.value.hint
    with pytest.raises(UsageError, match="'gpu'") as caught:
        resolve_engine("gpu")
    assert "auto, cuda, cpu" in caught.value.hint


def test_a_cpu_session():
    session = Session(RunSettings(engine="cpu"))
    assert session.engine.device.l2_bytes > 0  # what cold rotation has to exceed
    assert session.prepare(Plan.select(make_descriptor(), CPU)) == ()
    assert session.facts["dequantizer"]
    session.release()


def test_git_state_of_a_checkout_and_of_no_checkout(tmp_path):
    assert git_state(tmp_path) is None
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
    for arguments in (["init", "-q"], [*identity, "commit", "-q", "--allow-empty", "-m", "one"]):
        subprocess.run(["git", "-C", str(tmp_path), *arguments], check=True)
    state = git_state(tmp_path)
    assert len(state.rev) == 40
    assert not state.dirty
    (tmp_path / "new").write_text("untracked files do not count")
    assert not git_state(tmp_path).dirty
    subprocess.run(["git", "-C", str(tmp_path), "add", "new"], check=True)
    assert git_state(tmp_path).dirty
