"""Which engine runs, and what its session knows."""

import subprocess
from types import SimpleNamespace

import pytest

from mmvq_cli import session as session_module
from mmvq_cli.errors import EnvironmentInvalid, UsageError
from mmvq_cli.measure import Canary, open_nvml
from mmvq_cli.op import CPU, Plan
from mmvq_cli.session import RunSettings, Session, asked_slowdown, container_kind, git_state, resolve_engine
from mmvq_cli.tuning import add_measured, read_tuning
from tests.measure.fake_nvml import FakeNvml
from tests.op.problems import H200, make_descriptor, problem
from tests.test_tuning import measured


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


class Stream:
    """A canary whose readings get slower."""

    def __init__(self):
        self.gb_s = 4600.0

    def stream(self):
        self.gb_s -= 100
        return Canary(2**32, 2**32 / self.gb_s, (1, 1), self.gb_s != 4300)


def test_looks_read_the_stream_anew_and_cases_have_the_first():
    session = Session(RunSettings(engine="cpu"))
    session.__dict__["canary"] = Stream()
    assert session.look().gb_s == pytest.approx(4500)
    assert session.look().gb_s == pytest.approx(4400)
    assert session.look().gb_s is None  # the words do not add up
    assert session.stream_gb_s == pytest.approx(4500)
    assert (session.watch(), session.look().state) == (None, None)


def test_a_gpu_session_looks_by_nvml():
    session = Session(RunSettings(engine="cpu"))
    session.__dict__ |= {"canary": Stream(), "nvml": open_nvml("GPU-1", FakeNvml(temp_c=90))}
    assert session.look().state.problems == ("the GPU has 90 °C, it is hot from 84 °C",)
    assert session.watch() is not session.watch()


@pytest.mark.parametrize(("text", "share"), [(None, 0.0), ("0.1", 0.1), ("-1", None), ("much", None), ("nan", None)])
def test_the_slowdown_of_a_self_test(monkeypatch, text, share):
    monkeypatch.delenv("MMVQ_SLOWDOWN", raising=False)
    if text is not None:
        monkeypatch.setenv("MMVQ_SLOWDOWN", text)
    if share is None:
        with pytest.raises(UsageError, match="MMVQ_SLOWDOWN"):
            asked_slowdown()
    else:
        assert asked_slowdown() == share


def test_the_kind_of_container(tmp_path, monkeypatch):
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    assert container_kind(tmp_path) is None
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".containerenv").touch()
    assert container_kind(tmp_path) == "podman"
    (tmp_path / ".dockerenv").touch()
    assert container_kind(tmp_path) == "docker"


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


def test_a_gpus_session_plans_with_what_was_tuned_on_it(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(session_module, "_open_engine", lambda settings: SimpleNamespace(device=H200))
    settings = RunSettings(engine="cuda")
    assert Session(settings).engine.device.tuning is None
    add_measured(H200, [measured(8)])
    device = Session(settings).engine.device
    assert device.tuning == read_tuning(H200)
    assert Plan.select(problem(), device, "tuned").rule == "grouped"
