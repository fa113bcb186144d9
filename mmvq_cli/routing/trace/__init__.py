"""Recorded routing: a neutral file, importers for what real systems write, statistics, generators, replay."""

from mmvq_cli.routing.trace.assemble import ImportOptions
from mmvq_cli.routing.trace.container import SUFFIX, open_trace, read_trace, write_trace
from mmvq_cli.routing.trace.exports import (
    logical_counts,
    select_layers,
    to_counts,
    write_load_table,
    write_npz,
    write_routing_logits,
)
from mmvq_cli.routing.trace.generators import GENERATORS, PRESETS, Synthesis, preset_synthesis, synthesize
from mmvq_cli.routing.trace.importers import SOURCES, detect, import_trace
from mmvq_cli.routing.trace.replay import replay
from mmvq_cli.routing.trace.statistics import TraceStatistics, trace_statistics
from mmvq_cli.routing.trace.trace import Trace

__all__ = [
    "GENERATORS",
    "PRESETS",
    "SOURCES",
    "SUFFIX",
    "ImportOptions",
    "Synthesis",
    "Trace",
    "TraceStatistics",
    "detect",
    "import_trace",
    "logical_counts",
    "open_trace",
    "preset_synthesis",
    "read_trace",
    "replay",
    "select_layers",
    "synthesize",
    "to_counts",
    "trace_statistics",
    "write_load_table",
    "write_npz",
    "write_routing_logits",
    "write_trace",
]
