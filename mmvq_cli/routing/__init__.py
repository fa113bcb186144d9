"""Which experts the tokens go to: routings, seeded draws of them, and their realised statistics."""

from mmvq_cli.routing.draws import draw
from mmvq_cli.routing.origin import TraceOrigin, trace_origin
from mmvq_cli.routing.spec import ROUTING_KINDS, RoutingSpec, parse_routing, with_replay_option
from mmvq_cli.routing.statistics import RoutingStatistics
from mmvq_cli.routing.step import Dispatch, Routing

__all__ = [
    "ROUTING_KINDS",
    "Dispatch",
    "Routing",
    "RoutingSpec",
    "RoutingStatistics",
    "TraceOrigin",
    "draw",
    "parse_routing",
    "trace_origin",
    "with_replay_option",
]
