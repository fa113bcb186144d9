import sys

import pytest

from mmvq_cli.engine.cuda.device import import_cupy
from tests.measure.fake_cupy import FakeGpu


@pytest.fixture
def gpu(monkeypatch):
    """A GPU on a virtual clock in the place of CuPy."""
    fake = FakeGpu()
    monkeypatch.setitem(sys.modules, "cupy", fake.cupy)
    import_cupy.cache_clear()
    yield fake
    import_cupy.cache_clear()
