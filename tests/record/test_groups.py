import math
import statistics

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from mmvq_cli.op import PrecisionGuarantee
from mmvq_cli.record import Correctness, Precision, RoutingSummary, Status, TimeStatistics
from mmvq_cli.routing import draw, parse_routing
from tests.record.factory import make_record


@given(st.lists(st.floats(1, 1e9), min_size=1, max_size=50))
def test_time_statistics_agree_with_the_standard_library(samples):
    found = TimeStatistics.of(tuple(samples))
    assert found.min == min(samples)
    assert found.max == max(samples)
    assert found.median == pytest.approx(statistics.median(samples))
    assert found.min <= found.p05 <= found.q1 <= found.median <= found.q3 <= found.p95 <= found.max
    deviation = statistics.stdev(samples) if len(samples) > 1 else 0
    assert found.cv == pytest.approx(deviation / statistics.fmean(samples), abs=1e-9)


@pytest.mark.parametrize("status", [status for status in Status if status is not Status.PASSED])
def test_what_did_not_pass_needs_a_reason(status):
    with pytest.raises(ValidationError, match="needs a reason"):
        Correctness(status=status, needed_bytes=1)
    assert Correctness(status=status, needed_bytes=1, reason="so").status is status


def test_out_of_memory_says_how_much():
    with pytest.raises(ValidationError, match="needed_bytes"):
        Correctness(status=Status.OUT_OF_MEMORY, reason="too large")
    assert Correctness(status=Status.OUT_OF_MEMORY, reason="too large", needed_bytes=3 * 2**29).needed_gib == 1.5


@pytest.mark.parametrize("value", [math.nan, math.inf, np.float32("nan")])
def test_floats_are_finite(value):
    with pytest.raises(ValidationError, match="finite"):
        make_record(correctness__nmse=value)


def test_fields_that_nobody_knows_are_refused():
    with pytest.raises(ValidationError, match="Extra inputs"):
        make_record(work__bytes_guessed=1)


def test_made_from_the_values_of_other_rooms():
    routing = draw(parse_routing("zipf:1.0"), 16, 2, 8, seed=1)
    summary = RoutingSummary.model_validate(routing.statistics())
    assert summary.m_total == 16
    assert sum(summary.histogram.values()) == 16
    guarantee = PrecisionGuarantee("f32", "f32", 32.0, True, True, False)
    assert Precision.model_validate(guarantee).batch_invariant is False
