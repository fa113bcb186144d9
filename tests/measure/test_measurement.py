from dataclasses import replace

import pytest

from mmvq_cli.measure import (
    Canary,
    Overheads,
    SamplingSettings,
    StopReason,
    Watch,
    Weights,
    hot_rotation,
    measure,
    open_nvml,
)
from tests.measure.fake_nvml import FakeNvml


class SteadyTimer:
    launches_per_sample = 4

    def sample(self):
        return 2000.0

    def overheads(self, time_ns):
        return Overheads(isolated_latency_ns=time_ns + 500, event_overhead_ns=900.0, launch_overhead_ns=3000.0)


@pytest.fixture
def measurement():
    rotation = hot_rotation([0, 1, 2], Weights(n_experts=4, expert_bytes=1_000_000, l2_bytes=10**6), 4)
    return measure(
        SteadyTimer(),
        rotation,
        SamplingSettings(warmup_min_s=0.0),
        stream_canary=Canary(4 * 2**30, 1e6, (132, 512), True),
        matched_canary=Canary(3_000_000, 1500.0, (132, 256), True),
    )


def test_a_measurement_derives_what_the_table_shows(measurement):
    assert (measurement.time_ns, measurement.launches_per_sample) == (2000.0, 4)
    assert measurement.stop_reason is StopReason.PRECISION
    assert measurement.interval.relative_half_width == 0
    assert measurement.bytes_unique == 3_000_000
    assert measurement.gb_s_unique == 1500.0
    assert measurement.percent_of_canary == pytest.approx(75)
    assert measurement.reuse_distance_x_l2 == 0
    assert measurement.overheads.isolated_latency_ns == 2500.0


def test_no_percent_of_a_canary_that_is_missing_or_wrong(measurement):
    assert replace(measurement, matched_canary=None).percent_of_canary is None
    wrong = Canary(3_000_000, 1500.0, (132, 256), checksum_ok=False)
    assert replace(measurement, matched_canary=wrong).percent_of_canary is None


def test_a_watch_looks_while_samples_are_taken(measurement):
    assert measurement.conditions is None
    fake = FakeNvml(bits=0x20, sm_mhz=1200)
    watch = Watch(open_nvml("GPU-1", fake))
    seen = measure(SteadyTimer(), measurement.rotation, SamplingSettings(warmup_min_s=0.0), watch=watch).conditions
    assert (seen.sm_min_mhz, seen.throttle_bits, seen.after.temp_c) == (1200, 0x20, 61)
