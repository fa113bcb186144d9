"""The matrices: complete, valid, legal; and each named edge catches the fault that it is there for."""

from __future__ import annotations

import pickle
import re
from dataclasses import replace

import numpy as np
import pytest

from mmvq_cli.edges import MATRICES, matrix_suite
from mmvq_cli.edges.matrix import FULL, QUICK, cover_axes, is_possible
from mmvq_cli.engine.cpu import engine as cpu_engine
from mmvq_cli.engine.cpu import product
from mmvq_cli.engine.cpu.dequantize import Dequantizer, fastest_dequantizer
from mmvq_cli.engine.cuda.variants import all_variants
from mmvq_cli.errors import Unsupported, UsageError
from mmvq_cli.op import FORMATS, Accumulate, Dtype, OutputMode, Plan, Preference, Rows, find_device
from mmvq_cli.record import Status
from mmvq_cli.recording import CaseRecorder
from mmvq_cli.resources import resource_root
from mmvq_cli.run import run_case
from mmvq_cli.session import RunSettings, Session
from tests.edges.test_pairwise import missing_pairs


@pytest.mark.parametrize("matrix", MATRICES)
def test_every_format_and_dtype_is_there_and_every_id_is_its_own(matrix):
    cases = matrix_suite(matrix).cases
    assert {(c.source.format_name, c.dtype) for c in cases} == {(f, d) for f in FORMATS for d in Dtype}
    assert len({c.id for c in cases}) == len(cases)
    assert all(c.id.startswith(f"check/{c.source.format_name}/{c.dtype}-") for c in cases)


def test_sizes_of_the_matrices():
    assert len(matrix_suite("sanitizer").cases) <= 300
    assert len(matrix_suite("quick").cases) <= 18 * len(FORMATS) * len(Dtype)
    assert len(matrix_suite("full").cases) < 4000


def test_formats_and_dtypes_choose():
    cases = matrix_suite("quick", ("q4_k",), (Dtype.F16,)).cases
    assert {(c.source.format_name, c.dtype) for c in cases} == {("Q4_K", Dtype.F16)}
    with pytest.raises(UsageError, match="no matrix 'huge'"):
        matrix_suite("huge")
    with pytest.raises(Unsupported, match="Q8_1"):
        matrix_suite("quick", ("Q8_1",))


def choice_of(case):
    return {
        "columns": case.source.cols,
        "routing": case.routing.kind,
        "rows": case.source.rows,
        "experts": case.source.n_experts,
        "tokens": case.n_tokens,
        "dtype": case.dtype,
        "top_k": case.top_k,
        "activation_rows": case.activation_rows,
        "output_rows": case.output_rows,
        "output_mode": case.output_mode,
        "accumulate": case.accumulate,
        "is_weighted": case.is_weighted,
    }


@pytest.mark.parametrize("name", ["Q8_0", "NVFP4", "IQ1_M", "F16"])
@pytest.mark.parametrize(("matrix", "grid"), [("quick", QUICK), ("full", FULL)])
def test_every_possible_pair_is_in_the_matrix(matrix, grid, name):
    dtypes = tuple(Dtype)
    axes = cover_axes(grid, grid.columns_of(FORMATS[name]), dtypes)
    chosen = [choice_of(case) for case in matrix_suite(matrix, (name,), dtypes).cases]
    assert missing_pairs(axes, chosen, is_possible) == []


@pytest.mark.parametrize("matrix", MATRICES)
def test_every_problem_is_valid(matrix):
    for case in matrix_suite(matrix, ("Q4_0", "Q6_K", "MXFP4", "BF16"), (Dtype.F16,)).cases:
        case.descriptor.validate()
        assert case.m_total == case.draw_routing(0).dispatch().m_total


def test_the_full_matrix_goes_beyond_what_16_and_32_bits_count():
    cases = matrix_suite("full", ("Q4_K",), (Dtype.F32,)).cases
    assert any(c.m_total > 65535 for c in cases)
    (beyond,) = (c for c in cases if c.edge.name == "beyond-4gib-last")
    assert beyond.descriptor.expert_bytes * (beyond.source.n_experts - 1) > 2**32


@pytest.mark.parametrize("dtype", Dtype)
def test_the_sanitizer_meets_every_mode_in_each_dtype(dtype):
    cases = [c for c in matrix_suite("sanitizer").cases if c.dtype is dtype]
    ds = [c.descriptor for c in cases]
    assert any(d.combines for d in ds)
    assert any(d.accumulate is Accumulate.ATOMIC and d.top_k > 1 for d in ds)
    assert any(d.output_rows is Rows.TOKEN and d.top_k == 1 and d.m_total < d.m_tokens for d in ds)
    assert any(d.output_mode is OutputMode.ADD and d.activation_rows is Rows.DISPATCH for d in ds)
    assert not any(d.is_empty for d in ds)


def test_the_sanitizer_reaches_every_kernel_that_a_plan_can_launch():
    device = find_device("H200")
    launches = [
        launch
        for c in matrix_suite("sanitizer").cases
        for launch in Plan.select(c.descriptor, device, c.preference).launches
    ]
    sources = {(launch.source, launch.defines) for launch in launches}
    judges = ("oracle.cu", "dequantize.cu", "canary.cu", "fill.cu", "scan.cu", "validate.cu")  # no plan launches these
    widths = "MMVQ_COLUMN_TILES"  # each with every dtype, not with every format
    of_width = (widths, "MMVQ_THREADS", "MMVQ_SUMMING_WARPS")

    def without_width(source, defines):
        return source, tuple(define for define in defines if define[0] not in of_width)

    variants = {(v.source, v.defines) for v in all_variants("sm_90") if v.source not in judges}
    assert {without_width(*v) for v in variants} == {without_width(*v) for v in sources}
    with_width = [(source, dict(defines)) for source, defines in sources if source in ("stream.cu", "wide.cu")]
    kinds = {(source, d[widths]) for source, d in with_width}
    assert kinds == {("stream.cu", 1), ("stream.cu", 2), *(("wide.cu", width) for width in (1, 2, 4, 8))}
    of_dtype = {(source, d["MMVQ_ACTIVATION"]) for source, d in with_width}
    assert of_dtype == {(source, activation) for source in ("stream.cu", "wide.cu") for activation in range(3)}
    entries = {
        (source, entry)
        for source in {launch.source for launch in launches}
        for entry in re.findall(
            r"^KERNEL(?:_BOUNDED\(.*\))?\s+(\w+)\(const", (resource_root("kernels") / source).read_text(), re.MULTILINE
        )
    }
    assert {(launch.source, launch.entry) for launch in launches} == entries


def test_a_case_travels_to_the_worker_process():
    case = matrix_suite("quick", ("Q4_K",)).cases[0]
    assert pickle.loads(pickle.dumps(case)) == case


@pytest.fixture(scope="module")
def session():
    return Session(RunSettings(engine="cpu", timed=False))


def run(session, format_name, dtype, edge):
    (case,) = (c for c in matrix_suite("quick", (format_name,), (dtype,)).cases if c.edge.name == edge)
    return run_case(case, session, CaseRecorder(case, "run", "check", session.engine.device, 1, False))


def flush(threshold):
    def weights_below_are_zero(format, packed, out):
        fastest_dequantizer().decode(format, packed, out)
        out[np.abs(out) < threshold] = 0

    return lambda monkeypatch: monkeypatch.setattr(
        product, "_dequantizer", lambda: Dequantizer("", weights_below_are_zero)
    )


def wrong(change):
    """Replace the arguments of the product by what `change` makes of them; None skips the product."""

    def broken(descriptor, args):
        changed = change(descriptor, args)
        if changed is not None:
            product.multiply(descriptor, changed)

    return lambda monkeypatch: monkeypatch.setattr(cpu_engine, "multiply", broken)


def activations(change):
    return wrong(lambda d, args: replace(args, activations=change(args.activations).astype(args.activations.dtype)))


def forget_old(d, args):
    args.output[...] = 0
    return args


FAULTS = [
    ("Q6_K", "special-scales", flush(2.0**-24 * 33)),
    ("IQ1_M", "special-scales", flush(2.0**-24 * 20)),
    ("MXFP4", "special-scales", flush(2.0**-126)),
    ("Q4_K", "nonfinite", activations(lambda x: x + 0 * x.sum())),
    ("Q4_K", "nonfinite", activations(np.nan_to_num)),
    ("Q8_0", "large", activations(lambda x: x.clip(-65504, 65504))),
    ("Q8_0", "subnormal", activations(lambda x: np.where(np.abs(x) < 2.0**-126, 0, x))),
    ("F16", "no-dispatch", wrong(lambda d, args: None)),
    ("IQ4_NL", "no-columns", wrong(lambda d, args: None)),
    ("Q5_1", "one-row-added", wrong(forget_old)),
    ("TQ2_0", "zero-weights", wrong(lambda d, args: replace(args, weights=args.weights + np.uint8(1)))),
]


@pytest.mark.parametrize(("name", "edge", "fault"), FAULTS, ids=[f"{name}-{edge}" for name, edge, _ in FAULTS])
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_a_named_edge_catches_its_fault(session, monkeypatch, name, edge, fault):
    assert run(session, name, Dtype.F32, edge).status is Status.PASSED
    fault(monkeypatch)
    record = run(session, name, Dtype.F32, edge)
    assert record.status is Status.WRONG_RESULT, f"{edge} passes with a fault"


def test_records_state_the_modes_of_the_edge(session):
    record = run(session, "Q4_0", Dtype.BF16, "one-row-added")
    assert record.axes.output_mode is OutputMode.ADD
    assert record.axes.tensor_name == "one-row-added"
    assert record.timing is None


@pytest.mark.parametrize("matrix", ["quick", "full"])
@pytest.mark.parametrize("name", [format.name for format in FORMATS.values() if format.digit_tiles])
def test_values_that_break_arithmetic_meet_each_arithmetic(matrix, name):
    device = find_device("H200")
    rules = {}
    for case in matrix_suite(matrix, (name,), (Dtype.BF16,)).cases:
        if case.edge.activations != "ordinary" or case.edge.weights:
            rules.setdefault(case.edge.name.removesuffix("-narrow"), set()).add(
                Plan.select(case.descriptor, device, Preference.FASTEST).rule
            )
    assert len(rules) == 5
    assert all(found == {"stream", "stream_digits"} for found in rules.values())
