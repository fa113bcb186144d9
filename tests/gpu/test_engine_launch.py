"""Plans on a GPU: right, within the promised bound, on any stream, inside a graph, and refused in our words."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from mmvq_cli.check import judge
from mmvq_cli.engine.base import Reference
from mmvq_cli.engine.cuda import CudaEngine, load_kernel, prepare
from mmvq_cli.engine.discovery import cuda_available
from mmvq_cli.engine.elements import widen
from mmvq_cli.errors import LaunchError
from mmvq_cli.model.synthetic import random_blocks
from mmvq_cli.op import FORMATS, Accumulate, Args, Descriptor, Dtype, OutputMode, Plan, Rows

USABLE, REASON = cuda_available()
pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not USABLE, reason=REASON)]


@pytest.fixture(scope="module")
def engine():
    return CudaEngine(0)


def descriptor(**changes) -> Descriptor:
    d = Descriptor(
        n_experts=5,
        n_rows_per_expert=50,
        n_cols=512,
        m_total=24,
        m_tokens=12,
        top_k=2,
        format=FORMATS["Q4_K"],
        dtype=Dtype.F32,
    )
    return replace(d, **changes)


ARGUMENTS = ("weights", "activations", "sorted_token_ids", "expert_offsets", "output", "topk_weights")


def arguments(engine, d: Descriptor) -> Args:
    """Random inputs: experts in turn, expert 1 without a dispatch, the output full of ones."""
    rng = np.random.default_rng(4)
    tokens = np.repeat(np.arange(d.m_tokens), d.top_k)
    experts = np.array([0, 2, 3, 4])[rng.integers(0, 4, d.m_total)]
    order = np.argsort(experts, kind="stable")
    offsets = np.concatenate([[0], np.cumsum(np.bincount(experts, minlength=d.n_experts))])
    dtype = np.float16 if d.dtype is Dtype.F16 else np.float32
    arrays = (
        random_blocks(d.format, d.weight_bytes // d.format.type_size, rng).reshape(-1),
        rng.normal(size=(d.activation_row_count, d.n_cols)).astype(dtype),
        tokens[order].astype(np.int32),
        offsets.astype(np.int32),
        np.ones((d.output_row_count, d.n_rows_per_expert), dtype),
        rng.normal(size=d.m_total).astype(np.float32),
    )
    return Args(**dict(zip(ARGUMENTS, map(engine.upload, arrays), strict=True)))


def scratch(engine, plan):
    return engine.xp.empty(max(1, plan.workspace_size()), engine.xp.uint8)


def assert_within_bound(engine, plan, args, old=0.0):
    """The verdict of the checker; `old` is what the output held when it counts."""
    exact = engine.reference(plan.descriptor, args)
    verdict = judge(
        widen(engine.download(args.output), plan.descriptor.dtype),
        Reference(exact.values + old, exact.magnitude + old),
        plan.descriptor,
        plan.precision_guarantee,
        engine.download(args.sorted_token_ids),
        engine.download(args.expert_offsets),
    )
    assert verdict.passed, verdict


@pytest.mark.parametrize("name", ["Q4_0", "Q4_K", "Q6_K", "Q8_0", "IQ2_XS", "F16"])
@pytest.mark.parametrize("dtype", [Dtype.F32, Dtype.F16])
@pytest.mark.parametrize("output_rows", Rows)
def test_a_plan_meets_its_bound(engine, name, dtype, output_rows):
    d = descriptor(format=FORMATS[name], dtype=dtype, output_rows=output_rows)
    plan, args = Plan.select(d, engine.device), arguments(engine, d)
    plan.run(args, scratch(engine, plan))
    assert_within_bound(engine, plan, args)


@pytest.mark.parametrize(
    "modes",
    [
        {"output_mode": OutputMode.ADD},
        {"accumulate": Accumulate.ATOMIC},
        {"output_mode": OutputMode.ADD, "output_rows": Rows.DISPATCH},
        {"output_mode": OutputMode.ADD, "top_k": 1, "m_total": 12},
    ],
    ids=str,
)
def test_what_the_output_held_counts_when_adding(engine, modes):
    d = descriptor(**modes)
    plan, args = Plan.select(d, engine.device), arguments(engine, d)
    plan.run(args, scratch(engine, plan))
    assert_within_bound(engine, plan, args, old=1.0)


def test_a_graph_replays_what_an_eager_run_does(engine):
    cuda, d = engine.xp.cuda, descriptor()
    plan, args = Plan.select(d, engine.device), arguments(engine, d)
    workspace = scratch(engine, plan)
    prepare(plan)
    plan.run(args, workspace)
    eager = engine.download(args.output)
    args.output.data.memset(0xFF, args.output.nbytes)
    engine.synchronize()
    stream = cuda.Stream(non_blocking=True)
    with stream:
        stream.begin_capture()
        plan.run(args, workspace, stream)
        graph = stream.end_capture()
    for _ in range(3):
        graph.launch(stream)
    stream.synchronize()
    np.testing.assert_array_equal(engine.download(args.output), eager)


@pytest.mark.parametrize("kind", ["cupy", "address", "current"])
def test_every_kind_of_stream(engine, kind):
    d = descriptor()
    plan, args = Plan.select(d, engine.device), arguments(engine, d)
    workspace = scratch(engine, plan)
    engine.synchronize()
    stream = engine.xp.cuda.Stream(non_blocking=True)
    if kind == "current":
        with stream:
            plan.run(args, workspace)
    else:
        plan.run(args, workspace, stream if kind == "cupy" else stream.ptr)
    stream.synchronize()
    assert_within_bound(engine, plan, args)


def test_running_allocates_nothing(engine):
    d = descriptor()
    plan, args = Plan.select(d, engine.device), arguments(engine, d)
    workspace = scratch(engine, plan)
    prepare(plan)
    pool = engine.xp.get_default_memory_pool()
    before = (pool.used_bytes(), pool.total_bytes())
    plan.run(args, workspace)
    assert (pool.used_bytes(), pool.total_bytes()) == before


def test_prepare_tells_what_the_driver_tells(engine):
    driver = engine.xp.cuda.driver
    plan = Plan.select(descriptor(), engine.device)
    for step, fact in zip(plan.launches, prepare(plan), strict=True):
        kernel = load_kernel(step.entry, step.source, step.defines)
        assert fact.registers == driver.funcGetAttribute(driver.CU_FUNC_ATTRIBUTE_NUM_REGS, kernel.function)
        assert fact.local_bytes == driver.funcGetAttribute(driver.CU_FUNC_ATTRIBUTE_LOCAL_SIZE_BYTES, kernel.function)
        assert fact.blocks_per_sm > 0
        assert fact.waves > 0


def test_a_block_that_is_too_large_is_a_launch_error_and_harms_nothing(engine):
    d = descriptor()
    plan, args = Plan.select(d, engine.device), arguments(engine, d)
    impossible = replace(plan, launches=(replace(plan.launches[0], block=(4096, 1, 1)),))
    with pytest.raises(LaunchError, match="CUDA_ERROR_INVALID_VALUE"):
        impossible.run(args, scratch(engine, plan))
    plan.run(args, scratch(engine, plan))
    assert_within_bound(engine, plan, args)


def test_a_torch_users_tensors_run_without_copies(engine):
    torch = pytest.importorskip("torch")
    d = descriptor()
    plan, cupy_args = Plan.select(d, engine.device), arguments(engine, d)
    names = ("weights", "activations", "sorted_token_ids", "expert_offsets", "output", "topk_weights")
    args = Args(**{name: torch.from_dlpack(getattr(cupy_args, name)) for name in names})
    engine.synchronize()
    plan.run(args, torch.empty(plan.workspace_size(), dtype=torch.uint8, device="cuda"))
    engine.synchronize()
    assert_within_bound(engine, plan, cupy_args)
