"""What real systems record, read into a `Trace`: one module for each kind of source."""

from mmvq_cli.routing.trace.importers.sources import SOURCES, detect, import_trace

__all__ = ["SOURCES", "detect", "import_trace"]
