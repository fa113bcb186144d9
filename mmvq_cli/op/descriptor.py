"""The problem, as a value: sizes, formats and modes of one batched mat-vec over experts; no pointers, no device."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum

from mmvq_cli.errors import InvalidProblem, Unsupported
from mmvq_cli.op.formats import FORMATS, Format


class Dtype(StrEnum):
    """Activation and output element type."""

    F32 = "f32"
    F16 = "f16"
    BF16 = "bf16"

    @property
    def itemsize(self) -> int:
        """Bytes per element."""
        return 4 if self is Dtype.F32 else 2

    @property
    def unit_roundoff(self) -> float:
        """Largest relative error of one rounding to this type: 2^-24, 2^-11, 2^-8."""
        return {Dtype.F32: 2.0**-24, Dtype.F16: 2.0**-11, Dtype.BF16: 2.0**-8}[self]


class Rows(StrEnum):
    """What a row of activations or output belongs to: one per token, or one per dispatch (sorted position)."""

    TOKEN = "token"
    DISPATCH = "dispatch"


class OutputMode(StrEnum):
    """Overwrite every output row, or add to what is there (in f32, one rounding)."""

    OVERWRITE = "overwrite"
    ADD = "add"


class Accumulate(StrEnum):
    """Sum a token's dispatches in ascending sorted position, or atomically (not deterministic)."""

    ORDERED = "ordered"
    ATOMIC = "atomic"


_INT32_LIMIT = 2**31
_MODES: dict[str, type[StrEnum]] = {
    "dtype": Dtype,
    "activation_rows": Rows,
    "output_rows": Rows,
    "output_mode": OutputMode,
    "accumulate": Accumulate,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Descriptor:
    """One problem: `output[token, r] (+)= w * dot(weights[expert, r, :], activations[token, :])` per dispatch.

    Sizes default to 0. weights: [n_experts, n_rows_per_expert, n_cols] in `format`; activations: [m_tokens or
    m_total, n_cols]; output: [m_tokens or m_total, n_rows_per_expert]; m_total dispatches, at most `top_k` a token.
    """

    n_experts: int = 0
    n_rows_per_expert: int = 0
    n_cols: int = 0
    m_total: int = 0
    m_tokens: int = 0
    top_k: int = 1
    format: Format = FORMATS["Q8_0"]
    dtype: Dtype = Dtype.F32
    activation_rows: Rows = Rows.TOKEN
    output_rows: Rows = Rows.TOKEN
    output_mode: OutputMode = OutputMode.OVERWRITE
    accumulate: Accumulate = Accumulate.ORDERED

    def __post_init__(self) -> None:
        """Turn written names ("dispatch", "f16") into members; `validate` refuses what is none."""
        for name, kind in _MODES.items():
            value = getattr(self, name)
            if value in tuple(kind):
                object.__setattr__(self, name, kind(value))
        if isinstance(self.format, str):
            object.__setattr__(self, "format", FORMATS.get(self.format.upper(), self.format))

    def validate(self) -> None:
        """Raise the first broken rule, in the contract's order.

        Raises `InvalidProblem` for sizes, `Unsupported` for a format or dtype without a kernel.
        """
        if self.n_experts <= 0:
            raise InvalidProblem(f"n_experts is {self.n_experts}, it must be positive", "pass the number of experts")
        for name in ("n_rows_per_expert", "n_cols", "m_total", "m_tokens"):
            self._check_size(name)
        if self.top_k <= 0:
            raise InvalidProblem(f"top_k is {self.top_k}, it must be positive", "pass the experts chosen per token")
        if self.format not in FORMATS.values():
            raise Unsupported(f"{self.format} has no kernel", "`mmvq list formats` shows the supported formats")
        if self.dtype not in tuple(Dtype):
            raise Unsupported(f"activation dtype {self.dtype} has no kernel", f"use one of {', '.join(Dtype)}")
        if self.n_cols % self.format.block_size:
            raise InvalidProblem(
                f"n_cols is {self.n_cols}, not a multiple of {self.format}'s block of {self.format.block_size} weights",
                "pad the rows, or store the tensor in a format with a smaller block",
            )

        for name, kind in _MODES.items():
            value = getattr(self, name)
            if value not in tuple(kind):
                raise InvalidProblem(f"{name} is {value!r}", f"use one of {', '.join(kind)}")

    def _check_size(self, name: str) -> None:
        value = getattr(self, name)
        if value < 0:
            raise InvalidProblem(f"{name} is {value}, it must not be negative", f"pass {name} >= 0")
        if value >= _INT32_LIMIT:
            raise InvalidProblem(f"{name} is {value}, the limit is 2^31 - 1", "split the problem into several launches")

    @property
    def activation_row_count(self) -> int:
        """Rows of the activations: m_tokens or m_total."""
        return self.m_tokens if self.activation_rows is Rows.TOKEN else self.m_total

    @property
    def output_row_count(self) -> int:
        """Rows of the output: m_tokens or m_total."""
        return self.m_tokens if self.output_rows is Rows.TOKEN else self.m_total

    @property
    def adds(self) -> bool:
        """Whether the output's old values count; atomic accumulation always adds (the caller zeroes)."""
        return self.output_mode is OutputMode.ADD or self.accumulate is Accumulate.ATOMIC

    @property
    def combines(self) -> bool:
        """Whether one output row is the ordered sum of several dispatches."""
        return self.output_rows is Rows.TOKEN and self.top_k > 1 and self.accumulate is Accumulate.ORDERED

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to multiply: no dispatch, no token, no row or no column."""
        return 0 in (self.m_total, self.m_tokens, self.n_rows_per_expert, self.n_cols)

    @property
    def expert_bytes(self) -> int:
        """Packed bytes of one expert's matrix."""
        return self.n_rows_per_expert * self.format.row_bytes(self.n_cols)

    @property
    def weight_bytes(self) -> int:
        """Packed bytes of all experts."""
        return self.n_experts * self.expert_bytes

    def with_dispatches(self, m_total: int) -> Descriptor:
        """The same problem with another number of dispatches."""
        return replace(self, m_total=m_total)
