import pytest

from mmvq_cli.op.tiles import dispatches_per_touched_expert, touched_experts, wanted_widths
from tests.op.problems import problem


def tokens(n: int):
    return problem(m_tokens=n, m_total=8 * n)


def test_dispatches_per_touched_expert_of_uniform_routing():
    assert dispatches_per_touched_expert(problem(m_total=1)) == pytest.approx(1, rel=0.01)
    assert dispatches_per_touched_expert(tokens(50 * 16)) == pytest.approx(50)
    assert touched_experts(tokens(1)) == pytest.approx(7.755, rel=1e-3)  # 128 * (1 - exp(-8/128))


@pytest.mark.parametrize(("n", "widest"), [(1, 2), (8, 2), (32, 4), (64, 8), (128, 16), (256, 16), (4096, 16)])
def test_tiles_widen_with_the_dispatches_of_an_expert(n, widest):
    widths = wanted_widths(tokens(n))
    assert widths[-1] == widest
    assert widths == [2**i for i in range(len(widths))]
