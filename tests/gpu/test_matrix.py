"""Every kernel on a GPU: the quick matrix, routing that changes under a graph, poison where nothing may be read."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from mmvq_cli.edges import matrix_suite
from mmvq_cli.edges.routings import edge_routing
from mmvq_cli.engine.cuda import CudaEngine, prepare
from mmvq_cli.engine.discovery import cuda_available
from mmvq_cli.op import FORMATS, Dtype, Plan, Rows
from mmvq_cli.record import Status
from mmvq_cli.recording import CaseRecorder
from mmvq_cli.run import run_case
from mmvq_cli.session import RunSettings, Session
from tests.gpu.problems import N_EXPERTS, N_TOKENS, TOP_K, arguments, assert_right, descriptor, result

USABLE, REASON = cuda_available()
pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not USABLE, reason=REASON)]


@pytest.fixture(scope="module")
def session():
    return Session(RunSettings(engine="cuda", timed=False))


@pytest.fixture(scope="module")
def cuda():
    return CudaEngine(0)


@pytest.mark.parametrize("name", FORMATS)
def test_the_quick_matrix_passes(session, name):
    for case in matrix_suite("quick", (name,)).cases:
        record = run_case(case, session, CaseRecorder(case, "run", "check", session.engine.device, 1, False))
        assert record.status is Status.PASSED, f"{case.id}: {record.correctness.reason}"
        session.release()


@pytest.mark.parametrize("output_rows", Rows)
@pytest.mark.parametrize("name", ["Q4_K", "Q8_0", "MXFP4", "F16"])
def test_a_graph_replays_with_a_routing_that_changed(cuda, name, output_rows):
    d = descriptor(name, output_rows=output_rows)
    plan = Plan.select(d, cuda.device)
    args = arguments(cuda, d, edge_routing("last", N_EXPERTS, TOP_K, N_TOKENS, 0))
    prepare(plan)
    workspace = cuda.xp.empty(max(1, plan.workspace_size()), np.uint8)
    stream = cuda.xp.cuda.Stream(non_blocking=True)
    with stream:
        stream.begin_capture()
        plan.run(args, workspace, stream)
        graph = stream.end_capture()
    for kind in ("uniform", "hollow", "repeated", "last"):
        dispatch = edge_routing(kind, N_EXPERTS, TOP_K, N_TOKENS, 1).dispatch()
        args.sorted_token_ids.set(dispatch.sorted_token_ids)
        args.expert_offsets.set(dispatch.expert_offsets)
        args.topk_weights.set(dispatch.topk_weights)
        args.output.fill(np.nan)
        cuda.synchronize()
        graph.launch(stream)
        cuda.synchronize()
        assert_right(cuda, plan, args, cuda.download(args.output))


@pytest.mark.parametrize("dtype", Dtype)
@pytest.mark.parametrize("name", FORMATS)
def test_nothing_is_read_that_no_dispatch_needs(cuda, name, dtype):
    """NaN in experts and tokens without a dispatch, and around the weights, leaves every bit as it was."""
    d = descriptor(name, dtype)
    routing = edge_routing("hollow", N_EXPERTS, TOP_K, N_TOKENS, 0)
    routing.ids[0] = -1
    d = d.with_dispatches(routing.dispatch().m_total)
    plan = Plan.select(d, cuda.device)
    args = arguments(cuda, d, routing)
    expected = result(cuda, plan, args)
    assert_right(cuda, plan, args, expected)
    guard = 4096
    poisoned = cuda.xp.full(d.weight_bytes + 2 * guard, 0xFF, np.uint8)
    inner = poisoned[guard : guard + d.weight_bytes]
    inner[d.expert_bytes : -d.expert_bytes] = args.weights[d.expert_bytes : -d.expert_bytes]
    activations = args.activations.copy()
    activations.view(np.uint8)[0] = 0xFF
    output = cuda.xp.full_like(args.output, 0x7FFF if dtype is Dtype.BF16 else np.nan)
    changed = replace(args, weights=inner, activations=activations, output=output)
    np.testing.assert_array_equal(result(cuda, plan, changed).view(np.uint8), expected.view(np.uint8))


def test_torch_bfloat16_tensors_run_as_they_are(cuda):
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("this torch has no CUDA")
    d = descriptor("Q4_K", Dtype.BF16)
    plan = Plan.select(d, cuda.device)
    args = arguments(cuda, d, edge_routing("uniform", N_EXPERTS, TOP_K, N_TOKENS, 0))
    expected = result(cuda, plan, args)
    torch_args = replace(
        args,
        activations=torch.from_dlpack(args.activations.view(np.int16)).view(torch.bfloat16),
        output=torch.full((N_TOKENS, 50), float("nan"), dtype=torch.bfloat16, device="cuda"),
    )
    torch.cuda.synchronize()
    plan.run(torch_args, cuda.xp.empty(plan.workspace_size(), np.uint8))
    cuda.synchronize()
    bits = torch_args.output.view(torch.int16).cpu().numpy().view(np.uint16)
    np.testing.assert_array_equal(bits, expected)
