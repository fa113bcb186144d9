"""Statistics against plain definitions, and against published figures of a real recording."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmvq_cli.routing.trace import Synthesis, Trace, import_trace, preset_synthesis, synthesize, trace_statistics
from mmvq_cli.routing.trace.locality import LAGS
from mmvq_cli.routing.trace.statistics import lognormal_sigma, zipf_exponent

RECORDING = Path(__file__).parents[4] / "shared" / "fixtures" / "traces" / "gpt-oss-20b_decode_154req.npz"


def plain_overlap(ids, offsets, lag):
    shared = size = 0
    for start, end in pairwise(offsets):
        for t in range(start, end - lag):
            now, later = ({int(e) for e in ids[i] if e >= 0} for i in (t, t + lag))
            shared, size = shared + len(now & later), size + len(now)
    return shared / size if size else None


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_overlap_and_counts_are_their_definitions(data):
    n_experts = data.draw(st.sampled_from([4, 64, 65, 130, 300]))
    top_k = data.draw(st.integers(1, 4))
    lengths = data.draw(st.lists(st.integers(0, 40), min_size=1, max_size=5).filter(sum))
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    ids = np.argsort(rng.random((sum(lengths), n_experts)), axis=1)[:, :top_k].astype(np.int16)
    ids[rng.random(len(ids)) < 0.1] = -1
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    trace = Trace(n_experts, top_k, np.zeros(1, np.int32), topk_ids=ids[None], request_offsets=offsets)
    (layer,) = trace_statistics(trace).layers
    assert layer.dispatches == (ids >= 0).sum()
    assert layer.expert_max == np.bincount(ids[ids >= 0], minlength=n_experts).max()
    for lag in LAGS:
        expected = plain_overlap(ids, offsets, lag)
        assert layer.overlap.get(lag) == (None if expected is None else pytest.approx(expected))


def test_requests_interleaved_in_steps_are_followed():
    ids = np.array([[0], [1], [0], [1], [0], [1]], np.int16)
    trace = Trace(
        4, 1, np.zeros(1, np.int32), ids[None],
        step_offsets=np.array([0, 2, 4, 6]), request_id=np.array([5, 2] * 3, np.int32),
    )  # fmt: skip
    assert trace_statistics(trace).layers[0].overlap[1] == 1.0


def test_memory_chunks_do_not_show(monkeypatch):
    trace = synthesize(Synthesis(generator="zipf", n_experts=16, top_k=2, n_requests=7, request_tokens=33))
    whole = trace_statistics(trace)
    monkeypatch.setattr("mmvq_cli.routing.trace.locality._CHUNK_TOKENS", 5)
    assert trace_statistics(trace) == whole


def test_families_give_back_their_parameter():
    ranks = np.arange(1, 65)
    assert zipf_exponent(np.round(1e9 * ranks**-0.7).astype(np.int64)) == pytest.approx(0.7, abs=1e-3)
    trace = synthesize(
        Synthesis(
            generator="lognormal", n_experts=64, top_k=1, n_requests=100, request_tokens=500, parameters={"sigma": 0.6}
        )
    )
    assert lognormal_sigma(trace.counts(0)) == pytest.approx(0.6, abs=0.02)


def test_a_cache_of_everything_that_repeats_hits():
    ids = np.tile(np.array([[0, 1], [2, 3]], np.int16), (50, 1))
    trace = Trace(16, 2, np.zeros(1, np.int32), ids[None], request_offsets=np.array([0, 100]))
    lru = trace_statistics(trace, lru=True).layers[0].lru
    assert lru == {0.125: 0.0, 0.25: 0.98, 0.5: 0.98}


def test_rank_imbalance_padding_and_the_histogram_of_m():
    trace = synthesize(Synthesis(generator="balanced", n_experts=16, top_k=4, n_requests=16, request_tokens=64))
    result = trace_statistics(trace, ep=4)
    assert result.median["rank_imbalance"] == pytest.approx(1.0)
    assert result.median["imbalance"] == pytest.approx(1.0)
    one = result.batches[0]
    assert one.m_histogram[:2] == (0.75, 0.25)
    assert one.padding[16] == 1 - 1 / 16


@pytest.mark.skipif(not RECORDING.is_file(), reason="the recording of gpt-oss-20b is not part of the repository")
def test_the_recording_of_gpt_oss_gives_its_published_figures():
    result = trace_statistics(import_trace(RECORDING, "npz"))
    assert result.median["overlap_1"] == pytest.approx(0.430, rel=0.005)
    assert result.median["overlap_20"] == pytest.approx(0.325, rel=0.005)
    means = [np.mean([layer.overlap[lag] for layer in result.layers]) for lag in (1, 20)]
    assert means == [pytest.approx(0.438, rel=0.005), pytest.approx(0.346, rel=0.005)]
    assert result.median["imbalance"] == pytest.approx(2.78, rel=0.03)
    batch = next(batch for batch in result.batches if batch.n_tokens == 16)
    assert batch.across_touched == pytest.approx(23.2, rel=0.03)
    assert 16.3 * 0.97 <= batch.consecutive_touched <= batch.consecutive_touched_by_request <= 16.9 * 1.03


def test_the_gpt_oss_preset_lands_near_the_measured_model():
    rows = []
    for seed in range(20):
        result = trace_statistics(synthesize(preset_synthesis("gpt-oss", seed=seed)))
        batch = next(batch for batch in result.batches if batch.n_tokens == 16)
        median = result.median
        rows.append(
            (
                median["overlap_1"],
                median["overlap_20"],
                batch.across_touched,
                batch.consecutive_touched,
                median["imbalance"],
            )
        )
    lag1, lag20, across, consecutive, imbalance = np.median(rows, axis=0)
    assert lag1 == pytest.approx(0.430, rel=0.15)
    assert lag20 == pytest.approx(0.325, rel=0.15)
    assert across == pytest.approx(23.2, rel=0.15)
    assert consecutive == pytest.approx(16.6, rel=0.15)
    assert imbalance == pytest.approx(2.78, rel=0.25)
