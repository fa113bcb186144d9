"""How a plan is chosen: an ordered list of named rules; the first whose condition holds makes the choice.

A new kernel family is a new rule with its own builder. `mmvq plan` prints the rule and the reason.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from mmvq_cli.errors import Unsupported
from mmvq_cli.op.descriptor import Accumulate, Descriptor, Dtype
from mmvq_cli.op.device import OLDEST_COMPUTE_CAPABILITY, Device
from mmvq_cli.op.launches import COLUMNS, grouped_launches, stream_launches, wide_launches
from mmvq_cli.op.operands import has_digits
from mmvq_cli.op.plan import Launch, Preference, Sku
from mmvq_cli.op.precision import DEFAULT_ERROR_CONSTANT, PrecisionGuarantee
from mmvq_cli.op.problem import Region, workspace_regions
from mmvq_cli.op.shape import StreamShape
from mmvq_cli.op.stream import digit_shape, halves_shape, stream_shape
from mmvq_cli.op.tiles import expected_tiles
from mmvq_cli.op.wide import arranged_bytes, wide_shape

# How often other tiles would read rows where wider ones do once: at 1.0 either may be faster, from 1.4 on the wider
# are. F32 as f16, which takes two products for each weight, is faster there at once.
_FEWER_READS = 1.25


@dataclass(frozen=True, slots=True)
class Choice:
    """What a rule decided."""

    rule: str
    reason: str
    sku: Sku
    guarantee: PrecisionGuarantee
    launches: tuple[Launch, ...]
    workspace: tuple[Region, ...] = ()


@dataclass(frozen=True, slots=True)
class Rule:
    """A named condition and the builder that it selects; `summary` is for `mmvq list kernels`."""

    name: str
    engine: str
    summary: str
    holds: Callable[[Descriptor, Device, Preference], bool]
    build: Callable[[Descriptor, Device, Preference], Choice]


def choose(descriptor: Descriptor, device: Device, preference: Preference) -> Choice:
    """Apply the rules in order; those of the preference that was measured to be fastest, where `tuned` is wanted.

    Raises `Unsupported` when no kernel runs on the device.
    """
    if preference is Preference.TUNED:
        return _choose_tuned(descriptor, device)
    for rule in RULES:
        if rule.holds(descriptor, device, preference):
            return rule.build(descriptor, device, preference)
    raise Unsupported(
        f"{device.name} is {device.architecture}, the CUDA kernels need "
        f"sm_{OLDEST_COMPUTE_CAPABILITY[0]}{OLDEST_COMPUTE_CAPABILITY[1]} or newer",
        "use --engine cpu",
    )


def _choose_tuned(d: Descriptor, device: Device) -> Choice:
    if device.tuning is None or not device.tuning.of_family(d):
        return choose(d, device, Preference.AUTO)
    tuned = device.tuning.nearest(d)
    choice = choose(d, device, Preference(tuned.preference) if tuned else Preference.AUTO)
    why = f"`{tuned.preference}` was fastest at {tuned.m_tokens} tokens in {tuned.run_id}" if tuned else ""
    return replace(
        choice,
        reason=f"{choice.reason}; {why or 'nothing was measured near this number of tokens'}",
        # A token alone, or one of a crowd, may have another kernel.
        guarantee=replace(choice.guarantee, batch_invariant=False),
    )


def _name(family: str, d: Descriptor, device: Device) -> str:
    modes = f"{d.activation_rows}-{d.output_rows}-{d.output_mode}-{d.accumulate}"
    return f"{family}-{d.format}-{d.dtype}-{modes}-{device.architecture}"


def _sku(family: str, d: Descriptor, device: Device) -> Sku:
    return Sku(
        category="matvec",
        op="batched_experts",
        element=d.dtype.value,
        auxiliary_element=d.format.name.lower() if d.format.is_float else "u8",
        layout=f"{d.format}:{d.activation_rows}/{d.output_rows}",
        epilogue=f"{d.output_mode}:{d.accumulate if d.top_k > 1 else 'store'}",
        architecture=device.architecture,
        backend=device.backend,
        name=_name(family, d, device),
    )


def _is_atomic_sum(d: Descriptor) -> bool:
    return d.accumulate is Accumulate.ATOMIC and d.top_k > 1 and d.output_rows == "token"


def _build_cpu(d: Descriptor, device: Device, _: Preference) -> Choice:
    return Choice(
        rule="cpu",
        reason="the CPU engine has one path: dequantize each touched expert's rows, then a float32 BLAS product",
        sku=_sku("dequantize_blas", d, device),
        guarantee=PrecisionGuarantee(
            math="f32",
            accumulator="f32",
            error_constant=32.0,
            deterministic=True,
            bit_stable_on_same_hardware=True,
            batch_invariant=False,  # BLAS picks its summation order from the matrix shape
        ),
        launches=(),
    )


def _atomic_error_constant(d: Descriptor) -> float:
    """Every one of a token's top_k additions rounds to the output dtype, on top of the f32 arithmetic."""
    return 32.0 + d.top_k * d.dtype.unit_roundoff * 2.0**24


def _build_grouped(d: Descriptor, device: Device, _: Preference) -> Choice:
    atomic = _is_atomic_sum(d)
    return Choice(
        rule="grouped",
        reason=f"dispatches are grouped by expert, up to {COLUMNS} share one read of its rows; f32 arithmetic",
        sku=_sku("grouped", d, device),
        guarantee=PrecisionGuarantee(
            math="f32",
            accumulator="f32",
            error_constant=_atomic_error_constant(d) if atomic else 32.0,
            deterministic=not atomic,
            bit_stable_on_same_hardware=not atomic,
            batch_invariant=not atomic,
        ),
        launches=grouped_launches(d),
        workspace=workspace_regions(d),
    )


def _build_stream(d: Descriptor, device: Device, preference: Preference) -> Choice:
    shape = stream_shape(d, device)
    assert shape is not None
    arithmetic = "products in f32" if d.format.is_float else "exact weights as f16 on the tensor cores"
    return _streaming("stream", d, device, preference, arithmetic, shape)


def _build_wide(d: Descriptor, device: Device, _: Preference) -> Choice:
    shape = wide_shape(d, device)
    assert shape is not None
    weights = "weights as scaled f16" if d.format.is_float else "exact weights as f16"
    return Choice(
        rule="wide",
        reason=f"rows and activations of up to {shape.columns} dispatches stream side by side, {shape.rows} rows and "
        f"{shape.segment} weights in each of {shape.n_stages} stages; {weights} on the tensor cores of a warpgroup",
        sku=_sku("wide", d, device),
        guarantee=_streaming_guarantee(d, shape, is_batch_invariant=False),
        launches=wide_launches(d, device, shape),
        workspace=workspace_regions(d, arranged_bytes=arranged_bytes(d, shape)),
    )


def _build_stream_halves(d: Descriptor, device: Device, preference: Preference) -> Choice:
    shape = halves_shape(d, device)
    assert shape is not None
    arithmetic = "weights as scaled f16 on the tensor cores"
    return _streaming("stream_halves", d, device, preference, arithmetic, shape)


def _build_stream_digits(d: Descriptor, device: Device, preference: Preference) -> Choice:
    shape = digit_shape(d, device)
    assert shape is not None
    arithmetic = f"codes times activations of {shape.operands.digits} digits of 8 bits on the integer tensor cores"
    return _streaming("stream_digits", d, device, preference, arithmetic, shape)


def _streaming(
    rule: str, d: Descriptor, device: Device, preference: Preference, arithmetic: str, shape: StreamShape
) -> Choice:
    tile = "each dispatch" if shape.columns == 1 else f"each tile of up to {shape.columns} dispatches"
    # A token alone, or one of a crowd, would be multiplied in another way.
    changes = _may_be_digits(d, preference) or _may_be_halves(d, preference) or _may_be_wide(device, preference)
    return Choice(
        rule=rule,
        reason=f"{tile} streams its rows through shared memory once, in {shape.n_stages} stages of {shape.segment} "
        f"weights; {arithmetic}",
        sku=_sku(rule, d, device),
        guarantee=_streaming_guarantee(d, shape, is_batch_invariant=not changes),
        launches=stream_launches(d, device, shape),
        workspace=workspace_regions(d),
    )


def _streaming_guarantee(d: Descriptor, shape: StreamShape, is_batch_invariant: bool) -> PrecisionGuarantee:
    atomic = _is_atomic_sum(d)
    operands = shape.operands
    exactness = DEFAULT_ERROR_CONSTANT[Dtype.F32 if operands.is_plain else d.dtype]
    return PrecisionGuarantee(
        math="i8" if operands.digits else "f32" if operands.is_plain else "f16",
        accumulator="i32, f32" if operands.digits else "f32",
        error_constant=exactness + _atomic_error_constant(d) if atomic else exactness,
        deterministic=not atomic,
        bit_stable_on_same_hardware=not atomic,
        batch_invariant=not atomic and is_batch_invariant,
    )


def _may_stream(device: Device, preference: Preference) -> bool:
    # Without bulk copies not by itself (auto): no such GPU has timed it yet (kernels/README.md).
    is_proven = device.has_bulk_copies or preference is Preference.FASTEST
    return preference is not Preference.REFERENCE and device.backend == "cuda" and is_proven


def _streams(d: Descriptor, device: Device, preference: Preference) -> bool:
    return _may_stream(device, preference) and stream_shape(d, device) is not None


def _may_be_halves(d: Descriptor, preference: Preference) -> bool:
    return d.format.is_float and preference in (Preference.AUTO, Preference.FASTEST)


def _streams_halves(d: Descriptor, device: Device, preference: Preference) -> bool:
    return _may_be_halves(d, preference) and _may_stream(device, preference) and halves_shape(d, device) is not None


def _may_be_wide(device: Device, preference: Preference) -> bool:
    return device.has_warpgroups and preference in (Preference.AUTO, Preference.FASTEST)


def _is_wide(d: Descriptor, device: Device, preference: Preference) -> bool:
    """Where rows would be read more often by what would be planned for many dispatches, were there no `wide`."""
    wide = wide_shape(d, device) if _may_be_wide(device, preference) else None
    if wide is None:
        return False
    halves = halves_shape(d, device) if d.format.is_float else None
    other = halves or stream_shape(d, device) or digit_shape(d, device)
    fewer = _FEWER_READS if halves is None or d.format.type_size < 4 else 1.0
    return other is None or expected_tiles(d, other.columns) >= fewer * expected_tiles(d, wide.columns)


def _may_be_digits(d: Descriptor, preference: Preference) -> bool:
    return has_digits(d) and preference in (Preference.AUTO, Preference.FASTEST)


def _streams_digits(d: Descriptor, device: Device, preference: Preference) -> bool:
    return _may_be_digits(d, preference) and _may_stream(device, preference) and digit_shape(d, device) is not None


def _runs_cuda(_: Descriptor, device: Device, __: Preference) -> bool:
    return device.backend == "cuda" and device.compute_capability >= OLDEST_COMPUTE_CAPABILITY


RULES: tuple[Rule, ...] = (
    Rule(
        "cpu",
        "cpu",
        "dequantize each touched expert's rows, then a float32 BLAS product",
        lambda _, device, __: device.backend == "cpu",
        _build_cpu,
    ),
    Rule(
        "wide",
        "cuda",
        "many dispatches per expert: rows and activations stream side by side to a warpgroup's tensor cores; sm_90",
        _is_wide,
        _build_wide,
    ),
    Rule(
        "stream_digits",
        "cuda",
        "few dispatches per expert: rows stream to the integer tensor cores, activations of 24 bits; auto from sm_90",
        _streams_digits,
        _build_stream_digits,
    ),
    Rule(
        "stream_halves",
        "cuda",
        "plain floats, four dispatches per expert and more: rows stream as scaled f16; auto from sm_90",
        _streams_halves,
        _build_stream_halves,
    ),
    Rule(
        "stream",
        "cuda",
        "rows stream once through shared memory to the tensor cores; exact weights; auto from sm_90",
        _streams,
        _build_stream,
    ),
    Rule(
        "grouped",
        "cuda",
        f"dispatches grouped by expert, tiles of up to {COLUMNS} share one read of its rows; f32, batch-invariant",
        _runs_cuda,
        _build_grouped,
    ),
)
