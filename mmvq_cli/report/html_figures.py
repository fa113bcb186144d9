"""Which charts a run gives: throughput, roofline, error against time, routing skew."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from mmvq_cli.record import Record
from mmvq_cli.report.columns import number
from mmvq_cli.report.html_chart import Chart, Point, Series

_MOST_SERIES = 10  # of one chart; what is beyond stands in the table


def throughput_charts(records: Sequence[Record]) -> list[Chart]:
    """GB/s of unique weight bytes against tokens, one chart per model, with the canary's bandwidth as the roof."""
    charts = []
    for model, rows in _grouped(_timed(records), lambda r: r.axes.model or r.ids.suite).items():
        groups = _grouped(rows, _series_name)
        series = [
            Series(name, tuple(sorted((_throughput(r) for r in group), key=lambda p: p.x)))
            for name, group in groups.items()
        ][:_MOST_SERIES]
        tokens = sorted({float(r.axes.n_tokens) for r in rows})
        roof = _stream_gb_s(rows)
        if roof:
            ends = (Point(tokens[0], roof), Point(tokens[-1], roof))
            series.append(Series(f"streaming read, {number(roof)} GB/s", ends, markers=False))
        charts.append(
            Chart(
                title=f"{model}: throughput",
                x_label="tokens",
                y_label="GB/s of unique weight bytes",
                series=tuple(series),
                x_ticks=tuple(tokens) if len(tokens) <= 10 else (),
            )
        )
    return charts


def roofline_chart(records: Sequence[Record]) -> Chart | None:
    """GFLOP/s against FLOP per unique byte, under the slope of the measured bandwidth."""
    timed = _timed(records)
    groups = _grouped(timed, lambda r: f"{r.axes.ggml_type} {r.axes.dtype}")
    series = [Series(name, tuple(map(_roofline_point, rows)), line=False) for name, rows in groups.items()]
    if not series:
        return None
    roof = _stream_gb_s(timed)
    if roof:
        xs = [point.x for one in series for point in one.points]
        ends = tuple(Point(x, x * roof) for x in (min(xs), max(xs)))
        series = [*series[:_MOST_SERIES], Series(f"memory roof, {number(roof)} GB/s", ends, markers=False)]
    return Chart(title="Roofline", x_label="FLOP per unique weight byte", y_label="GFLOP/s", series=tuple(series))


def error_chart(records: Sequence[Record]) -> Chart | None:
    """NMSE against time, by format and dtype; exact results have no place on a logarithmic axis."""
    rows = [r for r in _timed(records) if r.correctness.nmse]
    groups = _grouped(rows, lambda r: f"{r.axes.ggml_type} {r.axes.dtype}")
    series = tuple(
        Series(name, tuple(map(_error_point, group)), line=False) for name, group in list(groups.items())[:_MOST_SERIES]
    )
    if not series:
        return None
    return Chart(title="Error against time", x_label="time of one launch, µs", y_label="NMSE", series=series)


def routing_chart(records: Sequence[Record]) -> Chart | None:
    """Imbalance (busiest expert over the mean) against tokens, and what uniform routing would give."""
    rows = [r for r in records if r.axes.routing_statistics and r.axes.routing_statistics.m_total]
    series = []
    for name, group in list(_grouped(rows, _routing_name).items())[: _MOST_SERIES // 2]:
        distinct = list({r.axes.n_tokens: r for r in group}.values())
        distinct.sort(key=lambda r: r.axes.n_tokens)
        series.append(Series(name, tuple(_skew(r, expected=False) for r in distinct)))
        series.append(Series(f"{name}: expected", tuple(_skew(r, expected=True) for r in distinct)))
    if not series:
        return None
    return Chart(title="Routing skew", x_label="tokens", y_label="busiest expert over the mean", series=tuple(series))


def _timed(records: Iterable[Record]) -> list[Record]:
    return [r for r in records if r.timing and r.work and r.work.gbps_unique and r.work.bytes_unique and r.work.flops]


def _grouped(records: Iterable[Record], key: Callable[[Record], str]) -> dict[str, list[Record]]:
    groups: dict[str, list[Record]] = {}
    for record in records:
        groups.setdefault(key(record), []).append(record)
    return groups


def _series_name(record: Record) -> str:
    a = record.axes
    return " ".join(filter(None, [a.tensor_name, a.ggml_type, str(a.dtype), a.routing]))


def _routing_name(record: Record) -> str:
    a = record.axes
    return f"{a.routing}, {a.top_k} of {a.n_experts}"


def _microseconds(record: Record) -> float:
    return record.timing.gpu_ns.median / 1e3 if record.timing else 0.0


def _throughput(record: Record) -> Point:
    speed = (record.work.gbps_unique if record.work else None) or 0.0
    return Point(
        record.axes.n_tokens,
        speed,
        f"{record.axes.n_tokens} tokens, {number(speed)} GB/s, {number(_microseconds(record))} µs",
    )


def _roofline_point(record: Record) -> Point:
    work = record.work
    flops, unique = (work.flops, work.bytes_unique) if work else (0, 1)
    speed = flops / (_microseconds(record) * 1e3)
    return Point(flops / unique, speed, f"{record.ids.case_id}, {number(speed)} GFLOP/s")


def _error_point(record: Record) -> Point:
    nmse = record.correctness.nmse or 0.0
    return Point(_microseconds(record), nmse, f"{record.ids.case_id}, NMSE {nmse:.1e}")


def _skew(record: Record, expected: bool) -> Point:
    found = record.axes.routing_statistics
    value = 1.0 if found is None else found.uniform_imbalance if expected else found.imbalance
    return Point(record.axes.n_tokens, max(value, 1e-3), f"{record.axes.n_tokens} tokens, {number(value)}")


def _stream_gb_s(records: Sequence[Record]) -> float | None:
    return next((r.env.canary_gbps.start for r in records if r.env.canary_gbps and r.env.canary_gbps.start), None)
