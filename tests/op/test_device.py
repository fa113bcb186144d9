"""The table of known devices."""

import pytest

from mmvq_cli.errors import UsageError
from mmvq_cli.op import CPU, find_device, known_devices


def test_every_known_device_is_complete_and_supported():
    devices = known_devices()
    assert {"a100", "h100", "h200", "b200", "rtx-4090", "cpu"} <= set(devices)
    for name, device in devices.items():
        assert name == device.name.lower()
        if device is not CPU:
            assert device.compute_capability >= (8, 0)
            assert min(device.sm_count, device.l2_bytes, device.memory_bytes, device.bandwidth_gb_s) > 0
            assert 1 << 20 < device.l2_bytes < device.memory_bytes


def test_names_ignore_case_and_architectures_are_targets():
    assert find_device("h200").architecture == "sm_90"
    assert find_device("RTX-5090").architecture == "sm_120"
    assert find_device("CPU") is CPU
    assert CPU.architecture == "cpu"


@pytest.mark.parametrize(("name", "close"), [("h20", "h200"), ("rtx4090", "rtx-4090"), ("zzzz", "b200")])
def test_an_unknown_device_is_answered_with_close_names(name, close):
    with pytest.raises(UsageError, match=name) as caught:
        find_device(name)
    assert close in caught.value.hint
