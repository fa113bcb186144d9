import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmvq_cli.errors import UsageError
from mmvq_cli.measure import CacheMode, Step, Weights, cold_rotation, flush_rotation, hot_rotation
from mmvq_cli.measure.rotation import COLD_DISTANCE_X_L2, MAX_LAUNCHES, reuse_distance

GIB = 2**30


def brute_distance(sequence, draws, expert_bytes):
    """Walk from every use of every item to its next one and collect what lies between, launch by launch."""
    n, least = len(sequence), None
    touched = [{(copy, expert) for expert in draws[draw]} for copy, draw in sequence]
    for i in range(n):
        for item in touched[i]:
            between, j = set(), i + 1
            while item not in touched[j % n]:
                between |= touched[j % n]
                j += 1
            least = len(between) if least is None else min(least, len(between))
    return least * expert_bytes


def lru_misses_everything(sequence, draws, capacity_items, turns=3):
    """Whether a fully associative LRU cache never hits after the launch that loaded an item."""
    cache: dict[tuple[int, int], int] = {}
    for time, (copy, draw) in enumerate(list(sequence) * turns):
        for expert in draws[draw]:
            if cache.get((copy, expert), time) != time:
                return False
        for expert in draws[draw]:
            cache.pop((copy, expert), None)
            cache[copy, expert] = time
        while len(cache) > capacity_items:
            cache.pop(next(iter(cache)))
    return True


problems = st.integers(1, 12).flatmap(
    lambda n_experts: st.tuples(
        st.lists(st.lists(st.integers(0, n_experts - 1), min_size=1, max_size=6), min_size=1, max_size=5),
        st.builds(
            Weights,
            n_experts=st.just(n_experts),
            expert_bytes=st.integers(1, 50),
            l2_bytes=st.integers(1, 400),
        ),
        st.integers(1, 5000),
        st.integers(1, 12),
    )
)


@given(problems)
@settings(max_examples=200, deadline=None)
def test_distance_is_what_a_walk_over_the_sequence_finds(problem):
    draws, weights, memory_bytes, min_launches = problem
    rotation = cold_rotation(draws, weights, memory_bytes, min_launches)
    found = brute_distance(rotation.sequence, [set(draw) for draw in draws], weights.expert_bytes)
    assert rotation.reuse_distance_x_l2 == pytest.approx(found / weights.l2_bytes)


@given(problems)
@settings(max_examples=100, deadline=None)
def test_a_cache_within_the_distance_never_hits(problem):
    draws, weights, memory_bytes, min_launches = problem
    rotation = cold_rotation(draws, weights, memory_bytes, min_launches)
    capacity = round(rotation.reuse_distance_x_l2 * weights.l2_bytes / weights.expert_bytes)
    assert lru_misses_everything(rotation.sequence, [set(draw) for draw in draws], capacity)


@given(problems)
@settings(max_examples=100, deadline=None)
def test_a_plan_keeps_its_limits_and_owns_up(problem):
    draws, weights, memory_bytes, min_launches = problem
    rotation = cold_rotation(draws, weights, memory_bytes, min_launches)
    n = rotation.launches_per_sample
    assert min_launches <= n <= max(MAX_LAUNCHES, min_launches)
    assert rotation.n_copies * weights.copy_bytes <= max(memory_bytes, weights.copy_bytes)
    assert {step.copy for step in rotation.sequence} <= set(range(rotation.n_copies))
    uses = np.bincount([step.draw for step in rotation.sequence], minlength=len(draws))
    assert set(uses) == {n // len(draws)}
    assert (rotation.limited_by is None) == (rotation.reuse_distance_x_l2 >= COLD_DISTANCE_X_L2)


def test_batch_one_of_a_real_model_on_an_h200():
    rng = np.random.default_rng(0)
    draws = [rng.choice(128, 8, replace=False) for _ in range(32)]
    weights = Weights(n_experts=128, expert_bytes=768 * 2048 // 256 * 144, l2_bytes=50 * 2**20)
    rotation = cold_rotation(draws, weights, 16 * GIB)
    assert (rotation.mode, rotation.limited_by, rotation.launches_per_sample) == (CacheMode.COLD, None, 32)
    assert rotation.reuse_distance_x_l2 >= 3
    assert rotation.n_copies <= 8  # 32 copies would be the lazy answer
    assert rotation.touched_bytes == 8 * weights.expert_bytes


def test_too_little_memory_is_said():
    weights = Weights(n_experts=8, expert_bytes=10 * 2**20, l2_bytes=50 * 2**20)
    rotation = cold_rotation([range(8)], weights, memory_bytes=160 * 2**20)
    assert (rotation.limited_by, rotation.n_copies) == ("memory", 2)
    assert rotation.reuse_distance_x_l2 == pytest.approx(80 / 50)


def test_one_copy_is_always_there_and_reuse_is_then_warm():
    weights = Weights(n_experts=4, expert_bytes=100, l2_bytes=1000)
    rotation = cold_rotation([range(4)], weights, memory_bytes=0)
    assert (rotation.n_copies, rotation.reuse_distance_x_l2, rotation.limited_by) == (1, 0.0, "memory")


def test_tiny_experts_take_more_launches():
    weights = Weights(n_experts=4, expert_bytes=1000, l2_bytes=100_000)
    rotation = cold_rotation([[0], [1]], weights, memory_bytes=GIB)
    assert rotation.launches_per_sample == 302
    assert rotation.reuse_distance_x_l2 >= 3


def test_what_no_sequence_can_cover_is_said():
    weights = Weights(n_experts=2, expert_bytes=10, l2_bytes=10**6)
    rotation = cold_rotation([[0], [1]], weights, memory_bytes=GIB)
    assert (rotation.limited_by, rotation.launches_per_sample) == ("launches", MAX_LAUNCHES)
    assert 0 < rotation.reuse_distance_x_l2 < 3


def test_the_turn_of_the_sequence_counts():
    """Copies 0 1 2 0 rest two launches inside the turn, and none from its end to its start."""
    weights = Weights(n_experts=1, expert_bytes=7, l2_bytes=1)
    steps = [Step(copy, 0) for copy in (0, 1, 2)]
    assert reuse_distance(steps, [[0]], weights) == 14
    assert reuse_distance([*steps, Step(0, 0)], [[0]], weights) == 0


def test_repeated_bytes_count_once():
    weights = Weights(n_experts=2, expert_bytes=7, l2_bytes=1)
    steps = [Step(0, 0), Step(1, 0), Step(1, 0), Step(1, 0)]
    assert reuse_distance(steps, [[0]], weights) == 0
    assert reuse_distance([Step(0, 0), Step(0, 1), Step(1, 0), Step(1, 1)], [[0], [1]], weights) == 21


def test_hot_repeats_one_draw():
    rotation = hot_rotation([3, 1, 3], Weights(n_experts=4, expert_bytes=10, l2_bytes=5), 8)
    assert rotation.sequence == (Step(0, 0),) * 8
    assert (rotation.mode, rotation.n_copies, rotation.reuse_distance_x_l2) == (CacheMode.HOT, 1, 0.0)
    assert rotation.touched_bytes == 20


@pytest.mark.parametrize(
    ("draws", "sizes"),
    [
        ([[0]], (0, 1, 1)),
        ([[0]], (1, 0, 1)),
        ([[0]], (1, 1, 0)),
        ([[]], (1, 1, 1)),
        ([[1]], (1, 1, 1)),
        ([[-1]], (1, 1, 1)),
    ],
)
def test_nonsense_is_refused(draws, sizes):
    n_experts, expert_bytes, l2_bytes = sizes
    weights = Weights(n_experts=n_experts, expert_bytes=expert_bytes, l2_bytes=l2_bytes)
    with pytest.raises(UsageError):
        cold_rotation(draws, weights, GIB)


def test_a_flush_needs_one_copy_and_one_launch_of_each_draw():
    rotation = flush_rotation([[0, 1, 1], [2]], Weights(n_experts=4, expert_bytes=100, l2_bytes=10**6))
    assert rotation.mode is CacheMode.FLUSH
    assert rotation.sequence == (Step(0, 0), Step(0, 1))
    assert (rotation.n_copies, rotation.touched_bytes, rotation.reuse_distance_x_l2) == (1, 150, 2.0)
