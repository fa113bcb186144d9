"""A case of the matrix: modes, routing, activations and weights that a model's tensors would not bring."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mmvq_cli.edges.routings import edge_routing
from mmvq_cli.edges.values import edge_activations, edge_weights
from mmvq_cli.op import Accumulate, OutputMode, Rows
from mmvq_cli.routing import Routing
from mmvq_cli.suite import Case

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, kw_only=True)
class Edge:
    """What sets a case of the matrix apart; `activations` and `weights` are kinds of `edges.values`.

    `weights` "" leaves them to the engine.
    """

    name: str
    activation_rows: Rows = Rows.TOKEN
    output_rows: Rows = Rows.TOKEN
    output_mode: OutputMode = OutputMode.OVERWRITE
    is_weighted: bool = False
    activations: str = "ordinary"
    weights: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class EdgeCase(Case):
    """A case that states its modes itself; the kind of its `routing` is one of `edges.routings`."""

    edge: Edge

    @property
    def id(self) -> str:
        """`check/FORMAT/DTYPE-EDGE`."""
        return f"{self.source.model}/{self.source.format_name}/{self.dtype}-{self.edge.name}"

    @property
    def activation_rows(self) -> Rows:
        """As the edge says."""
        return self.edge.activation_rows

    @property
    def output_rows(self) -> Rows:
        """As the edge says."""
        return self.edge.output_rows

    @property
    def output_mode(self) -> OutputMode:
        """As the edge says."""
        return self.edge.output_mode

    @property
    def accumulation(self) -> Accumulate:
        """As asked for, whatever the rows."""
        return self.accumulate

    @property
    def is_weighted(self) -> bool:
        """As the edge says."""
        return self.edge.is_weighted

    @property
    def m_total(self) -> int:
        """Dispatches of the routing; slots may be missing."""
        return int((self.draw_routing(0).ids >= 0).sum())

    def draw_routing(self, index: int) -> Routing:
        """Draw the routing; its seed is `index` beyond the case's."""
        source = self.source
        return edge_routing(self.routing.kind, source.n_experts, self.top_k, self.n_tokens, self.seed + index)

    def draw_activations(self, index: int) -> NDArray[Any]:
        """Draw the activations, [token or dispatch rows, cols] in storage form."""
        rows = self.n_tokens if self.activation_rows is Rows.TOKEN else self.m_total
        return edge_activations(self.edge.activations, rows, self.source.cols, self.dtype, self.seed + index)

    def own_weights(self) -> NDArray[np.uint8] | None:
        """Packed bytes of all experts where the edge is in the weights."""
        if not self.edge.weights:
            return None
        s = self.source
        return edge_weights(self.edge.weights, s.format, s.cols, s.n_experts * s.rows, self.seed)
