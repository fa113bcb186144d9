"""Replace CuPy by the fake of fake_cuda.py."""

from __future__ import annotations

import sys

import pytest

from mmvq_cli.engine.cuda import dependent, device, launch, tensor_map
from tests.engine.cuda.fake_cuda import FakeCuda, compile_nothing, fake_module


def _forget() -> None:
    """Drop what the process remembers of its CUDA."""
    for remembers in (device.import_cupy, device.current_device, device.device_facts):
        remembers.cache_clear()
    launch._load.cache_clear()
    launch._load_module.cache_clear()


@pytest.fixture
def cuda(monkeypatch):
    """The fake, in place of CuPy; sources are not compiled."""
    fake = FakeCuda()
    monkeypatch.setitem(sys.modules, "cupy", fake_module(fake))
    monkeypatch.setattr(launch, "cached_compile", compile_nothing)
    for module in (dependent, tensor_map):
        monkeypatch.setattr(module, "driver_library", lambda: fake)
    _forget()
    yield fake
    _forget()
