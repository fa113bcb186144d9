"""The one table of weight formats: what a GGUF file can hold and this project can multiply.

Block sizes and bytes come from `gguf.GGML_QUANT_SIZES`, never retyped. A new format is one row here and one
`Format<Id>` struct in `kernels/formats/<family>.cuh`; every parametrized test picks it up by itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import NamedTuple

from mmvq_cli.errors import Unsupported
from mmvq_cli.op.ggml import GGML, GGML_QUANT_SIZES


class ScaleField(NamedTuple):
    """Where a block keeps a scale: byte `offset` in the block, encoding `kind`.

    Kinds: `f16`, `f32`; `e8m0` (a power of two, bias 127); `ue4m3` (unsigned 4-bit exponent, 3-bit mantissa);
    `iq1m` (one fp16 scattered over the top nibbles of four u16 at `offset`).
    """

    kind: str
    offset: int


@dataclass(frozen=True, slots=True)
class Format:
    """One GGML quantization type: `block_size` weights in `type_size` bytes.

    `family` names the file `kernels/formats/<family>.cuh` with the device struct; `scales` are the fields that make
    random bytes a valid block when they hold sane values (layouts: ggml-common.h of ggml). `min_groups`: how many
    groups of 256 weights have an offset that is a small integer times one float (the struct's `mins`), or 0.
    `grid_words`: 32-bit words of the codebook that strips look up (the struct's own `grid_words`), or 0.
    `digit_tiles`: multiplying tiles of two dispatches as integers is faster, up to so many of them for each touched
    expert (measured: kernels/README.md), or 0; `digit_grid_words`: words of the codebook for it (the struct's), or 0.
    """

    type: GGML
    family: str
    scales: tuple[ScaleField, ...] = ()
    min_groups: int = 0
    grid_words: int = 0
    digit_tiles: float = 0
    digit_grid_words: int = 0

    @property
    def name(self) -> str:
        """The spelling of gguf's enum, such as `Q4_K`."""
        return self.type.name

    @property
    def id(self) -> int:
        """The number that a GGUF tensor info holds."""
        return int(self.type)

    @property
    def block_size(self) -> int:
        """Weights per block."""
        return GGML_QUANT_SIZES[self.type][0]

    @property
    def type_size(self) -> int:
        """Bytes per block."""
        return GGML_QUANT_SIZES[self.type][1]

    @property
    def is_float(self) -> bool:
        """Whether the weights are plain floating point."""
        return self.block_size == 1

    @property
    def bits_per_weight(self) -> float:
        """Stored bits per weight, scales included."""
        return 8 * self.type_size / self.block_size

    def row_bytes(self, n_cols: int) -> int:
        """Bytes of one packed row of `n_cols` weights (a multiple of the block size)."""
        return n_cols // self.block_size * self.type_size

    def __str__(self) -> str:
        return self.name


def _f16(*offsets: int) -> tuple[ScaleField, ...]:
    return tuple(ScaleField("f16", offset) for offset in offsets)


_ROWS = (
    Format(GGML.Q4_0, "legacy", _f16(0), digit_tiles=1.15),
    Format(GGML.Q4_1, "legacy", _f16(0, 2), digit_tiles=1.15),
    Format(GGML.Q5_0, "legacy", _f16(0), digit_tiles=1.15),
    Format(GGML.Q5_1, "legacy", _f16(0, 2), digit_tiles=1.15),
    Format(GGML.Q8_0, "legacy", _f16(0), digit_tiles=1.05),
    Format(GGML.Q2_K, "k_quants", _f16(80, 82), min_groups=16),
    Format(GGML.Q3_K, "k_quants", _f16(108)),
    Format(GGML.Q4_K, "k_quants", _f16(0, 2), min_groups=8, digit_tiles=1.05),
    Format(GGML.Q5_K, "k_quants", _f16(0, 2), min_groups=8, digit_tiles=1.05),
    Format(GGML.Q6_K, "k_quants", _f16(208), digit_tiles=1.15),
    Format(GGML.Q8_K, "k_quants", (ScaleField("f32", 0),), digit_tiles=1.15),
    Format(GGML.MXFP4, "fp4", (ScaleField("e8m0", 0),), digit_tiles=1.15),
    Format(GGML.NVFP4, "fp4", tuple(ScaleField("ue4m3", i) for i in range(4))),
    Format(GGML.IQ4_NL, "iq4", _f16(0), digit_tiles=1.5),
    Format(GGML.IQ4_XS, "iq4", _f16(0), digit_tiles=1.5),
    Format(GGML.IQ3_S, "iq3", _f16(0), grid_words=512, digit_tiles=1.15, digit_grid_words=768),
    Format(GGML.IQ3_XXS, "iq3", _f16(0), grid_words=256, digit_tiles=1.15, digit_grid_words=384),
    Format(GGML.IQ2_S, "iq2", _f16(0), grid_words=2048, digit_tiles=1.15, digit_grid_words=1280),
    Format(GGML.IQ2_XS, "iq2", _f16(0), grid_words=1024, digit_tiles=1.15, digit_grid_words=640),
    Format(GGML.IQ2_XXS, "iq2", _f16(0), grid_words=512, digit_tiles=1.15, digit_grid_words=384),
    Format(GGML.IQ1_S, "iq1", _f16(0), grid_words=2048, digit_tiles=1.15, digit_grid_words=2048),
    Format(GGML.IQ1_M, "iq1", (ScaleField("iq1m", 48),), grid_words=2048),
    Format(GGML.TQ1_0, "ternary", _f16(52), digit_tiles=1.15),
    Format(GGML.TQ2_0, "ternary", _f16(64)),
    Format(GGML.F32, "plain"),
    Format(GGML.F16, "plain"),
    Format(GGML.BF16, "plain"),
)

FORMATS: Mapping[str, Format] = MappingProxyType({row.name: row for row in _ROWS})

_NO_DEQUANTIZER = "gguf-py has no dequantizer for it, so there is nothing to check a kernel against"
_REASONS = {
    "Q8_1": "it is an activation format and never holds weights",
    "Q1_0": _NO_DEQUANTIZER,
    "Q2_0": _NO_DEQUANTIZER,
    "I8": "it is an integer type, not a weight format",
    "I16": "it is an integer type, not a weight format",
    "I32": "it is an integer type, not a weight format",
    "I64": "it is an integer type, not a weight format",
    "F64": "no GGUF model stores expert weights in it",
}
# Types that gguf's enum does not have (yet), by the number found in files.
_UNNAMED = {42: "Q2_0"}

_HINT = "`mmvq list formats` shows the supported formats"


def type_name(type_id: int) -> str:
    """The name of a GGML type number, also of one that no kernel handles; `type 137` when nobody here knows it."""
    try:
        return GGML(type_id).name
    except ValueError:
        return _UNNAMED.get(type_id, f"type {type_id}")


def known_types() -> tuple[tuple[int, str], ...]:
    """Every GGML type of the main line that files may name, as (number, name)."""
    return (*((int(kind), kind.name) for kind in GGML), *_UNNAMED.items())


def unsupported_reason(name: str) -> str:
    """Why `name` has no kernel, as the end of a sentence that starts with the name."""
    return _REASONS.get(name, "it is not a GGML type of the main line (private ids of other engines are not read)")


def find_format(name: str | int) -> Format:
    """The format called `name` (case is ignored) or numbered so.

    Raises `Unsupported` with the reason when no kernel handles it.
    """
    spelled = type_name(name) if isinstance(name, int) else name.upper()
    if spelled not in FORMATS:
        raise Unsupported(f"{spelled} has no kernel: {unsupported_reason(spelled)}", _HINT)
    return FORMATS[spelled]
