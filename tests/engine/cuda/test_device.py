"""Device facts from the runtime, and a sentence with a way out for everything that can be missing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from mmvq_cli.driver import Driver
from mmvq_cli.engine.cuda import device
from mmvq_cli.engine.cuda.device import current_device, device_facts, import_cupy
from mmvq_cli.errors import EnvironmentInvalid
from mmvq_cli.op import Device

GIB = 2**30
H200 = Device(
    name="H200", backend="cuda", compute_capability=(9, 0), sm_count=132, memory_bytes=139 * GIB, bandwidth_gb_s=4800.0
)


@pytest.fixture(autouse=True)
def _known_devices(monkeypatch):
    monkeypatch.setattr(device, "known_devices", lambda: {"h200": H200})


def test_the_device_is_what_the_runtime_says(cuda):
    assert current_device(0) == Device(
        name="NVIDIA H200",
        backend="cuda",
        index=0,
        compute_capability=(9, 0),
        sm_count=132,
        l2_bytes=60 * 2**20,
        memory_bytes=140 * GIB,
        bandwidth_gb_s=4800.0,
    )


@pytest.mark.parametrize(
    "different",
    [
        {"name": b"NVIDIA H100"},
        {"name": b"NVIDIA GH2000"},
        {"multiProcessorCount": 114},
        {"totalGlobalMem": 80 * GIB},
        {"minor": 1},
    ],
    ids=str,
)
def test_no_datasheet_bandwidth_for_a_variant_of_the_chip(cuda, different):
    cuda.properties |= different
    assert current_device(0).bandwidth_gb_s == 0.0


def test_facts_identify_the_device(cuda, monkeypatch):
    monkeypatch.setattr(device, "query_driver", lambda: Driver(13000, "580.95", (), ""))
    monkeypatch.setattr(device, "_uuid", lambda index: f"GPU-{index}")
    facts = device_facts(0)
    assert facts.uuid == "GPU-0"
    assert (facts.bus_bits, facts.max_threads_per_sm) == (6144, 2048)
    assert (facts.driver, facts.cuda_rt) == ("580.95", "13.0")


def test_a_missing_cupy_names_the_extra(cuda, monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", None)
    with pytest.raises(EnvironmentInvalid, match="CuPy") as caught:
        import_cupy()
    assert ".[cuda13]" in caught.value.hint
    assert "--engine cpu" in caught.value.hint


def test_a_driver_that_fails_is_reported_in_its_own_words(cuda):
    cuda.n_devices = -1
    with pytest.raises(EnvironmentInvalid, match="cudaErrorNoDevice"):
        import_cupy()


def test_no_device_points_at_the_visible_ones(cuda):
    cuda.n_devices = 0
    with pytest.raises(EnvironmentInvalid, match="no device") as caught:
        current_device(0)
    assert "CUDA_VISIBLE_DEVICES" in caught.value.hint


@pytest.mark.parametrize("index", [1, -1])
def test_an_index_that_is_not_there_names_the_range(cuda, index):
    with pytest.raises(EnvironmentInvalid, match=f"no CUDA device {index}, this machine has 1"):
        current_device(index)


def test_a_failure_is_not_remembered(cuda):
    cuda.n_devices = 0
    with pytest.raises(EnvironmentInvalid):
        current_device(0)
    cuda.n_devices = 1
    assert current_device(0).sm_count == 132


class Libcuda:
    """The driver library with a device whose UUID has a zero byte."""

    def __init__(self, status):
        self.status = status

    def cuDeviceGetUuid_v2(self, uuid, index):  # noqa: N802 (the driver's name)
        uuid[:] = bytes([index + 0xA0, 0, *range(2, 16)])
        return self.status


def test_a_uuid_with_a_zero_byte_is_whole():
    assert device._uuid(1, lambda name: Libcuda(0)) == "GPU-a1000203-0405-0607-0809-0a0b0c0d0e0f"


def test_a_driver_that_does_not_tell_the_uuid_leaves_it_unknown():
    def missing(name):
        raise OSError(name)

    assert device._uuid(0, lambda name: Libcuda(101)) is None
    assert device._uuid(0, lambda name: object()) is None
    assert device._uuid(0, missing) is None


def test_the_room_loads_without_cupy():
    code = "import sys; sys.modules['cupy'] = sys.modules['cupy_backends'] = None; import mmvq_cli.engine.cuda"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[3])


def test_persisting_lines_are_let_go_where_there_is_a_driver():
    calls = []
    device.reset_persisting_l2(lambda name: type("Cuda", (), {"cuCtxResetPersistingL2Cache": lambda: calls.append(1)}))

    def missing(name):
        raise OSError(name)

    device.reset_persisting_l2(missing)
    assert calls == [1]
