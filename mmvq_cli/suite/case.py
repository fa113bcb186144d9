"""Cases as values: weight sources, the axes to sweep, and the rows that they span.

A case's id is readable, stable and its filter: `MODEL/TENSOR/Q4_K-e8k2-256x256-t4-uniform-f16`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from mmvq_cli.engine.workload import random_activations
from mmvq_cli.errors import NothingMatched, UsageError
from mmvq_cli.model import ExpertTensor
from mmvq_cli.op import Accumulate, Descriptor, Dtype, Format, OutputMode, Preference, Rows, find_format
from mmvq_cli.routing import Routing, RoutingSpec, TraceOrigin, draw, trace_origin

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


ROLES = ("gate", "up", "down", "gate_up")


@dataclass(frozen=True, slots=True)
class WeightSource:
    """Where a case's weights come from: a tensor of a file, or random valid blocks of a preset's shape.

    weights: [n_experts, rows, cols] in the format called `format_name`; `outside` names what the model applies beside
    the blocks and this operation does not (biases, scales).
    """

    model: str
    name: str
    role: str
    format_name: str
    n_experts: int
    rows: int
    cols: int
    top_k: int
    tensor: ExpertTensor | None = None
    outside: tuple[str, ...] = ()

    @property
    def layer(self) -> int:
        """The model's layer; -1 for a preset's shape."""
        return self.tensor.layer if self.tensor else -1

    @property
    def format(self) -> Format:
        """The format; raises `Unsupported` with the reason when no kernel handles it."""
        return self.tensor.format if self.tensor else find_format(self.format_name)


@dataclass(frozen=True, slots=True, kw_only=True)
class Axes:
    """What to sweep; every field has a value.

    `layers` is `distinct` (one layer of each shape and format), `all`, or ids; `top_k` 0 means the model's own.
    """

    tokens: tuple[int, ...] = (1, 8, 64)
    dtypes: tuple[Dtype, ...] = (Dtype.F16,)
    routings: tuple[RoutingSpec, ...] = (RoutingSpec("uniform"),)
    roles: tuple[str, ...] = ROLES
    layers: str = "distinct"
    top_k: int = 0
    seed: int = 0
    cache: str = "cold"
    accumulate: Accumulate = Accumulate.ORDERED
    preference: Preference = Preference.AUTO

    def override(self, **given: Any) -> Axes:
        """The same axes with the values that are not None replaced."""
        return replace(self, **{name: value for name, value in given.items() if value is not None})


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One row of a run: weights x tokens x dtype x routing, with its seed.

    The properties and methods are what the run loop asks; a special case (`mmvq_cli.edges`) answers them otherwise.
    """

    source: WeightSource
    n_tokens: int
    top_k: int
    dtype: Dtype
    routing: RoutingSpec
    seed: int
    cache: str
    accumulate: Accumulate
    preference: Preference

    @property
    def id(self) -> str:
        """The readable name, also what `-k` matches."""
        s = self.source
        shape = f"{s.format_name}-e{s.n_experts}k{self.top_k}-{s.rows}x{s.cols}-t{self.n_tokens}"
        modes = [str(self.routing), str(self.dtype)]
        if self.accumulate is not Accumulate.ORDERED:
            modes.append(str(self.accumulate))
        if self.cache != "cold":
            modes.append(self.cache)
        if self.preference is not Preference.AUTO:
            modes.append(str(self.preference))
        if self.seed:
            modes.append(f"seed{self.seed}")
        return f"{s.model}/{s.name}/{shape}-{'-'.join(modes)}"

    @property
    def is_down(self) -> bool:
        """Whether this is the way out of the experts, where rows are weighted and summed per token."""
        return self.source.role == "down"

    @property
    def activation_rows(self) -> Rows:
        """Gate and up read token rows, down reads dispatch rows, as in a real layer."""
        return Rows.DISPATCH if self.is_down else Rows.TOKEN

    @property
    def output_rows(self) -> Rows:
        """Gate and up write dispatch rows, down writes token rows."""
        return Rows.TOKEN if self.is_down else Rows.DISPATCH

    @property
    def output_mode(self) -> OutputMode:
        """Every output row is written anew."""
        return OutputMode.OVERWRITE

    @property
    def accumulation(self) -> Accumulate:
        """How a token's dispatches are summed; only the way out sums."""
        return self.accumulate if self.is_down else Accumulate.ORDERED

    @property
    def is_weighted(self) -> bool:
        """Whether each dispatch counts with its router weight."""
        return self.is_down

    @property
    def m_total(self) -> int:
        """Dispatches of each draw: all slots, for the synthetic routings have no gaps."""
        return self.n_tokens * self.top_k

    @property
    def descriptor(self) -> Descriptor:
        """The problem.

        Raises `Unsupported` when no kernel handles the format.
        """
        return Descriptor(
            n_experts=self.source.n_experts,
            n_rows_per_expert=self.source.rows,
            n_cols=self.source.cols,
            m_total=self.m_total,
            m_tokens=self.n_tokens,
            top_k=self.top_k,
            format=self.source.format,
            dtype=self.dtype,
            activation_rows=self.activation_rows,
            output_rows=self.output_rows,
            output_mode=self.output_mode,
            accumulate=self.accumulation,
        )

    @property
    def trace_origin(self) -> TraceOrigin | None:
        """Where a replayed routing comes from; None for a drawn one."""
        return trace_origin(self.routing) if self.routing.is_replayed else None

    def draw_routing(self, index: int) -> Routing:
        """Draw `index` of the routing."""
        s = self.source
        return draw(self.routing, s.n_experts, self.top_k, self.n_tokens, self.seed, index, layer=s.layer)

    def draw_activations(self, index: int) -> NDArray[Any]:
        """Draw `index` of the activations, [token or dispatch rows, cols] in storage form."""
        rows = self.n_tokens if self.activation_rows is Rows.TOKEN else self.m_total
        return random_activations(rows, self.source.cols, self.dtype, (self.seed, index))

    def own_weights(self) -> NDArray[np.uint8] | None:
        """Packed bytes of all experts that the case itself makes; None when they come from its source."""
        return None


@dataclass(frozen=True, slots=True)
class Suite:
    """A named list of cases."""

    name: str
    description: str
    cases: tuple[Case, ...]

    def matching(self, pattern: str | None) -> Suite:
        """The cases whose id matches the regular expression.

        Raises `UsageError` for a bad pattern, `NothingMatched` when none is left.
        """
        try:
            wanted = re.compile(pattern or "")
        except re.error as error:
            raise UsageError(
                f"-k {pattern!r} is not a regular expression: {error}", "quote it, escape + . ( )"
            ) from None
        cases = tuple(case for case in self.cases if wanted.search(case.id))
        if not cases:
            chosen = f" out of {len(self.cases)} matches -k {pattern!r}" if self.cases else " is selected"
            raise NothingMatched(f"no case{chosen}", "--list shows the ids")
        return replace(self, cases=cases)


def expand(sources: Iterable[WeightSource], axes: Axes) -> tuple[Case, ...]:
    """All combinations, in the order tensor, dtype, routing, tokens.

    Raises `UsageError` for a trace that does not fit a tensor or a batch size.
    """
    cases = tuple(
        Case(
            source=source,
            n_tokens=n_tokens,
            top_k=axes.top_k or source.top_k,
            dtype=dtype,
            routing=routing,
            seed=axes.seed,
            cache=axes.cache,
            accumulate=axes.accumulate,
            preference=axes.preference,
        )
        for source in sources
        for dtype in axes.dtypes
        for routing in axes.routings
        for n_tokens in axes.tokens
    )
    for case in cases:
        if case.routing.is_replayed:
            case.draw_routing(0)
    return cases
