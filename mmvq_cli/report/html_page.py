"""A run as one HTML page that needs no network: facts, tables, charts."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from mmvq_cli.record import Record, Status
from mmvq_cli.report.html_chart import Chart, draw
from mmvq_cli.report.html_figures import error_chart, roofline_chart, routing_chart, throughput_charts
from mmvq_cli.report.layout import Layout, lay_out
from mmvq_cli.report.machine import bounds_in_words, machine_words
from mmvq_cli.report.summary import summary_line

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 1120px; padding: 0 1rem;
  color: #1a1a1a; background: #fff; }
h1 { font-size: 1.4rem; } h2 { font-size: 1.1rem; margin-top: 2.2rem; }
h3 { font-size: .95rem; margin: 1.2rem 0 .3rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .85rem; }
th, td { padding: .15rem .6rem; border-bottom: 1px solid #ddd; text-align: right; white-space: nowrap; }
.left { text-align: left; } .wrong { font-weight: 700; color: #a00000; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(430px, 1fr)); gap: 1.2rem; }
svg { width: 100%; height: auto; } svg text { font: 11px system-ui, sans-serif; fill: #1a1a1a; }
svg .title { font-size: 13px; font-weight: 600; } .grid { stroke: #e4e4e4; } .axis { stroke: #333; fill: none; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .1rem 1rem; font-size: .9rem; } dt { color: #555; }
dd { margin: 0; overflow-wrap: anywhere; }
"""


def html_page(records: Sequence[Record]) -> str:
    """Write at least one record as a page. Intervals are the half-width of the median's 95 % interval."""
    run = " and ".join(dict.fromkeys(record.ids.run_id for record in records))
    limits = [roofline_chart(records), error_chart(records), routing_chart(records)]
    body = [
        f"<h1>{escape(run)}</h1>",
        f"<p>{escape(summary_line(records))}</p>",
        _facts(records),
        _section("Throughput against batch size", "", throughput_charts(records)),
        _section("Limits, errors, routing", _limits(records), limits),
        "<h2>All cases</h2>",
        _tables(lay_out(records)),
    ]
    return "\n".join(
        [
            '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>mmvq {escape(run)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>",
            *body,
            "</body>\n</html>\n",
        ]
    )


def _facts(records: Sequence[Record]) -> str:
    record = records[0]
    env, git = record.env, record.ids.git
    facts = {
        "device": " · ".join(filter(None, [env.device.name, f"sm {env.device.cc}" if env.device.cc else ""])),
        "driver": env.driver,
        "machine": ", ".join(machine_words(records)),
        "mmvq": env.mmvq + (f", commit {git.rev[:10]}{' (dirty)' if git.dirty else ''}" if git else ""),
        "suite": record.ids.suite,
        "timing": f"{record.protocol.timer}, {record.protocol.cache} weights" if record.protocol.timer else "not timed",
        "written": f"{record.ids.time_utc:%Y-%m-%d %H:%M} UTC",
    }
    items = [f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in facts.items() if value]
    return f"<dl>{''.join(items)}</dl>"


def _limits(records: Sequence[Record]) -> str:
    """Explain the column `bound`; "" when nothing was timed."""
    held = bounds_in_words(records)
    explained = (
        "Memory: the bytes at the speed of the streaming read, with the fixed cost of the launches, explain half of "
        "the time or more. Launch: that fixed cost is the larger part of it. Compute: neither does, the kernel's own "
        "instructions hold it."
    )
    return f"{held} {explained}" if held else ""


def _section(title: str, words: str, charts: Sequence[Chart | None]) -> str:
    drawn = [f"<div>{draw(chart)}</div>" for chart in charts if chart]
    if not drawn:
        return ""
    said = f"<p>{escape(words)}</p>\n" if words else ""
    return f'<h2>{escape(title)}</h2>\n{said}<div class="charts">{"".join(drawn)}</div>'


def _tables(layout: Layout) -> str:
    parts = [f"<p>{escape(layout.title)}</p>"]
    names = [_cell("th", column.header, column.left) for column in layout.columns]
    for block in layout.blocks:
        parts += [f"<h3>{escape(block.title)}</h3>"] if block.title else []
        rows = [
            "".join(_cell("td", text, column.left) for text, column in zip(row, layout.columns, strict=True))
            for row in block.rows
        ]
        lines = "".join(f"<tr>{row}</tr>" for row in rows)
        head = f"<thead><tr>{''.join(names)}</tr></thead>"
        parts.append(f'<div class="scroll"><table>{head}<tbody>{lines}</tbody></table></div>')
    parts += ["<ul>", *(f"<li>{escape(note)}</li>" for note in layout.notes), "</ul>"] if layout.notes else []
    return "\n".join(parts)


def _cell(tag: str, text: str, left: bool) -> str:
    classes = " ".join(["left"] * left + ["wrong"] * (text in set(Status) - {Status.PASSED}))
    return f'<{tag} class="{classes}">{escape(text)}</{tag}>' if classes else f"<{tag}>{escape(text)}</{tag}>"
