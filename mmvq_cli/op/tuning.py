"""What was measured to be fastest on a GPU, as a pure value that a plan can ask."""

from __future__ import annotations

import math
from dataclasses import dataclass

from mmvq_cli.op.descriptor import Accumulate, Descriptor, Dtype, OutputMode, Rows

_FARTHEST = 2.0  # times as many tokens, or half: beyond, another kernel may be faster


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """Problems that differ in the number of tokens and in routing only."""

    format: str
    dtype: Dtype
    n_experts: int
    n_rows_per_expert: int
    n_cols: int
    top_k: int
    activation_rows: Rows
    output_rows: Rows
    output_mode: OutputMode
    accumulate: Accumulate

    @classmethod
    def of(cls, d: Descriptor) -> Family:
        """The family of a problem."""
        return cls(
            format=d.format.name,
            dtype=d.dtype,
            n_experts=d.n_experts,
            n_rows_per_expert=d.n_rows_per_expert,
            n_cols=d.n_cols,
            top_k=d.top_k,
            activation_rows=d.activation_rows,
            output_rows=d.output_rows,
            output_mode=d.output_mode,
            accumulate=d.accumulate,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuned:
    """The preference whose plan was fastest for a family at `m_tokens`, in the run of this id."""

    family: Family
    m_tokens: int
    preference: str
    run_id: str


@dataclass(frozen=True, slots=True)
class Tuning:
    """All that is known of one GPU."""

    cases: tuple[Tuned, ...]

    def of_family(self, d: Descriptor) -> tuple[Tuned, ...]:
        """What is known of the problem's weights with any number of tokens."""
        family = Family.of(d)
        return tuple(case for case in self.cases if case.family == family)

    def nearest(self, d: Descriptor) -> Tuned | None:
        """What was measured at the nearest number of tokens, at most twice as many or half; fewer where two are."""
        near = [case for case in self.of_family(d) if _distance(case, d) <= _FARTHEST]
        return min(near, key=lambda case: (_distance(case, d), case.m_tokens), default=None)


def _distance(case: Tuned, d: Descriptor) -> float:
    """How many times as many tokens one has as the other."""
    fewer, more = sorted((case.m_tokens, d.m_tokens))
    return more / fewer if fewer else math.inf
