"""Records made readable: one column list for the terminal, Markdown, CSV and JSON."""

from mmvq_cli.report.columns import COLUMNS, Column, Place, number
from mmvq_cli.report.output import OUTPUT_FORMATS, export, frame, parse_export, render
from mmvq_cli.report.summary import summary_line
from mmvq_cli.report.terminal import TABLE_WIDTH, terminal_table

__all__ = [
    "COLUMNS",
    "OUTPUT_FORMATS",
    "TABLE_WIDTH",
    "Column",
    "Place",
    "export",
    "frame",
    "number",
    "parse_export",
    "render",
    "summary_line",
    "terminal_table",
]
