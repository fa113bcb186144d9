"""Where a replayed routing comes from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from mmvq_cli.routing.spec import RoutingSpec

Provenance = Literal["measured", "counts-derived", "synthetic"]


@dataclass(frozen=True, slots=True)
class TraceOrigin:
    """`measured`, `counts-derived` or `synthetic`, and the hash of the trace's file (of a twin's ids)."""

    provenance: Provenance
    sha256: str


def trace_origin(spec: RoutingSpec) -> TraceOrigin:
    """Say where a `trace:` or `twin:` routing comes from; raises what reading the trace raises."""
    from mmvq_cli.routing.trace.replay import open_origin  # only traces need their readers

    trace, digest = open_origin(spec)
    return TraceOrigin(trace.provenance, digest)
