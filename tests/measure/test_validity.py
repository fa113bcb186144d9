"""Which streaming reads make a run invalid."""

import pytest

from mmvq_cli.measure import drift, least_stream_gb_s, stream_problems
from mmvq_cli.op import CPU, Device, find_device


def test_a_measured_device_has_its_own_limit_and_others_a_share_of_the_data_sheet():
    assert least_stream_gb_s(Device(name="NVIDIA H200", backend="cuda", bandwidth_gb_s=4800.0)) == 4500.0
    assert least_stream_gb_s(find_device("RTX-4090")) == pytest.approx(0.8 * 1008)
    assert least_stream_gb_s(Device(name="NVIDIA GH200 480GB", backend="cuda")) is None
    assert least_stream_gb_s(CPU) is None


@pytest.mark.parametrize(
    ("readings", "least", "words"),
    [
        ([4559.0, 4552.0, 4556.0], 4500.0, []),
        ([4559.0, None, 4499.0], 4500.0, ["reaches 4499 GB/s, this device gives 4500"]),
        ([4900.0, 4700.0], 4500.0, ["changed by 4.3 %"]),
        ([4600.0, 4000.0], 4500.0, ["reaches 4000", "changed by 15.0 %"]),
        ([1.0], None, []),
        ([], 4500.0, []),
    ],
)
def test_slow_and_wandering_reads_are_problems(readings, least, words):
    problems = stream_problems(readings, least)
    assert len(problems) == len(words)
    assert all(word in problem for word, problem in zip(words, problems, strict=True))


def test_drift_is_between_the_extremes():
    assert drift([100.0, 103.0, 101.0]) == pytest.approx(0.03)
    assert drift([100.0]) == drift([]) == drift([None, 5.0]) == 0.0
