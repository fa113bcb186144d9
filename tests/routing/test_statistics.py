import numpy as np
import pytest
from hypothesis import given

from mmvq_cli.routing import draw, parse_routing
from mmvq_cli.routing.statistics import expected_uniform_imbalance

from .test_step import make_routing, routings


def test_counts_of_a_known_step():
    statistics = make_routing([[0, 2], [2, -1], [2, 2]], 4).statistics()
    assert statistics.m_total == 5
    assert statistics.touched_experts == 2
    assert statistics.dispatches_per_touched_expert_mean == 2.5
    assert statistics.dispatches_per_touched_expert_max == 4
    assert statistics.imbalance == pytest.approx(4 / (5 / 4))
    assert statistics.histogram == {0: 2, 1: 1, 4: 1}


@given(routings())
def test_histogram_holds_every_expert_and_every_dispatch(routing):
    statistics = routing.statistics()
    assert sum(statistics.histogram.values()) == routing.n_experts
    assert sum(count * experts for count, experts in statistics.histogram.items()) == statistics.m_total
    assert statistics.touched_experts == routing.n_experts - statistics.histogram.get(0, 0)
    assert statistics.imbalance == 0 or 1 <= statistics.imbalance <= routing.n_experts


def test_a_step_without_dispatches_is_all_zero():
    for ids in ([[-1, -1]], np.zeros((0, 2))):
        statistics = make_routing(ids, 3).statistics()
        assert (statistics.m_total, statistics.imbalance, statistics.uniform_imbalance) == (0, 0.0, 0.0)


@pytest.mark.parametrize(
    ("n_experts", "top_k", "n_tokens"),
    [(4, 2, 1), (4, 2, 2), (8, 2, 16), (32, 4, 3), (128, 8, 1), (128, 8, 4), (128, 8, 64), (256, 8, 4096), (8, 8, 5)],
)
def test_uniform_imbalance_agrees_with_simulation(n_experts, top_k, n_tokens):
    uniform = parse_routing("uniform")
    draws = 2000 if n_tokens < 5 else 200 if n_tokens < 1000 else 20
    seen = [draw(uniform, n_experts, top_k, n_tokens, 0, index).statistics().imbalance for index in range(draws)]
    expected = expected_uniform_imbalance(n_experts, n_tokens * top_k, n_tokens)
    error_of_mean = np.std(seen) / np.sqrt(draws)
    assert abs(np.mean(seen) - expected) <= 0.03 * expected + 3 * error_of_mean


def test_uniform_imbalance_at_the_extremes():
    assert expected_uniform_imbalance(1, 10, 10) == 1
    assert expected_uniform_imbalance(256, 8_000_000, 1_000_000) == pytest.approx(1.0155, abs=2e-3)
    assert np.isfinite(expected_uniform_imbalance(100_000, 1, 1))
