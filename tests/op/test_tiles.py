import numpy as np
import pytest

from mmvq_cli.op.tiles import expected_tiles, touched_experts, wanted_widths
from mmvq_cli.routing import draw, parse_routing
from tests.op.problems import problem


def tokens(n: int):
    return problem(m_tokens=n, m_total=8 * n)


@pytest.mark.parametrize("n", [1, 8, 64, 300])
def test_experts_and_tiles_are_those_of_drawn_routings(n):
    counts = np.array(
        [np.diff(draw(parse_routing("uniform"), 128, 8, n, seed, 0).dispatch().expert_offsets) for seed in range(8)]
    )
    assert touched_experts(tokens(n)) == pytest.approx((counts > 0).sum(axis=1).mean(), rel=0.05)
    for width in (1, 2, 4, 16):
        tiles = np.ceil(counts / width).sum(axis=1).mean()
        assert expected_tiles(tokens(n), width) == pytest.approx(tiles, rel=0.05)


def test_an_expert_that_all_choose_or_that_a_token_repeats():
    alone = problem(n_experts=1, m_tokens=5, m_total=5, top_k=1)
    assert [expected_tiles(alone, width) for width in (1, 4, 8)] == [5, 2, 1]
    repeated = problem(n_experts=2, m_tokens=1, m_total=8, top_k=8)
    assert touched_experts(repeated) == pytest.approx(2 * (1 - 2**-8))
    assert pytest.approx(expected_tiles(repeated, 1)) == 8


@pytest.mark.parametrize(
    ("n", "widest"), [(1, 1), (4, 2), (8, 2), (16, 4), (32, 8), (64, 8), (128, 16), (256, 16), (4096, 16)]
)
def test_tiles_widen_until_few_experts_are_cut(n, widest):
    widths = wanted_widths(tokens(n))
    assert widths[-1] == widest
    assert widths == [2**i for i in range(len(widths))]
