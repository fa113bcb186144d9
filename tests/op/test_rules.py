"""The choice: launches within the limits of a grid for any size, guarantees that follow the modes."""

from dataclasses import replace

import pytest

from mmvq_cli.op import CPU, FORMATS, Accumulate, Dtype, OutputMode, Plan, Rows, find_device
from mmvq_cli.op.launches import COLUMNS
from mmvq_cli.op.precision import DEFAULT_ERROR_CONSTANT
from mmvq_cli.op.rules import RULES
from tests.op.problems import make_descriptor

H200 = find_device("H200")


def entries(d):
    return [launch.entry for launch in Plan.select(d, H200, "reference").launches]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, ["index_dispatches", "grouped", "combine"]),
        ({"m_total": 9000, "m_tokens": 9000}, ["clear_token_counts", "append_dispatches", "grouped", "combine"]),
        ({"output_rows": Rows.DISPATCH}, ["grouped"]),
        ({"top_k": 1, "m_total": 4}, ["grouped"]),
        ({"top_k": 1, "m_total": 3}, ["clear_output", "grouped"]),
        ({"top_k": 1, "m_total": 3, "output_mode": OutputMode.ADD}, ["grouped"]),
        ({"accumulate": Accumulate.ATOMIC}, ["grouped"]),
        ({"n_cols": 0}, ["clear_output"]),
        ({"m_total": 0}, ["clear_output"]),
        ({"m_total": 0, "output_mode": OutputMode.ADD}, []),
        ({"n_rows_per_expert": 0}, []),
        ({"m_total": 0, "output_rows": Rows.DISPATCH}, []),
        ({"m_tokens": 0, "output_rows": Rows.DISPATCH}, ["clear_output"]),
    ],
)
def test_which_kernels_run(changes, expected):
    assert entries(make_descriptor(**changes)) == expected


@pytest.mark.parametrize(
    "sizes",
    [
        {"m_total": 65_536, "m_tokens": 65_536, "top_k": 1},
        {"m_total": 2**31 - 1, "m_tokens": 2**31 - 1},
        {"m_total": 200_000, "m_tokens": 100_000, "n_rows_per_expert": 2**31 - 1},
        {"n_experts": 2**31 - 1, "m_total": 2**31 - 1, "m_tokens": 2**30},
    ],
)
@pytest.mark.parametrize("output_rows", list(Rows))
def test_no_grid_passes_its_limit_and_none_uses_the_short_axes(sizes, output_rows):
    for launch in Plan.select(make_descriptor(**sizes, output_rows=output_rows), H200).launches:
        assert 1 <= launch.grid[0] <= 2**31 - 1
        assert launch.grid[1:] == (1, 1)
        assert launch.block[0] * launch.block[1] * launch.block[2] <= 1024


def test_more_dispatches_than_65535_have_a_tile_each():
    d = make_descriptor(n_experts=2**20, m_total=70_000, m_tokens=70_000, top_k=1, n_rows_per_expert=1)
    (grouped,) = Plan.select(d, H200, "reference").launches
    assert grouped.grid[0] == 70_000


def test_dispatches_of_one_expert_share_tiles():
    d = make_descriptor(n_experts=1, m_total=8000, m_tokens=8000, top_k=1, n_rows_per_expert=16)
    (grouped,) = Plan.select(d, H200, "reference").launches
    assert grouped.grid[0] == 1 + 8000 // COLUMNS  # one spare for the ragged one


@pytest.mark.parametrize("device", [CPU, H200])
@pytest.mark.parametrize("dtype", list(Dtype))
def test_default_plans_stay_below_the_contracts_error_constant(device, dtype):
    guarantee = Plan.select(make_descriptor(dtype=dtype), device).precision_guarantee
    assert 0 < guarantee.error_constant <= DEFAULT_ERROR_CONSTANT[dtype]


def test_atomic_sums_promise_nothing():
    d = make_descriptor(accumulate=Accumulate.ATOMIC)
    guarantee = Plan.select(d, H200).precision_guarantee
    promises = (guarantee.deterministic, guarantee.bit_stable_on_same_hardware, guarantee.batch_invariant)
    assert promises == (False, False, False)
    assert Plan.select(replace(d, top_k=1), H200).precision_guarantee.deterministic  # nothing is summed
    assert Plan.select(replace(d, accumulate=Accumulate.ORDERED), H200).precision_guarantee.deterministic


def test_format_and_shape_reach_the_compiler_as_defines():
    d = make_descriptor(format=FORMATS["Q4_K"], n_cols=256, dtype=Dtype.BF16, top_k=1, m_total=4)
    (grouped,) = Plan.select(d, H200, "reference").launches
    defines = dict(grouped.defines)
    assert (defines["MMVQ_FORMAT"], defines["MMVQ_BLOCK_SIZE"], defines["MMVQ_TYPE_SIZE"]) == (12, 256, 144)
    assert defines["MMVQ_ACTIVATION"] == 2
    assert grouped.block[0] == 32 * defines["MMVQ_WARPS"]


def test_rules_have_names_and_summaries_for_people():
    assert len({rule.name for rule in RULES}) == len(RULES)
    assert all(rule.summary and rule.engine in ("cpu", "cuda") for rule in RULES)
