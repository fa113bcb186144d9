"""Illegal routings, each with its position, its value and the rule."""

import numpy as np
import pytest

from mmvq_cli.engine.cpu import CpuEngine
from mmvq_cli.engine.routing_rules import check_routing
from mmvq_cli.errors import InvalidProblem
from tests.op.problems import make_args, make_descriptor

D = make_descriptor(m_total=5)  # 4 tokens, 3 experts, top-2


def check(tokens=(0, 1, 1, 3, 0), offsets=(0, 2, 2, 5), d=D):
    check_routing(d, np.array(tokens, np.int32), np.array(offsets, np.int32))


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"tokens": (0, 1, -1, 3, 0)}, "sorted_token_ids[2] is -1, token ids are 0 to 3"),
        ({"tokens": (0, 1, 1, 4, 9)}, "sorted_token_ids[3] is 4"),
        ({"offsets": (0, 3, 2, 5)}, "expert_offsets[2] is 2, less than the offset before it"),
        ({"offsets": (1, 2, 2, 5)}, "expert_offsets[0] is 1, it must be 0"),
        ({"offsets": (0, 2, 2, 4)}, "expert_offsets[3] is 4, the last one must be m_total = 5"),
        ({"tokens": (0, 1, 0, 3, 0)}, "token 0 has 3 dispatches or more, top_k is 2"),
    ],
)
def test_each_rule(arrays, words):
    with pytest.raises(InvalidProblem) as caught:
        check(**arrays)
    assert words in caught.value.message
    assert "Routing.dispatch()" in caught.value.hint


def test_with_top_k_1_no_token_comes_twice():
    d = make_descriptor(m_total=2, top_k=1)
    check((0, 1), (0, 1, 1, 2), d)
    with pytest.raises(InvalidProblem, match="token 3 has 2 dispatches or more, top_k is 1"):
        check((3, 3), (0, 1, 1, 2), d)


def test_legal_routings_pass():
    check()
    check((), (0, 0, 0, 0), make_descriptor(m_total=0))
    check((), (0, 0, 0, 0), make_descriptor(m_total=0, m_tokens=0))
    check((2, 2), (0, 2, 2, 2), make_descriptor(m_total=2))  # a repeated expert


def test_the_engine_applies_the_rules():
    args = make_args(D)
    CpuEngine().validate_routing(D, args)
    args.expert_offsets[0] = 1
    with pytest.raises(InvalidProblem, match="must be 0"):
        CpuEngine().validate_routing(D, args)
