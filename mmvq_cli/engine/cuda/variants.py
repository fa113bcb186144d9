"""Every kernel source that can be asked for on an architecture, so that all can be compiled where there is no GPU."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from itertools import product

from mmvq_cli.engine.cuda.build import Resources, build_cubin
from mmvq_cli.engine.cuda.source import format_defines as weight_defines
from mmvq_cli.errors import UsageError
from mmvq_cli.op import (
    FORMATS,
    Accumulate,
    Descriptor,
    Device,
    Dtype,
    Format,
    Launch,
    OutputMode,
    Plan,
    Preference,
    Rows,
    known_devices,
)
from mmvq_cli.op.launches import format_defines

Defines = tuple[tuple[str, int | str], ...]

# Kernels that may spill, by `Variant.name` and architecture, and the bytes that they may, by NVRTC 13.5: the compiler
# prefers more warps on a multiprocessor to these few bytes, and a bound that forbids it made Q4_K slower.
ALLOWED_SPILL_BYTES: dict[tuple[str, str], int] = {
    ("stream.cu Q2_K f32 x1", "sm_80"): 44,
    ("stream.cu Q2_K f16 x1", "sm_80"): 44,
    ("stream.cu Q2_K bf16 x1", "sm_80"): 20,
    ("stream.cu Q2_K bf16 x2", "sm_80"): 40,
    ("stream.cu Q3_K f32 x1", "sm_80"): 20,
    ("stream.cu Q3_K f16 x1", "sm_80"): 20,
    ("stream.cu Q3_K bf16 x1", "sm_80"): 20,
    ("stream.cu Q4_K f32 x2", "sm_80"): 16,
    ("stream.cu Q4_K bf16 x1", "sm_80"): 12,
    ("stream.cu Q4_K bf16 x2", "sm_80"): 32,
    ("stream.cu Q5_K f32 x1", "sm_80"): 20,
    ("stream.cu Q5_K f32 x2", "sm_80"): 48,
    ("stream.cu Q5_K f16 x1", "sm_80"): 56,
    ("stream.cu Q5_K bf16 x1", "sm_80"): 20,
    ("stream.cu Q5_K bf16 x2", "sm_80"): 48,
    ("grouped.cu Q6_K bf16", "sm_80"): 16,
    ("stream.cu F32 f16 x1", "sm_80"): 20,
    ("stream.cu F32 bf16 x1", "sm_80"): 20,
    ("stream.cu F16 f32 x1", "sm_80"): 16,
    ("stream.cu F16 f16 x1", "sm_80"): 24,
    ("stream.cu F16 bf16 x1", "sm_80"): 24,
    ("stream.cu BF16 f32 x1", "sm_80"): 16,
    ("stream.cu BF16 f16 x1", "sm_80"): 24,
    ("stream.cu BF16 bf16 x1", "sm_80"): 24,
    ("stream.cu Q4_K f32 x2", "sm_89"): 16,
    ("stream.cu Q4_K f16 x1 digits", "sm_89"): 12,
    ("stream.cu Q4_K bf16 x1 digits", "sm_89"): 12,
    ("stream.cu Q4_K bf16 x2", "sm_89"): 8,
    ("stream.cu Q5_K bf16 x1", "sm_89"): 8,
    ("stream.cu F32 f16 x1", "sm_89"): 12,
    ("stream.cu F32 f16 x2 halves", "sm_89"): 16,
    ("stream.cu F32 bf16 x1", "sm_89"): 12,
    ("stream.cu F32 bf16 x2 halves", "sm_89"): 16,
    ("stream.cu F16 f32 x1", "sm_89"): 16,
    ("stream.cu F16 f16 x1", "sm_89"): 16,
    ("stream.cu F16 bf16 x1", "sm_89"): 16,
    ("stream.cu BF16 f32 x1", "sm_89"): 16,
    ("stream.cu BF16 f16 x1", "sm_89"): 16,
    ("stream.cu BF16 bf16 x1", "sm_89"): 16,
    ("stream.cu Q5_1 bf16 x2", "sm_90"): 16,
    ("stream.cu Q4_K f16 x1 digits", "sm_90"): 44,
    ("stream.cu Q4_K bf16 x1 digits", "sm_90"): 44,
    ("grouped.cu Q4_K bf16", "sm_90"): 36,
    ("stream.cu Q4_K bf16 x2", "sm_90"): 48,
    ("stream.cu Q5_K f16 x1 digits", "sm_90"): 16,
    ("stream.cu Q5_K bf16 x1 digits", "sm_90"): 16,
    ("stream.cu Q8_K bf16 x1", "sm_90"): 12,
    ("stream.cu IQ4_XS bf16 x2", "sm_90"): 16,
    ("grouped.cu IQ3_XXS f32", "sm_90"): 16,
    ("grouped.cu IQ3_XXS f16", "sm_90"): 36,
    ("grouped.cu IQ1_S f16", "sm_90"): 80,
    ("stream.cu TQ1_0 f32 x1", "sm_90"): 12,
    ("stream.cu TQ1_0 f16 x1 digits", "sm_90"): 12,
    ("stream.cu TQ1_0 f16 x1", "sm_90"): 12,
    ("stream.cu TQ1_0 bf16 x1 digits", "sm_90"): 12,
    ("stream.cu TQ1_0 bf16 x1", "sm_90"): 12,
    ("grouped.cu TQ2_0 f16", "sm_90"): 8,
    ("stream.cu F32 f16 x1", "sm_90"): 12,
    ("stream.cu F32 bf16 x1", "sm_90"): 12,
    ("stream.cu F16 f32 x1", "sm_90"): 8,
    ("stream.cu F16 f16 x1", "sm_90"): 16,
    ("stream.cu F16 bf16 x1", "sm_90"): 16,
    ("stream.cu BF16 f32 x1", "sm_90"): 8,
    ("stream.cu BF16 f16 x1", "sm_90"): 16,
    ("stream.cu BF16 bf16 x1", "sm_90"): 16,
    ("stream.cu Q4_1 f16 x2", "sm_100"): 8,
    ("grouped.cu Q5_0 bf16", "sm_100"): 20,
    ("grouped.cu Q8_0 bf16", "sm_100"): 20,
    ("grouped.cu IQ3_S f16", "sm_100"): 16,
    ("grouped.cu TQ1_0 f32", "sm_100"): 20,
    ("stream.cu TQ1_0 f16 x1", "sm_100"): 8,
    ("stream.cu TQ1_0 bf16 x1", "sm_100"): 60,
    ("grouped.cu TQ2_0 f16", "sm_100"): 20,
    ("grouped.cu F32 bf16", "sm_100"): 32,
    ("grouped.cu F16 f16", "sm_100"): 32,
    ("grouped.cu F16 bf16", "sm_100"): 32,
    ("grouped.cu BF16 f16", "sm_100"): 32,
    ("grouped.cu BF16 bf16", "sm_100"): 32,
    ("stream.cu Q4_1 f16 x1", "sm_120"): 28,
    ("stream.cu Q4_1 f16 x2", "sm_120"): 32,
    ("stream.cu Q5_1 f32 x2", "sm_120"): 36,
    ("stream.cu Q5_1 f16 x2", "sm_120"): 8,
    ("stream.cu Q4_K f16 x1 digits", "sm_120"): 16,
    ("stream.cu Q4_K bf16 x1 digits", "sm_120"): 16,
    ("grouped.cu Q5_K f32", "sm_120"): 40,
    ("stream.cu TQ1_0 f16 x1", "sm_120"): 8,
    # Sums of 64 columns, or strips of many words beside sums of 32.
    ("wide.cu Q4_1 f32 x8", "sm_90"): 8,
    ("wide.cu Q4_1 bf16 x8", "sm_90"): 36,
    ("wide.cu Q2_K f32 x8", "sm_90"): 40,
    ("wide.cu Q2_K bf16 x8", "sm_90"): 72,
    ("wide.cu Q4_K f32 x8", "sm_90"): 28,
    ("wide.cu Q4_K bf16 x8", "sm_90"): 100,
    ("wide.cu Q5_K f32 x4", "sm_90"): 180,
    ("wide.cu Q5_K f32 x8", "sm_90"): 308,
    ("wide.cu Q5_K bf16 x4", "sm_90"): 324,
    ("wide.cu Q5_K bf16 x8", "sm_90"): 784,
    ("wide.cu Q6_K f32 x8", "sm_90"): 16,
    ("wide.cu Q6_K f16 x4", "sm_90"): 72,
    ("wide.cu Q6_K bf16 x8", "sm_90"): 64,
}

_SERIALIZED = "wgmma.mma_async instructions are serialized"

# Sizes on both sides of what a rule may look at: dispatches per expert, columns, rows.
_TOKENS = (1, 8, 16, 48, 512)
_COLUMNS = (256, 7168, 28672)
_TOP_K = (1, 4)


@dataclass(frozen=True, slots=True)
class Variant:
    """One source text: a file of kernels/ with its compile-time values; `label` names what they choose."""

    source: str
    defines: Defines
    label: str

    @property
    def name(self) -> str:
        """File and label, such as `grouped.cu Q4_K f32`."""
        return f"{self.source} {self.label}".strip()


@dataclass(frozen=True, slots=True)
class Compiled:
    """A variant's outcome on one architecture."""

    name: str
    architecture: str
    cubin_bytes: int
    source_sha256: str
    kernels: tuple[Resources, ...]
    waits_for_products: bool  # one by one, because ptxas saw their registers used meanwhile: it says "serialized"

    @property
    def spill_bytes(self) -> int:
        """Bytes that its worst kernel spills."""
        return max(kernel.spill_bytes for kernel in self.kernels)

    @property
    def spills_too_much(self) -> bool:
        """Whether it spills more than its exception, if it has one, allows."""
        return self.spill_bytes > ALLOWED_SPILL_BYTES.get((self.name, self.architecture), 0)


def compile_variant(variant: Variant, architecture: str) -> Compiled:
    """Compile, or take from the cache.

    Raises `BuildError`, `EnvironmentInvalid`.
    """
    cubin = build_cubin(variant.source, dict(variant.defines), architecture)
    waits = _SERIALIZED in cubin.log
    return Compiled(variant.name, architecture, len(cubin.image), cubin.source_sha256, cubin.resources, waits)


def common_variants() -> tuple[Variant, ...]:
    """List the sources that no weight format reaches and no plan picks."""
    return tuple(Variant(source, (), "") for source in ("canary.cu", "fill.cu", "scan.cu", "validate.cu"))


@cache
def format_variants(format: Format, architecture: str) -> tuple[Variant, ...]:
    """List, without repetition, what `Plan.select` can return for a format, and its oracle and dequantizer.

    Raises `UsageError` for an architecture that is not spelled `sm_90`.
    """
    device = _device(architecture)
    variants = [Variant("dequantize.cu", tuple(weight_defines(format).items()), format.name)]
    for descriptor in _descriptors(format):
        label = f"{format} {descriptor.dtype}"
        variants.append(Variant("oracle.cu", format_defines(descriptor), label))
        for preference in Preference:
            for launch in Plan.select(descriptor, device, preference).launches:
                of_format = any(name == "MMVQ_FORMAT" for name, _ in launch.defines)
                named = label + _kind(launch) if of_format else descriptor.dtype.value
                variants.append(Variant(launch.source, launch.defines, named))
    return tuple(dict.fromkeys(variants))


def _kind(launch: Launch) -> str:
    """What tells a format's launches of the same source apart: mma columns, and what is multiplied."""
    if launch.source not in ("stream.cu", "wide.cu"):
        return ""
    values = dict(launch.defines)
    are_halves = values["MMVQ_BLOCK_SIZE"] == 1 and not values["MMVQ_PLAIN"]
    operands = " digits" if values["MMVQ_DIGITS"] else " halves" if are_halves else ""
    return f" x{values['MMVQ_COLUMN_TILES']}{operands}"


def all_variants(architecture: str) -> tuple[Variant, ...]:
    """List every variant of every format once."""
    by_format = [variant for format in FORMATS.values() for variant in format_variants(format, architecture)]
    return tuple(dict.fromkeys([*common_variants(), *by_format]))


def _descriptors(format: Format) -> Iterator[Descriptor]:
    """Yield problems that differ in everything a rule can look at; an empty one comes first.

    Modes choose what comes before and after the product, sizes choose the product: each with one of the other.
    """
    for dtype in Dtype:
        yield Descriptor(n_experts=1, n_rows_per_expert=1, m_tokens=1, format=format, dtype=dtype)
        for m_tokens, n_cols, top_k in product(_TOKENS, _COLUMNS, _TOP_K):
            d = Descriptor(
                n_experts=8,
                n_rows_per_expert=1536,
                n_cols=n_cols,
                m_total=m_tokens * top_k,
                m_tokens=m_tokens,
                top_k=top_k,
                format=format,
                dtype=dtype,
            )
            yield d
            if (m_tokens, n_cols) == (_TOKENS[0], _COLUMNS[0]):
                for rows, output_rows, mode, sum_ in product(Rows, Rows, OutputMode, Accumulate):
                    yield replace(d, activation_rows=rows, output_rows=output_rows, output_mode=mode, accumulate=sum_)


def _device(architecture: str) -> Device:
    """Take a known device of the architecture, or one of middling size."""
    prefix, _, digits = architecture.partition("_")
    if prefix != "sm" or not digits.isdecimal() or len(digits) < 2:
        raise UsageError(f"{architecture!r} is no architecture", "spell it like sm_90")
    known = [device for device in known_devices().values() if device.architecture == architecture]
    generic = Device(
        name=architecture,
        backend="cuda",
        compute_capability=(int(digits[:-1]), int(digits[-1])),
        sm_count=128,
        l2_bytes=64 * 2**20,
        memory_bytes=48 * 2**30,
    )
    return known[0] if known else generic
