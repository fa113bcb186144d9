"""Generators: valid, reproducible, and with the shape they promise."""

import numpy as np
import pytest

from mmvq_cli.errors import UsageError
from mmvq_cli.routing.trace import GENERATORS, PRESETS, Synthesis, preset_synthesis, synthesize, trace_statistics


def plan_of(generator, **changes):
    popularity = np.arange(1.0, 17)[None] if generator == "marginal" else None
    return Synthesis(**{"generator": generator, "n_experts": 16, "top_k": 4, "popularity": popularity, **changes})


@pytest.mark.parametrize("generator", GENERATORS)
def test_every_generator_is_valid_and_reproducible(generator):
    trace = synthesize(plan_of(generator, seed=3))
    trace.validate("it")
    assert trace.ids.min() >= 0
    assert np.array_equal(trace.ids, synthesize(plan_of(generator, seed=3)).ids)
    if generator != "balanced":
        assert not np.array_equal(trace.ids, synthesize(plan_of(generator, seed=4)).ids)
    assert trace.provenance == ("counts-derived" if generator == "marginal" else "synthetic")


@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_valid(name):
    trace = synthesize(preset_synthesis(name, n_layers=1, n_requests=8, request_tokens=16))
    trace.validate(name)
    assert (trace.n_experts, trace.top_k) == (PRESETS[name].n_experts, PRESETS[name].top_k)


def imbalance(**plan):
    return trace_statistics(synthesize(plan_of(**plan))).median["imbalance"]


def test_skew_grows_with_its_parameter():
    assert imbalance(generator="balanced") == 1
    assert imbalance(generator="zipf", parameters={"s": 0.2}) < imbalance(generator="zipf", parameters={"s": 1.0})
    hot = synthesize(plan_of("hot", top_k=1, parameters={"fraction": 0.95}))
    assert hot.counts(0).max() / hot.n_tokens == pytest.approx(0.95, abs=0.01)
    ranks = synthesize(plan_of("imbalanced-ranks", top_k=1, parameters={"ratio": 0.5, "ep": 4}))
    assert ranks.counts(0)[:4].sum() / ranks.n_tokens == pytest.approx(0.5 + 0.5 / 4, abs=0.02)


def test_marginal_follows_its_counts():
    counts = synthesize(plan_of("marginal", top_k=1, n_requests=400)).counts(0)
    assert counts / counts.sum() == pytest.approx(np.arange(1, 17) / 136, abs=0.006)


def test_groups_are_kept_to():
    ids = synthesize(plan_of("uniform", n_group=4, topk_group=2)).ids // 4
    assert max(len(set(row)) for row in ids.reshape(-1, 4).tolist()) == 2


def test_rho_keeps_slots():
    def lag1(rho):
        plan = plan_of("hier", parameters={"rho": rho, "alpha_req": float("inf"), "sigma": 0.0})
        return trace_statistics(synthesize(plan)).median["overlap_1"]

    assert lag1(0.0) == pytest.approx(4 / 16, abs=0.01)
    assert lag1(0.5) == pytest.approx(0.5 + 0.5 * 2 / 14, abs=0.03)  # two of fourteen free slots by chance
    assert lag1(1.0) == 1.0


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"generator": "bogus"}, "no generator"),
        ({"generator": "zipf", "parameters": {"x": 1}}, "no parameter 'x'"),
        ({"generator": "hot", "parameters": {"fraction": 2}}, "fraction is 2"),
        ({"generator": "hot", "parameters": {"experts": 99}}, "99 experts of 16"),
        ({"generator": "zipf", "parameters": {"s": float("nan")}}, "s is nan"),
        ({"generator": "uniform", "top_k": 17}, "top-k 17 of 16"),
        ({"generator": "uniform", "n_group": 3}, "in 3 groups"),
        ({"generator": "uniform", "n_requests": 0}, "at least 1"),
        ({"generator": "marginal", "popularity": None}, "needs the counts"),
    ],
)
def test_a_plan_that_cannot_be_is_refused(changes, words):
    plan = plan_of(changes.pop("generator"), **changes)
    with pytest.raises(UsageError, match=words):
        synthesize(plan)


def test_an_unknown_preset_is_refused():
    with pytest.raises(UsageError, match="no trace preset"):
        preset_synthesis("gpt-5")
