import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmvq_cli.errors import UsageError
from mmvq_cli.routing import RoutingSpec, draw, parse_routing
from mmvq_cli.routing.draws import _masses

SPECS = ["uniform", "balanced", "zipf:1.0", "zipf:12", "lognormal:0.7", "hot:0.5", "hot:3:1.0"]
KNOWN_IDS = [[5, 11, 8, 1], [6, 3, 11, 12], [7, 5, 10, 11]]
KNOWN_BALANCED = [[10, 5, 13, 7], [2, 3, 8, 14], [1, 15, 6, 12]]
KNOWN_WEIGHTS = [0.35294172, 0.24730651, 0.24306305, 0.15668873]


@st.composite
def problems(draw_value):
    spec = parse_routing(draw_value(st.sampled_from(SPECS)))
    n_experts = draw_value(st.integers(spec.hot_experts, 40))
    top_k = draw_value(st.integers(1, n_experts))
    return spec, n_experts, top_k, draw_value(st.integers(0, 30)), draw_value(st.integers(-3, 2**70))


@settings(deadline=None)
@given(problems())
def test_experts_are_distinct_and_weights_positive_descending_of_sum_one(problem):
    _, n_experts, top_k, n_tokens, _ = problem
    routing = draw(*problem)
    assert routing.ids.shape == (n_tokens, top_k)
    assert ((routing.ids >= 0) & (routing.ids < n_experts)).all()
    assert (np.diff(np.sort(routing.ids, axis=1), axis=1) > 0).all()
    assert (routing.weights > 0).all()
    assert (np.diff(routing.weights, axis=1) <= 0).all()
    np.testing.assert_allclose(routing.weights.sum(axis=1, dtype=np.float64), 1, atol=1e-6)


@settings(deadline=None)
@given(problems())
def test_a_draw_depends_on_its_arguments_alone(problem):
    first = draw(*problem)
    np.random.seed(1)
    again = draw(*problem)
    assert (first.ids == again.ids).all()
    assert (first.weights == again.weights).all()


@pytest.mark.parametrize("text", SPECS)
def test_seed_and_index_change_the_draw(text):
    spec = parse_routing(text)
    base = draw(spec, 64, 4, 32, seed=1)
    for other in (draw(spec, 64, 4, 32, seed=2), draw(spec, 64, 4, 32, seed=1, index=1)):
        assert (base.weights != other.weights).any()
        assert (base.ids != other.ids).any()


def test_known_values_hold_on_every_platform():
    routing = draw(parse_routing("zipf:1.0"), 16, 4, 3, seed=7)
    assert routing.ids.tolist() == KNOWN_IDS
    assert routing.source == "zipf:1.0"
    assert routing.seed == 7
    assert draw(parse_routing("balanced"), 16, 4, 3, seed=7).ids.tolist() == KNOWN_BALANCED
    np.testing.assert_allclose(routing.weights[0], KNOWN_WEIGHTS, rtol=1e-6)


@given(st.integers(1, 33), st.integers(1, 8), st.integers(1, 50), st.integers(0, 9))
def test_balanced_differs_by_at_most_one(n_experts, top_k, n_tokens, seed):
    routing = draw(RoutingSpec("balanced"), n_experts, min(top_k, n_experts), n_tokens, seed)
    counts = np.bincount(routing.ids.reshape(-1), minlength=n_experts)
    assert counts.max() - counts.min() <= 1


def test_draws_of_one_seed_share_their_popular_experts():
    spec = parse_routing("zipf:1.5")
    most_popular = {int(np.bincount(draw(spec, 32, 2, 500, 5, index).ids.reshape(-1)).argmax()) for index in range(4)}
    assert len(most_popular) == 1
    others = {int(np.bincount(draw(spec, 32, 2, 500, seed).ids.reshape(-1)).argmax()) for seed in range(8)}
    assert len(others) > 1


@pytest.mark.parametrize("text", ["uniform", "zipf:1.0", "lognormal:1.2", "hot:2:0.6"])
def test_one_expert_per_token_follows_the_popularity(text):
    spec, n_tokens = parse_routing(text), 200_000
    share = _masses(spec, 20, seed=3) / _masses(spec, 20, seed=3).sum()
    counts = np.bincount(draw(spec, 20, 1, n_tokens, seed=3).ids[:, 0], minlength=20)
    # Five standard deviations of a binomial count.
    assert (np.abs(counts - n_tokens * share) <= 5 * np.sqrt(n_tokens * share * (1 - share)) + 1).all()


def test_pairs_follow_plackett_luce():
    spec, n_tokens = parse_routing("zipf:1.0"), 300_000
    mass = _masses(spec, 5, seed=0) / _masses(spec, 5, seed=0).sum()
    ids = draw(spec, 5, 2, n_tokens, seed=0).ids
    for first in range(5):
        for second in range(5):
            share = 0 if first == second else mass[first] * mass[second] / (1 - mass[first])
            count = np.count_nonzero((ids[:, 0] == first) & (ids[:, 1] == second))
            assert abs(count - n_tokens * share) <= 5 * np.sqrt(n_tokens * share)


def test_hot_experts_take_all_when_their_share_is_one():
    ids = draw(parse_routing("hot:3:1.0"), 64, 2, 100, seed=1).ids
    assert len(np.unique(ids)) == 3


@pytest.mark.parametrize(
    ("sizes", "word"),
    [((4, 5, 1), "top-k is 5"), ((0, 1, 1), "0 experts"), ((4, 0, 1), "0 of 4"), ((4, 1, -1), "-1 tokens")],
)
def test_impossible_sizes_are_usage_errors(sizes, word):
    with pytest.raises(UsageError, match=word):
        draw(parse_routing("uniform"), *sizes, seed=0)


def test_too_many_hot_experts_are_a_usage_error():
    with pytest.raises(UsageError, match="9 hot experts"):
        draw(parse_routing("hot:9:0.5"), 8, 1, 1, seed=0)


def test_all_experts_per_token():
    routing = draw(parse_routing("zipf:2.0"), 8, 8, 50, seed=0)
    assert (np.sort(routing.ids, axis=1) == np.arange(8)).all()
