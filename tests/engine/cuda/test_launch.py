"""What reaches the driver: the Problem's bytes by value, grids, streams, devices, and errors in our words."""

from __future__ import annotations

import ctypes
from dataclasses import replace

import numpy as np
import pytest

from mmvq_cli.engine.cuda import launch
from mmvq_cli.engine.cuda.launch import load_kernel, prepare, stream_address
from mmvq_cli.errors import InvalidProblem, LaunchError
from mmvq_cli.op import FORMATS, Args, Descriptor, Device, Dtype, OutputMode, Plan
from mmvq_cli.op.problem import Problem
from tests.engine.cuda.fake_cuda import on_device

H200 = Device(name="H200", backend="cuda", compute_capability=(9, 0), sm_count=132)
PROBLEM = Descriptor(
    n_experts=3, n_rows_per_expert=5, n_cols=64, m_total=4, m_tokens=2, top_k=2, format=FORMATS["Q8_0"], dtype=Dtype.F16
)


@pytest.fixture(autouse=True)
def _no_datasheets(monkeypatch):
    monkeypatch.setattr("mmvq_cli.engine.cuda.device.known_devices", dict)


def arguments(d: Descriptor) -> Args:
    return Args(
        weights=on_device(np.zeros(d.weight_bytes, np.uint8)),
        activations=on_device(np.zeros((d.activation_row_count, d.n_cols), np.float16)),
        sorted_token_ids=on_device(np.array([0, 1, 0, 1], np.int32)),
        expert_offsets=on_device(np.array([0, 2, 2, 4], np.int32)),
        output=on_device(np.zeros((d.output_row_count, d.n_rows_per_expert), np.float16)),
        topk_weights=on_device(np.ones(d.m_total, np.float32)),
    )


def pointer(array) -> int:
    return array.__array_interface__["data"][0]


def run(cuda, plan, args, stream=None):
    """Run, and return each launch's Problem as its kernel would see it."""
    seen = {}

    def see(entry):
        def kernel(parameters):
            seen[entry] = Problem.from_buffer_copy(ctypes.string_at(parameters[0], ctypes.sizeof(Problem)))

        return kernel

    cuda.kernels = {step.entry: see(step.entry) for step in plan.launches}
    workspace = on_device(np.zeros(plan.workspace_size(), np.uint8))
    plan.run(args, workspace, stream)
    return seen, workspace


def test_every_kernel_gets_the_whole_problem_by_value(cuda):
    plan, args = Plan.select(PROBLEM, H200), arguments(PROBLEM)
    seen, workspace = run(cuda, plan, args)
    assert list(seen) == [step.entry for step in plan.launches]
    offsets = {region.name: region.offset for region in plan.workspace}
    for problem in seen.values():
        assert problem.weights == pointer(args.weights)
        assert problem.activations == pointer(args.activations)
        assert problem.sorted_token_ids == pointer(args.sorted_token_ids)
        assert problem.expert_offsets == pointer(args.expert_offsets)
        assert problem.topk_weights == pointer(args.topk_weights)
        assert problem.output == pointer(args.output)
        assert problem.partials == pointer(workspace) + offsets["partials"]
        assert problem.token_dispatches == pointer(workspace) + offsets["token_dispatches"]
        assert (problem.n_experts, problem.n_rows_per_expert, problem.n_cols) == (3, 5, 64)
        assert (problem.m_total, problem.m_tokens, problem.top_k) == (4, 2, 2)
        assert (problem.combines, problem.adds, problem.is_atomic) == (1, 0, 0)


def test_no_topk_weights_are_a_null_pointer(cuda):
    seen, _ = run(cuda, Plan.select(PROBLEM, H200), replace(arguments(PROBLEM), topk_weights=None))
    assert {problem.topk_weights for problem in seen.values()} == {0}


def test_grids_blocks_and_the_stream_reach_the_driver_in_order(cuda):
    plan = Plan.select(PROBLEM, H200)
    run(cuda, plan, arguments(PROBLEM), stream=4711)
    expected = [(step.entry, step.grid, step.block, step.shared_bytes, 4711) for step in plan.launches]
    assert cuda.launches == expected
    assert cuda.overlapping == [step.entry for step in plan.launches if step.overlaps]


def test_the_shape_of_a_streaming_kernel_follows_the_problem(cuda):
    plan = Plan.select(PROBLEM, H200)
    step = next(step for step in plan.launches if step.entry == "stream")
    seen = []
    args, workspace = arguments(PROBLEM), on_device(np.zeros(plan.workspace_size(), np.uint8))
    cuda.kernels = {"stream": lambda p: seen.append(ctypes.string_at(p[1], 4 * len(step.values)))}
    plan.run(args, workspace)
    assert np.frombuffer(seen[0], np.int32).tolist() == [value for _, value in step.values]


def test_the_second_run_loads_nothing_and_waits_for_nothing(cuda, monkeypatch):
    plan, args = Plan.select(PROBLEM, H200), arguments(PROBLEM)
    run(cuda, plan, args)
    monkeypatch.setattr(launch, "final_source", None)
    n_functions = len(cuda.functions)
    run(cuda, plan, args)
    assert len(cuda.functions) == n_functions
    assert "synchronize" not in cuda.events


def test_an_empty_problem_that_adds_launches_nothing(cuda):
    empty = replace(PROBLEM, m_total=0, output_mode=OutputMode.ADD)
    args = replace(
        arguments(PROBLEM),
        sorted_token_ids=on_device(np.zeros(0, np.int32)),
        topk_weights=None,
    )
    Plan.select(empty, H200).run(args)
    assert cuda.launches == []


def test_a_refused_launch_names_the_status_and_the_kernel(cuda):
    plan, args = Plan.select(PROBLEM, H200), arguments(PROBLEM)
    cuda.launch_error = "CUDA_ERROR_INVALID_VALUE: invalid argument"
    with pytest.raises(LaunchError, match="index_dispatches failed: CUDA_ERROR_INVALID_VALUE") as caught:
        plan.run(args, on_device(np.zeros(plan.workspace_size(), np.uint8)))
    assert caught.value.kernel == "index_dispatches"
    assert "INVALID_VALUE" in caught.value.status


def test_launches_happen_on_the_plans_device(cuda):
    cuda.n_devices = 2
    fill = load_kernel("fill_blocks", "fill.cu", (), 1)
    assert set(cuda.events) == {"device 1"}
    cuda.events.clear()
    fill((1, 1, 1), (32, 1, 1), ())
    assert cuda.events == ["device 1"]


def test_numbers_and_arrays_are_passed_as_the_kernel_declares_them(cuda):
    array, seen = on_device(np.arange(3)), []
    types = (ctypes.c_uint64, ctypes.c_int64, ctypes.c_int32)

    def kernel(parameters):
        seen.extend(kind.from_address(parameters[i]).value for i, kind in enumerate(types))

    cuda.kernels = {"fill_blocks": kernel}
    fill = load_kernel("fill_blocks", "fill.cu")
    fill((1, 1, 1), (32, 1, 1), (array, ctypes.c_int64(-(2**40)), ctypes.c_int32(-3)))
    assert seen == [pointer(array), -(2**40), -3]


def test_a_bare_number_is_refused_because_its_width_is_unknown(cuda):
    with pytest.raises(InvalidProblem, match="kernel argument is a int"):
        load_kernel("fill_blocks", "fill.cu")((1, 1, 1), (32, 1, 1), (5,))


def test_streams_of_every_kind(cuda):
    class Torch:
        def __cuda_stream__(self):
            return (0, 99)

    assert stream_address(None) == 77
    assert stream_address(0) == 0
    assert stream_address(Torch()) == 99
    with pytest.raises(InvalidProblem, match="stream is a str"):
        stream_address("main")


@pytest.mark.parametrize(("dynamic", "raised"), [(48 * 1024, False), (48 * 1024 + 1, True)])
def test_much_shared_memory_raises_the_kernels_limit_once(cuda, dynamic, raised):
    for _ in range(2):
        load_kernel("grouped", "fill.cu", (), 0, dynamic)
    limits = [event for event in cuda.events if isinstance(event, tuple)]
    assert limits == ([(8, 227 * 1024 - 1024)] if raised else [])


def test_prepare_launches_nothing_and_says_what_each_launch_occupies(cuda):
    plan = Plan.select(PROBLEM, H200)
    facts = prepare(plan)
    assert cuda.launches == []
    assert [fact.entry for fact in facts] == [step.entry for step in plan.launches]
    product = facts[[fact.entry for fact in facts].index("stream")]
    step = next(step for step in plan.launches if step.entry == "stream")
    assert product.registers == 40
    assert product.shared_bytes == 1024 + step.shared_bytes
    assert product.blocks_per_sm == 2048 // step.block[0]
    assert product.waves == pytest.approx(step.grid[0] / (product.blocks_per_sm * 132))
    assert len(product.source_sha256) == 64
