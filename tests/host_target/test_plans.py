"""Every kernel that a plan can launch, run on the host for every format and dtype, against the float64 oracle.

A test fails when `Plan.select` can return a launch that it did not run.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest

from mmvq_cli.check import judge
from mmvq_cli.edges.routings import edge_routing
from mmvq_cli.edges.values import edge_activations, edge_weights
from mmvq_cli.engine.base import Reference
from mmvq_cli.engine.cpu.product import HostArgs
from mmvq_cli.engine.cpu.reference import exact_product
from mmvq_cli.engine.cuda.build import final_source
from mmvq_cli.engine.cuda.variants import _descriptors, _device
from mmvq_cli.engine.elements import narrow, widen
from mmvq_cli.model.synthetic import random_blocks
from mmvq_cli.op import FORMATS, Args, Descriptor, Dtype, Plan, Preference, launches, rules
from tests.host_target.driver import entries_of, find_compiler, run_on_host, run_plan

pytestmark = pytest.mark.skipif(bool(find_compiler().missing), reason=find_compiler().missing)

DEVICES = [_device("sm_80"), _device("sm_90"), replace(_device("sm_90"), compute_capability=(10, 0))]  # no warpgroups
PREEMPT_PER_MILLE = 30


@dataclass(frozen=True)
class Case:
    """Sizes, modes and values of one problem; `columns` in blocks of the format, or in runs of `float_columns` weights.

    `n_cols` is in weights instead.
    """

    routing: str = "uniform"
    n_experts: int = 4
    n_rows: int = 17
    columns: int = 3
    float_columns: int = 37
    n_cols: int = 0
    n_tokens: int = 6
    top_k: int = 2
    modes: tuple[tuple[str, str], ...] = ()
    weighted: bool = True
    activations: str = "ordinary"
    weights: str = ""
    phase: int = 0
    max_blocks: int = 2**31

    def descriptor(self, format, dtype):
        n_cols = self.n_cols or self.columns * (self.float_columns if format.is_float else format.block_size)
        routing = edge_routing(self.routing, self.n_experts, self.top_k, self.n_tokens, 0)
        return Descriptor(
            n_experts=self.n_experts,
            n_rows_per_expert=self.n_rows,
            n_cols=n_cols,
            m_total=int((routing.ids >= 0).sum()),
            m_tokens=self.n_tokens,
            top_k=self.top_k,
            format=format,
            dtype=dtype,
            **dict(self.modes),
        )

    def args(self, d):
        rng = np.random.default_rng([d.format.id, d.n_cols])
        dispatch = edge_routing(self.routing, d.n_experts, d.top_k, d.m_tokens, 0).dispatch()
        n_rows = d.n_experts * d.n_rows_per_expert
        if self.weights:
            weights = edge_weights(self.weights, d.format, d.n_cols, n_rows, 0)
        else:
            weights = random_blocks(d.format, d.weight_bytes // d.format.type_size, rng).reshape(-1)
        old = rng.standard_normal((d.output_row_count, d.n_rows_per_expert), dtype=np.float32)
        return Args(
            weights=weights,
            activations=edge_activations(self.activations, d.activation_row_count, d.n_cols, d.dtype, 0),
            sorted_token_ids=dispatch.sorted_token_ids,
            expert_offsets=dispatch.expert_offsets,
            topk_weights=dispatch.topk_weights if self.weighted else None,
            output=narrow(old if d.adds else np.full_like(old, np.nan), d.dtype),
        )


TO_DISPATCHES = (("output_rows", "dispatch"),)
ADDED_TO_DISPATCHES = (*TO_DISPATCHES, ("output_mode", "add"))
FROM_DISPATCHES = (("activation_rows", "dispatch"), ("output_mode", "add"))
ATOMIC = (("output_mode", "add"), ("accumulate", "atomic"))
# Between them: every launch, tiles of 1 to 8 and more, rows that no block size divides, more than one step of a lane.
CASES = {
    "summed": Case("gaps"),
    "stored": Case("hollow", top_k=1, n_tokens=9, modes=TO_DISPATCHES, weighted=False, phase=8),
    "cleared": Case("lone", top_k=1, n_rows=1),
    "added": Case("last", n_rows=33, modes=FROM_DISPATCHES, columns=1),
    "atomic": Case("repeated", top_k=4, n_tokens=3, modes=ATOMIC),
    "long-rows": Case("uniform", n_rows=3, n_cols=2304, top_k=1, n_tokens=5, modes=TO_DISPATCHES, max_blocks=1),
    "crowded": Case(
        "uniform", n_experts=2, n_tokens=19, top_k=1, columns=1, float_columns=40, modes=ADDED_TO_DISPATCHES
    ),
    "one-expert": Case(
        "uniform", n_experts=1, n_rows=5, n_tokens=37, top_k=1, columns=1, float_columns=40, modes=TO_DISPATCHES
    ),
    # Floats as f16 in tiles of 8 mma columns: rows are too long for more.
    "nine-each": Case(
        "uniform", n_experts=2, n_rows=2, n_tokens=18, top_k=1, columns=1, float_columns=8192, modes=TO_DISPATCHES
    ),
    # Few dispatches for each expert, so that all arithmetics meet such values.
    "nonfinite": Case("uniform", n_experts=24, activations="nonfinite", columns=1, float_columns=40),
    # As check's own: with other scales each product of f32 is a rounded subnormal, on any kernel.
    "tiny": Case(
        "uniform",
        n_experts=24,
        activations="subnormal",
        weights="unit",
        columns=1,
        modes=TO_DISPATCHES,
        weighted=False,
    ),
    "special-scales": Case(
        "uniform",
        n_experts=24,
        activations="small_start",
        weights="special",
        float_columns=40,
        modes=TO_DISPATCHES,
        max_blocks=3,
    ),
    "no-columns": Case("uniform", columns=0),
}
# Tiles of 8, 16, 32 and 64 mma columns, and fewer groups of them.
CROWDS = {
    f"{n_tokens}-each": Case(
        "uniform",
        n_experts=1,
        n_rows=n_rows,
        n_tokens=n_tokens,
        top_k=1,
        columns=1,
        float_columns=40,
        modes=modes,
        activations=activations,
    )
    for n_tokens, n_rows, modes, activations in (
        (3, 16, TO_DISPATCHES, "ordinary"),
        (5, 16, ADDED_TO_DISPATCHES, "large"),
        (12, 16, TO_DISPATCHES, "nonfinite"),
        (25, 80, TO_DISPATCHES, "ordinary"),
        (50, 16, TO_DISPATCHES, "large"),
    )
}
# Once for each dtype: what depends on no format, and takes longer.
SUMS = {
    "40-tokens": Case("gaps", n_tokens=40, n_rows=1, columns=1, max_blocks=3),
    "256-dispatches-of-a-token": Case("repeated", n_tokens=1, n_experts=2, n_rows=1, columns=1, top_k=256),
    "300-dispatches-of-a-token": Case("repeated", n_tokens=2, n_experts=3, n_rows=2, columns=1, top_k=300),
    "600-rows": Case("gaps", n_rows=600, columns=1),
}


def exact(d, args):
    arrays = HostArgs(
        args.weights, args.activations, args.sorted_token_ids, args.expert_offsets, args.topk_weights, args.output
    )
    return exact_product(d, arrays)


def judged(plan, args, output):
    d = plan.descriptor
    reference = exact(d, args)
    if d.adds:
        old = widen(args.output, d.dtype).astype(np.float64)
        reference = Reference(reference.values + old, reference.magnitude + np.abs(old))
    offsets = (args.sorted_token_ids, args.expert_offsets)
    return judge(widen(output, d.dtype), reference, d, plan.precision_guarantee, *offsets)


def check(plan, case, args, seeds):
    """Right under each seed, and the same bits where the plan promises them; the later seeds interrupt more often."""
    outputs = [
        run_on_host(plan, args, seed, seed * PREEMPT_PER_MILLE, phase=case.phase, max_blocks=case.max_blocks)
        for seed in seeds
    ]
    for output in outputs:
        verdict = judged(plan, args, output)
        assert verdict.passed, verdict
    if plan.precision_guarantee.deterministic:
        assert len({output.tobytes() for output in outputs}) == 1


def plans(descriptor):
    """The plans of both architectures and all preferences, each list of launches once."""
    selected = [Plan.select(descriptor, device, preference) for device in DEVICES for preference in Preference]
    return list({plan.launches: plan for plan in selected}.values())


BULK, LINES = ("MMVQ_BULK_COPIES", 1), ("MMVQ_BULK_COPIES", 0)


def copies_lines(plan):
    return any(LINES in launch.defines for launch in plan.launches)


def kernels(plan):
    """Those that copy lines count as those that copy in bulk, which differ in nothing else: a test below runs some."""
    return {
        (launch.source, launch.entry, tuple(BULK if define == LINES else define for define in launch.defines))
        for launch in plan.launches
    }


def selectable(format, dtype, are_crowds=False):
    """Every kernel that a plan can launch, of problems that differ in whatever a rule may look at.

    Those of crowds or those of all others: a test below runs each format's kernels of crowds with one dtype.
    """
    descriptors = [d for d in _descriptors(format) if d.dtype == dtype]
    wanted = (plan for d in descriptors for plan in plans(d) if (plan.rule == "wide") == are_crowds)
    return {kernel for plan in wanted for kernel in kernels(plan)}


def planned(format, dtype):
    """Every kernel of the cases' plans: what `run_cases` executes."""
    return {
        kernel for case in CASES.values() for plan in plans(case.descriptor(format, dtype)) for kernel in kernels(plan)
    }


def run_cases(cases, format, dtype, by_lines=False, are_crowds=False):
    executed = set()
    for number, (name, case) in enumerate(cases.items()):
        # Two seeds for every fourth case, by turns: each case has them with a quarter of the formats.
        # Only f32 shows in which order hundreds of dispatches were summed.
        is_turn = (number + format.id + dtype.itemsize) % 4 == 0
        seeds = (0, 1) if is_turn or (case.top_k > 100 and dtype is Dtype.F32) else (1,)
        descriptor = case.descriptor(format, dtype)
        args = case.args(descriptor)
        for plan in plans(descriptor):
            if copies_lines(plan) != by_lines or (plan.rule == "wide") != are_crowds:
                continue
            try:
                check(plan, case, args, seeds)
            except AssertionError as error:
                raise AssertionError(f"{name}, {plan.sku.name}: {error}") from error
            executed |= kernels(plan)
    return executed


@pytest.mark.parametrize("dtype", Dtype)
@pytest.mark.parametrize("name", FORMATS)
def test_a_format_with_a_dtype(name, dtype):
    format = FORMATS[name]
    missing = selectable(format, dtype) - run_cases(CASES, format, dtype)
    assert not missing, f"selectable, but not run: {missing}"


# Blocks at many phases of 16 bytes, and each arithmetic; the others differ in nothing that copies know.
@pytest.mark.parametrize(
    "name", ["Q4_0", "Q8_0", "MXFP4", "NVFP4", "Q3_K", "Q4_K", "Q6_K", "IQ1_S", "IQ2_XXS", "F32", "F16"]
)
def test_rows_that_are_copied_by_lines(name):
    """One dtype for each format, with which it has all its arithmetics."""
    format, few = FORMATS[name], ("stored", "added", "long-rows", "crowded", "nonfinite", "tiny")
    halves = (Dtype.F16, Dtype.BF16)
    dtype = halves[format.id % 2] if format.digit_tiles or format.is_float else Dtype.F32
    cases = {name: CASES[name] for name in few}
    if format.is_float:
        cases["nine-each"] = replace(CASES["nine-each"], float_columns=3584)  # these devices have less shared memory
    executed = run_cases(cases, format, dtype, by_lines=True)
    streams = {kernel for kernel in selectable(format, dtype) if kernel[0] == "stream.cu"}
    assert streams
    assert not streams - executed


@pytest.mark.parametrize("name", FORMATS)
def test_crowds(name, monkeypatch):
    """Of any size, as if nothing else were as fast; dtypes take turns."""
    monkeypatch.setattr(rules, "_FEWER_READS", 0)
    format = FORMATS[name]
    dtype = list(Dtype)[list(FORMATS).index(name) % 3]
    blocks = 1 + format.type_size % 2  # rows of an odd number of bytes begin at boxes' multiples too seldom
    cases = {name: replace(case, columns=blocks) for name, case in CROWDS.items()}
    missing = selectable(format, dtype, are_crowds=True) - run_cases(cases, format, dtype, are_crowds=True)
    assert not {kernel for kernel in missing if kernel[0] == "wide.cu"}


@pytest.mark.parametrize(
    ("name", "dtype", "case", "wanted"),
    [
        # Experts without dispatches; a row that ends in a stage; two stages of an item.
        (
            "Q4_K",
            Dtype.F16,
            Case("gaps", n_experts=3, n_rows=70, n_cols=1280, n_tokens=60, top_k=2, max_blocks=2),
            {"line_rows": 1, "columns": 64, "segment": 256},
        ),
        # Two rows begin at 16 bytes together, each segment at a phase of its own; an expert's last tile is small.
        (
            "Q6_K",
            Dtype.BF16,
            Case("last", n_experts=2, n_rows=130, n_cols=1024, n_tokens=70, top_k=1, max_blocks=1),
            {"line_rows": 2, "columns": 64, "n_row_tiles": 3},
        ),
        # A row that ends in a chunk; the last rows of an expert are few, and each of eight boxes has some.
        (
            "MXFP4",
            Dtype.F32,
            Case("uniform", n_experts=2, n_rows=24, n_cols=832, n_tokens=40, top_k=1),
            {"line_rows": 8},
        ),
        (
            "IQ2_XXS",
            Dtype.F16,
            Case("uniform", n_experts=2, n_rows=72, n_cols=1280, n_tokens=40, top_k=1, max_blocks=1),
            {"grid_copies": 8},
        ),
        ("F16", Dtype.BF16, Case("uniform", n_experts=1, n_rows=70, n_cols=600, n_tokens=70, top_k=1), {"columns": 64}),
        # Offsets beside low parts of activations; columns of unlike powers of two.
        (
            "Q2_K",
            Dtype.F32,
            Case("uniform", n_experts=1, n_rows=24, n_cols=256, n_tokens=20, top_k=1, activations="large"),
            {"line_rows": 4, "columns": 32},
        ),
    ],
    ids=["gaps", "two-rows-together", "ends", "codebook", "floats", "low-parts"],
)
def test_rows_and_activations_side_by_side(name, dtype, case, wanted):
    """Shapes of crowds that the cases have not."""
    case = replace(case, modes=TO_DISPATCHES)
    d = case.descriptor(FORMATS[name], dtype)
    plan = Plan.select(d, DEVICES[1], Preference.AUTO)
    assert [launch.entry for launch in plan.launches] == ["arrange", "wide"]
    assert dict(plan.launches[1].values).items() >= wanted.items()
    check(plan, case, case.args(d), seeds=range(2))


def test_columns_of_a_crowd_have_powers_of_their_own():
    """One activation of 256 that all others are small beside, and dispatches that are small beside others."""
    case = Case("uniform", n_experts=1, n_rows=16, n_cols=256, n_tokens=20, top_k=1, modes=TO_DISPATCHES)
    d = case.descriptor(FORMATS["Q5_K"], Dtype.BF16)
    args = case.args(d)
    activations = widen(args.activations, d.dtype)
    activations[::2, 7] = 2.0**20
    activations[1::3] *= 2.0**-20
    args = replace(args, activations=narrow(activations, d.dtype))
    check(Plan.select(d, DEVICES[1], Preference.AUTO), case, args, seeds=range(1))


def test_stages_of_crowds_are_used_again():
    """With the fewest stages, so that a small problem goes round."""
    case = Case("uniform", n_experts=2, n_rows=40, n_cols=2304, n_tokens=40, top_k=1, max_blocks=1, modes=TO_DISPATCHES)
    d = case.descriptor(FORMATS["Q5_K"], Dtype.F16)
    plan = Plan.select(d, DEVICES[1], Preference.AUTO)
    arrange, wide = plan.launches
    two = replace(wide, values=tuple((dict(wide.values) | {"n_stages": 2}).items()))
    check(replace(plan, launches=(arrange, two)), case, case.args(d), seeds=range(3))


@pytest.mark.parametrize("dtype", Dtype)
def test_large_sums(dtype, monkeypatch):
    """Every kernel around the products, those included that a plan launches for many dispatches only."""
    few = run_cases(SUMS, FORMATS["Q8_0"], dtype)
    monkeypatch.setattr(launches, "_ONE_BLOCK_DISPATCHES", 30)
    many = run_cases({"40-tokens": SUMS["40-tokens"]}, FORMATS["Q8_0"], dtype)
    combine = {(entry, defines) for source, entry, defines in few | many if source == "combine.cu"}
    text = final_source("combine.cu", dict(next(iter(combine))[1])).text
    assert {entry for entry, _ in combine} | {"clear_output"} == set(entries_of(text))


def test_a_kernel_that_was_not_run_is_missed():
    format, dtype = FORMATS["Q4_0"], Dtype.F32
    one = {kernel for plan in plans(CASES["stored"].descriptor(format, dtype)) for kernel in kernels(plan)}
    missed = {entry for _, entry, _ in selectable(format, dtype) - one}
    assert missed >= {"index_dispatches", "combine", "clear_output"}


@pytest.mark.parametrize("preference", Preference)
@pytest.mark.parametrize("device", DEVICES, ids=lambda device: device.architecture)
def test_a_variant_of_one_preference_on_one_architecture_is_missed(device, preference, monkeypatch):
    format, dtype, select = FORMATS["Q4_K"], Dtype.F16, Plan.select
    new = ("MMVQ_NEW", 1)

    def select_new(descriptor, on, wanted):
        """A new variant, for problems that are larger than those of the cases."""
        plan = select(descriptor, on, wanted)
        if (on, wanted) != (device, preference) or descriptor.n_cols < 7168:
            return plan
        *others, last = plan.launches
        return replace(plan, launches=(*others, replace(last, defines=(*last.defines, new))))

    monkeypatch.setattr(Plan, "select", select_new)
    missed = selectable(format, dtype) - planned(format, dtype)
    assert any(new in defines for _, _, defines in missed)


@pytest.mark.parametrize(("name", "dtype"), [("Q8_0", Dtype.F16), ("Q4_K", Dtype.F32)])
def test_stages_of_the_ring_are_used_again(name, dtype):
    """With two stages of the shared memory, so that a small problem goes round."""
    case = Case("uniform", n_rows=20, n_cols=1280, n_tokens=5, top_k=1, modes=TO_DISPATCHES, max_blocks=1)
    d = case.descriptor(FORMATS[name], dtype)
    plan = Plan.select(d, DEVICES[1], Preference.FASTEST)
    (launch,) = plan.launches
    values = dict(launch.values)
    assert values["n_stages"] > 2
    two = replace(launch, values=tuple((values | {"n_stages": 2, "stage_inverse": 2**31}).items()))
    check(replace(plan, launches=(two,)), case, case.args(d), seeds=range(3))


@pytest.mark.parametrize(
    ("name", "dtype", "case", "wanted"),
    [
        # Rows too long to be copied together, in slices of two chunks, the last of one; each row at a phase of its own.
        ("Q6_K", Dtype.F16, Case("uniform", n_rows=21, n_cols=3840), {"copy_rows": 1, "run": 2, "n_slices": 8}),
        # The same for f32, and more experts than a warp has lanes.
        (
            "Q3_K",
            Dtype.F32,
            Case("uniform", n_experts=70, n_rows=9, n_cols=3840, n_tokens=20),
            {"copy_rows": 1, "run": 3, "n_slices": 5},
        ),
        # Three items to a tile: each summing warp has the first of every second one.
        (
            "Q4_K",
            Dtype.F16,
            Case("uniform", n_experts=2, n_rows=80, n_cols=1280, n_tokens=24, top_k=1, max_blocks=1),
            {"columns": 16, "n_row_tiles": 3},
        ),
        (
            "Q4_K",
            Dtype.F16,
            Case("uniform", n_experts=2, n_rows=20, n_cols=7168, n_tokens=4, top_k=1),
            {"has_boxes": 1, "n_segments": 2},
        ),
        # Segments in boxes that begin at other phases than rows.
        (
            "Q3_K",
            Dtype.F16,
            Case("uniform", n_experts=2, n_rows=20, n_cols=6144, n_tokens=4, top_k=1),
            {"line_rows": 1, "packed_segment": 1320},
        ),
        # Four rows to a line of the boxes' tensor, and rows past the expert's end.
        (
            "Q6_K",
            Dtype.F16,
            Case("uniform", n_experts=3, n_rows=28, n_cols=5632, n_tokens=4, top_k=1, max_blocks=2),
            {"line_rows": 4, "n_segments": 3},
        ),
        # The same where segments begin at other phases than rows.
        (
            "IQ3_S",
            Dtype.F16,
            Case("uniform", n_experts=2, n_rows=22, n_cols=5120, n_tokens=3, top_k=1),
            {"line_rows": 2, "packed_segment": 1100},
        ),
        # Eight rows to a line, in several row groups.
        (
            "MXFP4",
            Dtype.BF16,
            Case("uniform", n_experts=2, n_rows=40, n_cols=2880, n_tokens=3, top_k=1, max_blocks=1),
            {"line_rows": 8, "row_groups": 2},
        ),
        # Five slices in the first segment, four in the second.
        (
            "Q4_K",
            Dtype.F16,
            Case("uniform", n_experts=2, n_rows=40, n_cols=4352, n_tokens=2, top_k=1, max_blocks=1),
            {"n_segments": 2, "units": 5, "item_units": 9},
        ),
        # Eight floats in the last chunk, and nothing copied behind them.
        (
            "F32",
            Dtype.F16,
            Case("uniform", n_experts=2, n_rows=3, n_cols=8200, top_k=1),
            {"has_boxes": 0, "run": 3, "n_slices": 11},
        ),
        ("Q4_0", Dtype.F16, Case("uniform", n_experts=300, n_rows=3, n_cols=32, n_tokens=20), {"n_row_tiles": 1}),
        # Activations of one column are multiplied by another power of two than those of the next.
        (
            "BF16",
            Dtype.BF16,
            Case("uniform", n_experts=1, n_cols=40, n_tokens=20, top_k=1, activations="large"),
            {"columns": 16},
        ),
        (
            "BF16",
            Dtype.BF16,
            Case("uniform", n_experts=1, n_cols=40, n_tokens=20, top_k=1, weights="special"),
            {"columns": 16},
        ),
    ],
    ids=[
        "long-rows",
        "many-experts",
        "summing-in-turns",
        "boxes-of-half-a-row",
        "phases-of-segments",
        "four-rows-to-a-line",
        "two-rows-to-a-line",
        "eight-rows-to-a-line",
        "unequal-segments",
        "floats-end-in-a-chunk",
        "ten-experts-a-lane",
        "floats-of-all-sizes",
        "subnormal-floats",
    ],
)
def test_shapes_that_the_cases_have_not(name, dtype, case, wanted, monkeypatch):
    monkeypatch.setattr(rules, "wide_shape", lambda *_: None)  # which the largest of these would have
    case = replace(case, modes=TO_DISPATCHES)
    d = case.descriptor(FORMATS[name], dtype)
    plan = Plan.select(d, DEVICES[1], Preference.FASTEST)
    (launch,) = plan.launches
    assert dict(launch.values).items() >= wanted.items()
    check(plan, case, case.args(d), seeds=range(2))


@pytest.mark.parametrize("preference", [Preference.FASTEST, Preference.REPRODUCIBLE])
def test_sums_beyond_the_largest_float_are_infinite(preference):
    """Not NaN, where parts of an activation have sums of either sign."""
    case = Case("uniform", n_tokens=3, top_k=1, modes=TO_DISPATCHES, activations="large")
    d = case.descriptor(FORMATS["MXFP4"], Dtype.BF16)
    args = case.args(d)
    args.weights.reshape(-1, d.format.type_size)[:, 0] = 252  # 2^124
    values = exact(d, args).values
    output = widen(run_on_host(Plan.select(d, DEVICES[1], preference), args), d.dtype)
    beyond = np.abs(values) > 2.0**129
    assert beyond.mean() > 0.25
    assert np.array_equal(output[beyond], np.copysign(np.inf, values[beyond]))


@pytest.mark.parametrize("n_tokens", [1, 12])
@pytest.mark.parametrize(("name", "dtype"), [("F32", Dtype.F16), ("F16", Dtype.F32), ("BF16", Dtype.BF16)])
def test_an_infinite_weight_is_seen_in_its_rows_and_in_no_other(name, dtype, n_tokens):
    """The sum is infinite, also where lanes behind the row's end read its first weights; of f16 parts it may be NaN."""
    case = Case("uniform", n_experts=1, n_tokens=n_tokens, top_k=1, n_cols=40, modes=TO_DISPATCHES, weighted=False)
    d = case.descriptor(FORMATS[name], dtype)
    args = case.args(d)
    infinite = narrow(np.full(1, np.inf, np.float32), Dtype(name.lower())).view(np.uint8)
    args.weights.reshape(d.n_rows_per_expert, -1)[::2, : infinite.size] = infinite
    expected = widen(args.activations, d.dtype)[args.sorted_token_ids, :1] * np.float32(np.inf)
    for preference in Preference:
        plan = Plan.select(d, DEVICES[1], preference)
        output = widen(run_on_host(plan, args), d.dtype)
        assert np.isfinite(output[:, 1::2]).all()
        assert not np.isfinite(output[:, ::2]).any()
        if plan.rule not in ("stream_halves", "wide"):
            assert (output[:, ::2] == expected).all()


@pytest.mark.parametrize("dtype", [Dtype.F16, Dtype.BF16])
def test_sums_by_atomics_are_complete_whatever_interrupts(dtype):
    case = CASES["atomic"]
    d = case.descriptor(FORMATS["Q8_0"], dtype)
    plan, args = Plan.select(d, DEVICES[0]), case.args(d)
    for seed in range(4):
        verdict = judged(plan, args, run_on_host(plan, args, seed, preempt_per_mille=500))
        assert verdict.passed, verdict


@pytest.mark.parametrize("dtype", Dtype)
def test_a_routing_that_breaks_the_contract_reaches_nothing_outside(dtype):
    """All dispatches go to the last token, more than top_k of them."""
    case = CASES["summed"]
    d = case.descriptor(FORMATS["Q8_0"], dtype)
    args = case.args(d)
    args = replace(args, sorted_token_ids=np.full_like(args.sorted_token_ids, d.m_tokens - 1))
    parts = run_plan(Plan.select(d, DEVICES[0]), args)
    assert np.frombuffer(parts["token_counts"], np.int32).tolist() == [*[0] * (d.m_tokens - 1), d.m_total]
