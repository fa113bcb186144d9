"""Which experts the tokens go to: routings, seeded draws of them, and their realised statistics."""

from mmvq_cli.routing.draws import draw
from mmvq_cli.routing.spec import ROUTING_KINDS, RoutingSpec, parse_routing
from mmvq_cli.routing.statistics import RoutingStatistics
from mmvq_cli.routing.step import Dispatch, Routing

__all__ = ["ROUTING_KINDS", "Dispatch", "Routing", "RoutingSpec", "RoutingStatistics", "draw", "parse_routing"]
