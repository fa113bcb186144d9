"""The set-up chooses what fits the driver, does nothing twice, and its locks agree with each other."""

from __future__ import annotations

import ctypes
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from mmvq_cli.driver import Driver, Gpu, query_driver
from scripts import setup_env
from scripts.setup_env import Stamp, choose_sets, is_satisfied, must_start_over

ROOT = Path(__file__).resolve().parents[1]
H200 = Gpu("NVIDIA H200", (9, 0), 143_771 * 2**20)


class FakeCuda:
    def __init__(self, version, status=0):
        self.version, self.status = version, status

    def cuDriverGetVersion(self, out):  # noqa: N802
        out._obj.value = self.version
        return self.status


class FakeNvml:
    """As many H200s as asked for; `lost` ones give no handle."""

    def __init__(self, count, lost=()):
        self.count, self.lost, self.shut = count, lost, False

    def nvmlInit_v2(self):  # noqa: N802
        return 0

    def nvmlShutdown(self):  # noqa: N802
        self.shut = True

    def nvmlSystemGetDriverVersion(self, out, size):  # noqa: N802
        out.value = b"580.95.05"

    def nvmlDeviceGetCount_v2(self, out):  # noqa: N802
        out._obj.value = self.count

    def nvmlDeviceGetHandleByIndex_v2(self, index, out):  # noqa: N802
        return 15 if index.value in self.lost else 0

    def nvmlDeviceGetName(self, device, out, size):  # noqa: N802
        out.value = b"NVIDIA H200"

    def nvmlDeviceGetCudaComputeCapability(self, device, major, minor):  # noqa: N802
        major._obj.value, minor._obj.value = 9, 0

    def nvmlDeviceGetMemoryInfo(self, device, out):  # noqa: N802
        out._obj.total = H200.memory_bytes


def machine(monkeypatch, cuda=None, nvml=None):
    """Ask a Linux machine with these libraries; a missing one fails to load."""
    monkeypatch.setattr(sys, "platform", "linux")
    libraries = {"libcuda.so.1": cuda, "libnvidia-ml.so.1": nvml}

    def load(name):
        if libraries[name] is None:
            raise OSError(name)
        return libraries[name]

    return query_driver(load)


@pytest.mark.parametrize(
    ("version", "bench", "test"),
    [
        (11080, ("cpu",), ("dev", "cuda13")),
        (12000, ("cuda12",), ("dev", "cuda12")),
        (12090, ("cuda12",), ("dev", "cuda12")),
        (13000, ("cuda13",), ("dev", "cuda13")),
        (14010, ("cuda13",), ("dev", "cuda13")),
    ],
)
def test_the_driver_decides_the_sets(monkeypatch, version, bench, test):
    driver = machine(monkeypatch, FakeCuda(version), FakeNvml(1))
    assert choose_sets("bench", driver) == bench
    assert choose_sets("test", driver) == test


def test_gpus_are_listed_and_lost_ones_left_out(monkeypatch):
    nvml = FakeNvml(3, lost=(1,))
    driver = machine(monkeypatch, FakeCuda(13000), nvml)
    assert driver == Driver(13000, "580.95.05", (H200, H200), "")
    assert nvml.shut
    assert str(driver) == "NVIDIA driver 580.95.05 (CUDA 13.0)"


@pytest.mark.parametrize(
    ("cuda", "nvml", "words"),
    [
        (None, None, "no NVIDIA driver (libcuda.so.1 not found)"),
        (FakeCuda(0, status=34), None, "cuDriverGetVersion returned 34"),
        (FakeCuda(11080), FakeNvml(1), "too old (it runs CUDA up to 11.8, 12.0 is needed)"),
        (FakeCuda(13000), FakeNvml(0), "sees no GPU"),
    ],
)
def test_no_usable_driver_means_the_cpu_set_and_says_why(monkeypatch, cuda, nvml, words):
    driver = machine(monkeypatch, cuda, nvml)
    assert words in driver.problem
    assert choose_sets("bench", driver) == ("cpu",)


def test_a_container_without_nvml_still_gets_cuda(monkeypatch):
    driver = machine(monkeypatch, FakeCuda(12040), nvml=None)
    assert (driver.gpus, driver.extra, str(driver)) == (None, "cuda12", "NVIDIA driver (CUDA 12.4)")


def test_the_real_query_never_raises():
    assert isinstance(query_driver(), Driver)
    assert isinstance(query_driver(ctypes.CDLL).cuda_version, int)


CPU = Stamp("3.12.1", "d", ("cpu",))
DEV13 = Stamp("3.12.1", "d", ("dev", "cuda13"))
CUDA12 = Stamp("3.12.1", "d", ("cuda12",))


@pytest.mark.parametrize(
    ("wanted", "found", "satisfied", "start_over"),
    [
        (CPU, Stamp(), False, False),
        (CPU, CPU, True, False),
        (CPU, DEV13, True, False),
        (DEV13, CPU, False, False),
        (CUDA12, DEV13, False, True),
        (DEV13, CUDA12, False, True),
        (CPU, Stamp("3.13.0", "d", ("cpu",)), False, True),
        (CPU, Stamp("3.12.1", "older", ("cpu",)), False, False),
        (CPU, Stamp("3.12.1", "older", ("dev", "cuda13")), False, False),
    ],
)
def test_what_a_venv_still_needs(wanted, found, satisfied, start_over):
    assert is_satisfied(wanted, found) is satisfied
    assert must_start_over(wanted, found) is start_over


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A checkout whose installer only writes down what it was asked for."""
    (tmp_path / "requirements").mkdir()
    for name in ("pyproject.toml", *(f"requirements/{name}.txt" for name in ("cpu", "cuda12", "cuda13", "dev"))):
        (tmp_path / name).write_text(name)
    calls = []

    def make(environment, *, clear):
        (environment / "bin").mkdir(parents=True, exist_ok=True)
        (environment / "bin" / "python").touch()
        calls.append("clear" if clear else "keep")

    monkeypatch.setattr(setup_env, "_make_environment", make)
    monkeypatch.setattr(setup_env, "_install", lambda python, root, sets: calls.append(sets))
    return tmp_path, calls


def sets_in(root):
    return json.loads((root / ".venv" / "mmvq-setup.json").read_text())["sets"]


def test_a_second_set_up_does_nothing_and_an_edited_lock_installs_again(checkout, capsys):
    root, calls = checkout
    driver = Driver(0, "", (), "no NVIDIA driver (libcuda.so.1 not found)")
    setup_env.set_up("bench", root, driver)
    assert "no NVIDIA driver (libcuda.so.1 not found)" in capsys.readouterr().out
    setup_env.set_up("bench", root, driver)
    assert (calls, capsys.readouterr().out) == (["keep", ("cpu",)], "")
    setup_env.set_up("test", root, driver)
    setup_env.set_up("bench", root, driver)
    assert calls[2:] == ["keep", ("dev", "cuda13")]
    assert sets_in(root) == ["cpu", "cuda13", "dev"]
    (root / "requirements" / "dev.txt").write_text("newer")
    setup_env.set_up("test", root, driver)
    assert calls[4:] == ["keep", ("dev", "cuda13")]
    assert sets_in(root) == ["cuda13", "dev"]


def test_a_new_driver_changes_the_cuda_set(checkout):
    root, calls = checkout
    setup_env.set_up("bench", root, Driver(12040, "550.1", (H200,), ""))
    setup_env.set_up("bench", root, Driver(13000, "580.1", (H200,), ""))
    assert calls == ["keep", ("cuda12",), "clear", ("cuda13",)]
    assert sets_in(root) == ["cuda13"]


def test_an_interrupted_install_leaves_no_stamp(checkout, monkeypatch):
    root, _ = checkout
    driver = Driver(0, "", (), "no NVIDIA driver")
    setup_env.set_up("bench", root, driver)

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(setup_env, "_install", interrupted)
    with pytest.raises(KeyboardInterrupt):
        setup_env.set_up("test", root, driver)
    assert not (root / ".venv" / "mmvq-setup.json").exists()


def test_a_damaged_stamp_counts_as_none(tmp_path):
    stamp = tmp_path / "stamp.json"
    for text in ("", "[]", "{", '{"unknown": 1}', '{"python": "3.12.1", "digest": "d", "sets": 1}'):
        stamp.write_text(text)
        assert setup_env.read_stamp(stamp) == Stamp()


PIN = re.compile(r"^([a-z0-9-]+)==(\S+)(?: ; (.*?))? \\$", re.MULTILINE)


def pins(name):
    text = (ROOT / "requirements" / f"{name}.txt").read_text()
    return {(package, marker): version for package, version, marker in PIN.findall(text)}


@pytest.mark.parametrize("name", ["cpu", "cuda12", "cuda13", "dev"])
def test_locks_are_exact_hashed_complete_and_agree(name):
    text = (ROOT / "requirements" / f"{name}.txt").read_text()
    assert "://" not in text
    assert "index-url" not in text
    packages = [entry for entry in re.split(r"\n(?=[a-z])", text) if not entry.startswith("#")]
    assert packages
    assert all(PIN.match(entry) and "--hash=sha256:" in entry for entry in packages)
    locked = pins(name)
    assert {package for package, _ in locked} >= {package for package, _ in pins("cpu")}
    shared = locked.keys() & pins("dev").keys()
    assert {key: locked[key] for key in shared} == {key: pins("dev")[key] for key in shared}


def test_every_dependency_of_pyproject_is_locked():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    for name, requirements in {
        "cpu": project["dependencies"] + extras["fast"],
        "cuda12": extras["cuda12"],
        "cuda13": extras["cuda13"],
        "dev": extras["dev"] + extras["fast"],
    }.items():
        wanted = {re.match(r"[a-z0-9-]+", requirement).group() for requirement in requirements}
        assert wanted <= {package for package, _ in pins(name)}, f"make lock: {name}"


def test_make_refuses_an_old_python_with_a_next_step(tmp_path):
    old = tmp_path / "python3.10"
    old.write_text(
        f"""#!/bin/sh\nexec {sys.executable} -c 'import sys; sys.version_info = (3, 10); exec(sys.argv[1])' "$2"\n"""
    )
    old.chmod(0o755)
    result = subprocess.run(
        ["make", "bench", f"PYTHON={old}"], cwd=ROOT, capture_output=True, text=True, check=False, timeout=30
    )
    assert result.returncode != 0
    assert "older than Python 3.11" in result.stderr
    assert "hint: name another one: make PYTHON=" in result.stderr
    assert "setting up" not in result.stdout
