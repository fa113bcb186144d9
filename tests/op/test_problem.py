"""The kernels' argument and the parts of the workspace."""

import ctypes
import re

import pytest

from mmvq_cli.op import CPU, Accumulate, OutputMode, Rows
from mmvq_cli.op.args import bind
from mmvq_cli.op.problem import Problem, bind_problem, layout_checks, workspace_regions, workspace_size
from mmvq_cli.resources import resource_root
from tests.op.problems import make_args, make_descriptor


def test_checks_state_size_and_every_offset():
    text = layout_checks()
    assert f"sizeof(Problem) == {ctypes.sizeof(Problem)}," in text
    offsets = dict(re.findall(r"(?i:offset_?of)\(Problem, (\w+)\) == (\d+)", text))
    assert offsets == {name: str(getattr(Problem, name).offset) for name, _ in Problem._fields_}
    assert text.count("static_assert") == len(Problem._fields_) + 1


def test_the_kernels_declare_the_same_fields_in_the_same_order():
    source = (resource_root("kernels") / "problem.cuh").read_text()
    body = re.search(r"struct Problem\s*\{(.*?)\};", source, re.DOTALL)[1]
    code = re.sub(r"//[^\n]*|/\*.*?\*/", "", body, flags=re.DOTALL)
    assert re.findall(r"(\w+)\s*;", code) == [name for name, _ in Problem._fields_]


def test_pointers_sizes_and_flags_are_filled_in():
    d = make_descriptor(activation_rows=Rows.DISPATCH, output_mode=OutputMode.ADD)
    args = make_args(d, weighted=True)
    problem = bind_problem(d, bind(args, d, CPU), 0x10000)
    assert problem.weights == args.weights.ctypes.data
    assert problem.topk_weights == args.topk_weights.ctypes.data
    assert (problem.n_experts, problem.n_cols, problem.m_total, problem.top_k) == (3, 64, 8, 2)
    assert (problem.activation_rows_are_dispatches, problem.output_rows_are_dispatches) == (1, 0)
    assert (problem.adds, problem.is_atomic, problem.combines) == (1, 0, 1)
    assert problem.partials == 0x10000
    assert 0x10000 < problem.token_counts < problem.token_dispatches


def test_what_is_absent_is_0():
    d = make_descriptor(accumulate=Accumulate.ATOMIC)
    problem = bind_problem(d, bind(make_args(d), d, CPU), 0)
    assert (problem.topk_weights, problem.partials, problem.token_counts, problem.is_atomic) == (0, 0, 0, 1)


@pytest.mark.parametrize(("m_total", "m_tokens", "rows"), [(1, 1, 1), (7, 4, 50), (70_000, 35_000, 2**17)])
def test_regions_do_not_overlap_and_are_aligned(m_total, m_tokens, rows):
    regions = workspace_regions(make_descriptor(m_total=m_total, m_tokens=m_tokens, n_rows_per_expert=rows))
    end = 0
    for region in regions:
        assert region.offset % 256 == 0
        assert region.offset >= end
        end = region.offset + region.n_bytes
    assert workspace_size(regions) == end >= 4 * m_total * rows
    assert workspace_size(()) == 0
