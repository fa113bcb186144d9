"""The plan: pure, printable, raising before anything runs; workspace exact."""

import builtins
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from mmvq_cli.engine import cpu
from mmvq_cli.errors import InvalidProblem, Unsupported, UsageError, WorkspaceTooSmall
from mmvq_cli.op import CPU, FORMATS, Accumulate, Device, Dtype, OutputMode, Plan, Preference, Rows, find_device
from mmvq_cli.op.problem import Region
from tests.op.problems import make_args, make_descriptor

H200 = find_device("H200")


@pytest.fixture
def launched(monkeypatch):
    """Plans that the CPU engine was asked to run, instead of running them."""
    calls = []
    monkeypatch.setattr(cpu, "execute", lambda *arguments: calls.append(arguments))
    return calls


def scratch_plan(n_bytes):
    """A plan of the CPU with a workspace, which none of its own has."""
    return replace(Plan.select(make_descriptor(), CPU), workspace=(Region("partials", 0, n_bytes),))


def test_select_is_pure_and_printable(monkeypatch):
    d = make_descriptor()
    real = builtins.__import__

    def no_device(name, *rest):
        assert not name.startswith("cupy")
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", no_device)
    plan = Plan.select(d, H200)
    assert plan == Plan.select(d, H200)
    assert "stream" in repr(plan)
    assert hash(plan.sku) == hash(Plan.select(d, H200).sku)


@pytest.mark.parametrize("preference", list(Preference))
def test_every_preference_gives_a_plan_on_both_backends(preference):
    for device in (CPU, H200):
        assert Plan.select(make_descriptor(), device, str(preference)).preference is preference


def test_an_unknown_preference_is_refused():
    with pytest.raises(UsageError, match="'cheapest'") as caught:
        Plan.select(make_descriptor(), CPU, "cheapest")
    assert "reproducible" in caught.value.hint


@pytest.mark.parametrize("device", [CPU, H200])
def test_select_refuses_what_validate_refuses(device):
    with pytest.raises(InvalidProblem, match="n_cols is 65"):
        Plan.select(make_descriptor(n_cols=65), device)


def test_sku_names_what_distinguishes_kernels():
    base = make_descriptor()
    variants = [
        base,
        replace(base, format=FORMATS["Q4_K"], n_cols=256),
        replace(base, dtype=Dtype.BF16),
        replace(base, activation_rows=Rows.DISPATCH),
        replace(base, output_rows=Rows.DISPATCH),
        replace(base, output_mode=OutputMode.ADD),
        replace(base, accumulate=Accumulate.ATOMIC),
    ]
    names = [Plan.select(d, device).sku.name for d in variants for device in (CPU, H200)]
    assert len(set(names)) == len(names)
    sku = Plan.select(base, H200).sku
    assert (sku.element, sku.auxiliary_element, sku.architecture, sku.backend) == ("f32", "u8", "sm_90", "cuda")
    assert Plan.select(replace(base, format=FORMATS["BF16"]), CPU).sku.auxiliary_element == "bf16"


def test_the_name_does_not_depend_on_sizes():
    assert Plan.select(make_descriptor(m_total=1), CPU).sku == Plan.select(make_descriptor(n_cols=96), CPU).sku


def test_workspace_is_exact():
    d = make_descriptor(m_total=7, m_tokens=4, top_k=2, n_rows_per_expert=50)
    # partials 7 x 50 f32 padded to 256 bytes, 4 counts padded to 256, 4 x 2 positions.
    assert Plan.select(d, H200).workspace_size() == 1536 + 256 + 32
    assert Plan.select(d, CPU).workspace_size() == 0
    assert Plan.select(replace(d, output_rows=Rows.DISPATCH), H200).workspace_size() == 0
    assert Plan.select(replace(d, top_k=1), H200).workspace_size() == 0
    assert Plan.select(replace(d, accumulate=Accumulate.ATOMIC), H200).workspace_size() == 0


@pytest.mark.parametrize("size", ["m_total", "m_tokens", "n_rows_per_expert", "n_cols"])
def test_an_empty_problem_needs_no_workspace(size):
    assert Plan.select(make_descriptor(**{size: 0}), H200).workspace_size() == 0


@pytest.mark.parametrize("given", [None, 0, 1023])
def test_too_little_workspace_says_what_is_needed(launched, given):
    workspace = None if given is None else np.empty(given, np.uint8)
    with pytest.raises(WorkspaceTooSmall) as caught:
        scratch_plan(1024).run(make_args(make_descriptor()), workspace)
    assert (caught.value.needed, caught.value.got) == (1024, given or 0)
    assert "1024" in caught.value.message
    assert isinstance(caught.value, InvalidProblem)
    assert not launched


@pytest.mark.parametrize("n_bytes", [1024, 5000])
def test_a_workspace_that_is_larger_is_fine_and_its_size_is_never_read(launched, n_bytes):
    workspace = np.empty(n_bytes, np.uint8)
    scratch_plan(1024).run(make_args(make_descriptor()), workspace)
    (_, _, pointer, _), = launched  # fmt: skip
    assert pointer == workspace.ctypes.data


def test_a_workspace_elsewhere_is_refused(launched):
    interface = {"typestr": "|u1", "shape": (4096,), "data": (4096, False), "version": 3}
    with pytest.raises(InvalidProblem, match="workspace is on cuda"):
        scratch_plan(1024).run(make_args(make_descriptor()), SimpleNamespace(__cuda_array_interface__=interface))
    assert not launched


def test_arguments_are_checked_before_the_workspace(launched):
    with pytest.raises(InvalidProblem, match="output has"):
        scratch_plan(1024).run(make_args(make_descriptor(), output=np.zeros((9, 5), np.float32)))


def test_run_without_workspace_hands_the_stream_on(launched):
    Plan.select(make_descriptor(), CPU).run(make_args(make_descriptor()), stream=17)
    assert launched[0][2:] == (0, 17)


def test_an_old_gpu_is_unsupported_with_its_name_and_the_limit():
    old = Device(name="Tesla T4", backend="cuda", compute_capability=(7, 5))
    with pytest.raises(Unsupported) as caught:
        Plan.select(make_descriptor(), old)
    assert all(word in caught.value.message for word in ("Tesla T4", "sm_75", "sm_80"))
    assert caught.value.hint


def test_the_problem_is_checked_before_the_gpu():
    old = Device(name="Tesla T4", backend="cuda", compute_capability=(7, 5))
    with pytest.raises(InvalidProblem, match="n_experts"):
        Plan.select(make_descriptor(n_experts=0), old)
