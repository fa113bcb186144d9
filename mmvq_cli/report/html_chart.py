"""Charts as inline SVG: points and lines on linear or logarithmic axes; markers and dashes say what colours say."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape

_WIDTH, _HEIGHT = 520, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 62, 12, 28, 44
_LEGEND_LINE = 15
# Okabe and Ito's palette, which colour-blind readers tell apart.
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#8a6d00", "#56b4e9", "#000000")
_DASHES = ("", "6 3", "2 3", "8 3 2 3")
_MARKERS = ("circle", "square", "triangle", "diamond", "cross")


@dataclass(frozen=True, slots=True)
class Point:
    """One value of a series, with the words that appear when the pointer rests on it."""

    x: float
    y: float
    label: str = ""


@dataclass(frozen=True, slots=True)
class Series:
    """Points of one name; with `line` they are joined, and without `markers` only the line is drawn."""

    name: str
    points: tuple[Point, ...]
    line: bool = True
    markers: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """Series on two axes. Values on a logarithmic axis must be positive."""

    title: str
    x_label: str
    y_label: str
    series: tuple[Series, ...]
    x_log: bool = True
    y_log: bool = True
    x_ticks: tuple[float, ...] = field(default=())


def draw(chart: Chart) -> str:
    """Draw a chart with at least one point as an `<svg>` element."""
    xs = [point.x for series in chart.series for point in series.points]
    ys = [point.y for series in chart.series for point in series.points]
    x = _Axis.over(xs, chart.x_log, _LEFT, _WIDTH - _RIGHT)
    y = _Axis.over(ys, chart.y_log, _HEIGHT - _BOTTOM, _TOP)
    height = _HEIGHT + _LEGEND_LINE * math.ceil(len(chart.series) / 2)
    parts = [
        f'<svg viewBox="0 0 {_WIDTH} {height}" role="img" aria-label="{escape(chart.title)}">',
        _text(_WIDTH / 2, 16, chart.title, "middle", "title"),
        *_grid(chart, x, y),
    ]
    for index, series in enumerate(chart.series):
        parts += _draw_series(series, index, x, y)
        parts += _legend(series, index)
    return "\n".join([*parts, "</svg>"])


@dataclass(frozen=True, slots=True)
class _Axis:
    """A range of values on a range of pixels."""

    low: float
    high: float
    log: bool
    start: float
    end: float

    @classmethod
    def over(cls, values: Sequence[float], log: bool, start: float, end: float) -> _Axis:
        low, high = min(values), max(values)
        if log:
            pad = max(0.04 * math.log(high / low), 0.1)
            return cls(low / math.exp(pad), high * math.exp(pad), log, start, end)
        pad = max(0.06 * (high - low), 1e-12 + 0.05 * abs(high))
        return cls(min(0.0, low) if low >= 0 else low - pad, high + pad, log, start, end)

    def place(self, value: float) -> float:
        scale = math.log if self.log else float
        share = (scale(value) - scale(self.low)) / (scale(self.high) - scale(self.low))
        return self.start + share * (self.end - self.start)

    def ticks(self) -> list[float]:
        """Round values within the range: about five."""
        if not self.log or self.high / self.low < 8:
            step = 10 ** math.floor(math.log10((self.high - self.low) / 2))
            while (self.high - self.low) / step > 6:
                step *= 2 if math.log10(step) % 1 < 0.01 else 2.5
            first = math.ceil(self.low / step)
            return [i * step for i in range(first, math.floor(self.high / step) + 1)]
        decades = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        factors = (1.0,) if len(decades) > 4 else (1.0, 2.0, 5.0)
        found = [f * 10.0**d for d in decades for f in factors if self.low <= f * 10.0**d <= self.high]
        return found[:: max(1, len(found) // 7)]


def _grid(chart: Chart, x: _Axis, y: _Axis) -> list[str]:
    right, bottom = _WIDTH - _RIGHT, _HEIGHT - _BOTTOM
    parts = []
    for value in chart.x_ticks or x.ticks():
        at = x.place(value)
        parts.append(f'<line class="grid" x1="{at:.1f}" x2="{at:.1f}" y1="{_TOP}" y2="{bottom}"/>')
        parts.append(_text(at, bottom + 14, f"{value:g}", "middle"))
    for value in y.ticks():
        at = y.place(value)
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{right}" y1="{at:.1f}" y2="{at:.1f}"/>')
        parts.append(_text(_LEFT - 5, at + 4, f"{value:g}", "end"))
    parts.append(f'<path class="axis" d="M{_LEFT} {_TOP}V{bottom}H{right}"/>')
    parts.append(_text((_LEFT + right) / 2, bottom + 32, chart.x_label, "middle"))
    middle = (_TOP + bottom) / 2
    parts.append(
        f'<text x="14" y="{middle}" text-anchor="middle" transform="rotate(-90 14 {middle})">'
        f"{escape(chart.y_label)}</text>"
    )
    return parts


def _draw_series(series: Series, index: int, x: _Axis, y: _Axis) -> list[str]:
    colour = _COLOURS[index % len(_COLOURS)]
    places = [(x.place(point.x), y.place(point.y), point.label) for point in series.points]
    parts = []
    if series.line and len(places) > 1:
        path = " ".join(f"{px:.1f},{py:.1f}" for px, py, _ in places)
        parts.append(f'<polyline fill="none" points="{path}" {_stroke(index)}/>')
    if series.markers:
        parts += [_marker(px, py, index, colour, f"{series.name}: {label}") for px, py, label in places]
    return parts


def _legend(series: Series, index: int) -> list[str]:
    left = _LEFT + (index % 2) * (_WIDTH - _LEFT) / 2
    top = _HEIGHT + _LEGEND_LINE * (index // 2)
    parts = []
    if series.line:
        parts.append(f'<line x1="{left}" x2="{left + 24}" y1="{top}" y2="{top}" {_stroke(index)}/>')
    if series.markers:
        parts.append(_marker(left + 12, top, index, _COLOURS[index % len(_COLOURS)], series.name))
    return [*parts, _text(left + 30, top + 4, series.name)]


def _stroke(index: int) -> str:
    dash = _DASHES[index % len(_DASHES)]
    return f'stroke="{_COLOURS[index % len(_COLOURS)]}" stroke-width="1.5" stroke-dasharray="{dash or "none"}"'


def _marker(x: float, y: float, index: int, colour: str, label: str) -> str:
    r = 3.6
    corners = {
        "square": ((-r, -r), (r, -r), (r, r), (-r, r)),
        "triangle": ((0, -r - 1), (r + 1, r), (-r - 1, r)),
        "diamond": ((0, -r - 1.4), (r + 1.4, 0), (0, r + 1.4), (-r - 1.4, 0)),
    }
    kind = _MARKERS[index % len(_MARKERS)]
    title = f"<title>{escape(label)}</title>"
    if kind == "circle":
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{r}" fill="{colour}">{title}</circle>'
    if kind == "cross":
        d = f"M{x - r:.1f} {y - r:.1f}l{2 * r} {2 * r}m0 {-2 * r}l{-2 * r} {2 * r}"
        return f'<path d="{d}" stroke="{colour}" stroke-width="2" fill="none">{title}</path>'
    points = " ".join(f"{x + dx:.1f},{y + dy:.1f}" for dx, dy in corners[kind])
    return f'<polygon points="{points}" fill="{colour}">{title}</polygon>'


def _text(x: float, y: float, text: str, anchor: str = "start", kind: str = "") -> str:
    style = f' class="{kind}"' if kind else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{style}>{escape(text)}</text>'
