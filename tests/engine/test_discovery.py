"""Doctor's findings: every broken installation is a finding with a way out, never an exception."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from mmvq_cli.driver import Driver, Gpu
from mmvq_cli.engine import discovery
from mmvq_cli.engine.cuda import probe
from mmvq_cli.engine.discovery import CudaProbe, Level, cuda_available, diagnose, kernel_cache_dir, probe_cuda

H200 = Gpu("NVIDIA H200", (9, 0), 139 * 2**30)
TURING = Gpu("Tesla T4", (7, 5), 15 * 2**30)
NO_DRIVER = Driver(0, "", (), "no NVIDIA driver (libcuda.so.1 not found)")
CUDA13 = Driver(13000, "580.95.05", (H200,), "")
CUDA12 = Driver(12040, "550.54", (H200,), "")
TOO_OLD = Driver(11080, "520.61", (H200,), "the NVIDIA driver is too old (it runs CUDA up to 11.8, 12.0 is needed)")
LAUNCHED = CudaProbe("launched", "14.2.0", "13.5", "/headers", 1)
BASE = dict.fromkeys(("gguf", "numpy", "pandas", "pydantic", "rich", "typer", "libgguf"), "1.0")


def look(driver, tried=LAUNCHED, **packages):
    """Diagnose a machine with this driver, this outcome of the probe, and these packages beside the usual ones."""
    versions = BASE | {name.replace("_", "-"): version for name, version in packages.items()}
    diagnosis = diagnose(lambda: driver, lambda: tried, lambda name: versions.get(name, ""))
    return diagnosis, {finding.name: finding for finding in diagnosis.findings}


@pytest.fixture(autouse=True)
def _all_gpus_visible(monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


def test_a_good_machine_has_nothing_to_mend():
    diagnosis, found = look(CUDA13, cupy_cuda13x="14.2.0")
    assert diagnosis.cuda_problem == ""
    assert found["GPU 0"].seen == "NVIDIA H200, sm_90, 139.0 GiB"
    assert found["launch"].seen == "a kernel ran on 1 GPU"
    gpu_side = ("driver", "GPU 0", "CuPy", "CuPy import", "NVRTC", "CUDA headers", "launch")
    assert all(found[name].level is Level.OK and not found[name].mend for name in gpu_side)


def test_without_a_driver_nothing_is_broken():
    diagnosis, found = look(NO_DRIVER)
    assert diagnosis.cuda_problem == NO_DRIVER.problem
    assert (found["driver"].level, found["CuPy"].level) == (Level.WARNING, Level.OK)
    assert "launch" not in found


def test_a_compiler_without_a_driver_is_checked_up_to_the_headers():
    _, found = look(
        NO_DRIVER, CudaProbe("device", "14.2.0", "13.5", "/headers", error="no driver"), cupy_cuda13x="14.2.0"
    )
    assert found["CUDA headers"].level is Level.OK
    assert "launch" not in found


@pytest.mark.parametrize(
    ("driver", "packages", "words", "mend"),
    [
        (CUDA12, {}, "not installed", "pip install '.[cuda12]'"),
        (CUDA13, {}, "not installed", "pip install '.[cuda13]'"),
        (CUDA12, {"cupy_cuda13x": "14.2.0"}, "needs CUDA 13, the driver runs up to 12.4", ".[cuda12]"),
        (
            CUDA13,
            {"cupy_cuda13x": "14", "cupy_cuda12x": "14"},
            "break each other",
            "pip uninstall cupy-cuda13x cupy-cuda12x",
        ),
    ],
)
def test_a_wrong_cupy_is_a_problem_with_the_command_that_mends_it(driver, packages, words, mend):
    diagnosis, found = look(driver, **packages)
    assert found["CuPy"].level is Level.PROBLEM
    assert words in found["CuPy"].seen
    assert mend in found["CuPy"].mend
    assert diagnosis.cuda_problem


def test_an_older_cupy_under_a_newer_driver_is_fine():
    assert look(CUDA13, cupy_cuda12x="14.2.0")[0].cuda_problem == ""


def test_a_driver_too_old_is_a_problem():
    diagnosis, found = look(TOO_OLD, cupy_cuda12x="14.2.0")
    assert found["driver"].level is Level.PROBLEM
    assert diagnosis.cuda_problem == TOO_OLD.problem


@pytest.mark.parametrize(
    ("step", "name"), [("import", "CuPy import"), ("nvrtc", "NVRTC"), ("headers", "CUDA headers"), ("device", "launch")]
)
def test_the_step_that_fails_is_the_problem_and_the_last_finding(step, name):
    diagnosis, found = look(
        CUDA13, CudaProbe(step, "14.2.0", "13.5", "/headers", error="it broke"), cupy_cuda13x="14.2.0"
    )
    assert diagnosis.findings[-1] == found[name]
    assert (found[name].level, found[name].seen) == (Level.PROBLEM, "it broke")
    assert ".[cuda13]" in found[name].mend
    assert step in diagnosis.cuda_problem


def test_a_gpu_before_sm_80_is_named_and_refused_when_alone():
    both, found = look(Driver(13000, "580", (TURING, H200), ""), cupy_cuda13x="14.2.0")
    assert (found["GPU 0"].level, found["GPU 1"].level) == (Level.WARNING, Level.OK)
    assert both.cuda_problem == ""
    alone, _ = look(Driver(13000, "580", (TURING,), ""), cupy_cuda13x="14.2.0")
    assert "sm_80" in alone.cuda_problem


def test_hidden_gpus_are_named(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    diagnosis, found = look(CUDA13, cupy_cuda13x="14.2.0")
    assert diagnosis.cuda_problem == "CUDA_VISIBLE_DEVICES hides every GPU"
    assert found["CUDA_VISIBLE_DEVICES"].mend == "unset CUDA_VISIBLE_DEVICES"


def test_gpus_that_cannot_be_listed_are_a_warning_only():
    diagnosis, found = look(Driver(13000, "", None, ""), cupy_cuda13x="14.2.0")
    assert found["GPU"].level is Level.WARNING
    assert diagnosis.cuda_problem == ""


def test_missing_packages_and_the_slow_dequantizer():
    versions = BASE | {"libgguf": "", "pandas": ""}
    diagnosis = diagnose(lambda: NO_DRIVER, lambda: LAUNCHED, lambda name: versions.get(name, ""))
    found = {finding.name: finding for finding in diagnosis.findings}
    assert (found["libgguf"].level, found["pandas"].level) == (Level.WARNING, Level.PROBLEM)
    assert "gguf-py" in found["libgguf"].seen


def test_cuda_available_tells_the_reason(monkeypatch):
    monkeypatch.setattr(discovery, "query_driver", lambda: NO_DRIVER)
    assert cuda_available() == (False, NO_DRIVER.problem)
    monkeypatch.setattr(discovery, "query_driver", lambda: CUDA13)
    monkeypatch.setattr(discovery, "_installed_cupys", lambda: {"cupy-cuda13x": "14.2.0"})
    assert cuda_available() == (True, "")


def test_the_cache_folder_follows_xdg_and_the_platform(monkeypatch, tmp_path):
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert kernel_cache_dir() == tmp_path / "cache" / "mmvq"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert kernel_cache_dir() == tmp_path / ".cache" / "mmvq"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(sys, "platform", "darwin")
    assert kernel_cache_dir() == tmp_path / "Library" / "Caches" / "mmvq"


def test_the_cache_finding_counts_files_and_sees_a_folder_it_cannot_make(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    (tmp_path / "mmvq").mkdir()
    (tmp_path / "mmvq" / "kernel.cubin").write_bytes(bytes(3 * 2**20))
    assert "1 files, 3.0 MiB" in look(NO_DRIVER)[1]["kernel cache"].seen
    blocked = tmp_path / "file"
    blocked.touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(blocked))
    assert look(NO_DRIVER)[1]["kernel cache"].level is Level.WARNING


def fake_python(tmp_path, monkeypatch, **modules):
    """A Python whose modules are shadowed by these sources, as in a broken installation."""
    for name, source in modules.items():
        (tmp_path / f"{name}.py").write_text(source)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return probe_cuda()


def test_a_broken_cupy_is_reported_without_a_traceback(tmp_path, monkeypatch):
    report = fake_python(tmp_path, monkeypatch, cupy="raise ImportError('libfoo.so.9: cannot open\\nmore')")
    assert (report.step, report.error) == ("import", "ImportError: libfoo.so.9: cannot open")


def test_a_cupy_that_kills_its_process_is_reported(tmp_path, monkeypatch):
    report = fake_python(tmp_path, monkeypatch, cupy="import os; os.kill(os.getpid(), 11)")
    assert report.step == "import"
    assert "exit -11" in report.error


def test_a_crash_after_the_import_keeps_what_worked(tmp_path, monkeypatch):
    report = fake_python(tmp_path, monkeypatch, cupy="__version__ = '14.9'", cupy_backends="import os; os._exit(3)")
    assert (report.step, report.cupy_version) == ("nvrtc", "14.9")
    assert "exit 3" in report.error


def test_a_python_that_cannot_start_is_reported():
    assert "no-such-python" in probe_cuda("/no-such-python").error


def test_the_mark_is_the_one_the_probe_prints():
    assert discovery.PROBE_MARK == probe.MARK


def test_the_real_probe_compiles_with_the_headers():
    pytest.importorskip("cupy", exc_type=ImportError)
    report = probe_cuda()
    assert report.step in ("device", "launched"), report.error
    assert Path(report.header_folder, "cuda_fp16.h").is_file()


def test_discovery_leaves_cupy_out_of_its_own_process():
    code = "import sys; import mmvq_cli.engine.discovery as d; d.cuda_available(); print('cupy' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "False"
