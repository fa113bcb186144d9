"""The one list of columns: what a record shows, in tables and in data files."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from functools import reduce
from typing import Any

from mmvq_cli.record import Record, Status


class Place(Enum):
    """Where a column stands in a table: conditions head a group of rows, keys name a row, results fill it."""

    CONDITION = "condition"
    KEY = "key"
    RESULT = "result"
    DATA_ONLY = "data only"


# What holds a case, in the words of tables.
BOUND_WORDS = {"mem": "memory", "launch": "launch", "compute": "compute"}


def number(value: float) -> str:
    """Write a number with four significant digits; beyond 1e-4 and 1e7 with an exponent."""
    exponent = int(f"{value:.3e}".partition("e")[2])
    if value == 0 or not -4 <= exponent < 7:
        return f"{value:.2e}" if value else "0"
    return f"{round(value, 3 - exponent):.{max(0, 3 - exponent)}f}"


def _microseconds(nanoseconds: float) -> str:
    return number(nanoseconds / 1e3)


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"


def _short_tensor(name: str) -> str:
    """Shorten `blk.10.ffn_gate_exps.weight` to `10.gate`: the data formats have the full name."""
    for part in ("blk.", "ffn_", "_exps", ".weight"):
        name = name.replace(part, "")
    return name


def _verdict(record: Record) -> str:
    if record.status is not Status.PASSED:
        return str(record.status)
    used = record.correctness.bound_used_pct
    return "ok" if used is None else f"ok {used:.2g}%"


def _unique_experts(record: Record) -> float | None:
    counts = record.axes.unique_experts
    return sum(counts) / len(counts) if counts else None


def _non_default(record: Record) -> str | None:
    """Name the modes that differ from the operation's defaults."""
    fields = type(record.axes).model_fields
    modes = ("output_mode", "accumulate", "scope")
    return (
        " ".join(str(value) for mode in modes if (value := getattr(record.axes, mode)) != fields[mode].default) or None
    )


@dataclass(frozen=True, slots=True)
class Column:
    """One fact of a record.

    `name` (with its unit) heads it in data formats, `header` in tables; without one it is not there. `source` is a
    dotted path into the record, or a function of it. `show` makes a table cell of a value, `label` a part of a title.
    `drop` says which columns a narrow table loses first (highest first; 0 never).
    """

    name: str
    header: str
    source: str | Callable[[Record], Any]
    place: Place = Place.DATA_ONLY
    show: Callable[[Any], str] = str
    label: str = "{}"
    left: bool = False
    drop: int = 0

    def value(self, record: Record) -> Any:
        """Get the unrounded value, None where the record has none."""
        if callable(self.source):
            return self.source(record)
        return reduce(lambda part, name: None if part is None else getattr(part, name), self.source.split("."), record)

    def text(self, record: Record) -> str:
        """Write the value for a table cell; a dash where there is none."""
        value = self.value(record)
        return "—" if value is None else self.show(value)


def _data(name: str, source: str | Callable[[Record], Any]) -> Column:
    return Column(name, "", source)


_CONDITIONS = (
    Column("device", "device", "env.device.name", Place.CONDITION),
    Column("model", "model", "axes.model", Place.CONDITION),
    Column("", "shape", lambda r: f"{r.axes.rows_m}×{r.axes.cols_k}", Place.CONDITION),
    Column("n_experts", "experts", "axes.n_experts", Place.CONDITION, label="{} experts"),
    Column("top_k", "top-k", "axes.top_k", Place.CONDITION, label="top-k {}"),
    Column("", "rows", lambda r: f"{r.axes.activation_rows}→{r.axes.output_rows}", Place.CONDITION, label="rows {}"),
    Column("", "modes", _non_default, Place.CONDITION),
    Column("routing", "routing", "axes.routing", Place.CONDITION, label="routing {}"),
    Column("routing_seed", "seed", "axes.routing_seed", Place.CONDITION, label="seed {}"),
    Column("cache", "cache", "protocol.cache", Place.CONDITION, label="{} cache"),
)

_KEYS = (
    Column("", "tensor", "axes.tensor_name", Place.KEY, show=_short_tensor, left=True),
    Column("format", "format", "axes.ggml_type", Place.KEY, left=True),
    Column("dtype", "dtype", "axes.dtype", Place.KEY, left=True),
    Column("n_tokens", "tokens", "axes.n_tokens", Place.KEY, label="{} tokens"),
)

# Correctness before speed.
_RESULTS = (
    Column("unique_experts_mean", "uniq", _unique_experts, Place.RESULT, show=lambda n: f"{n:.4g}"),
    Column(
        "dispatches_per_touched_expert_mean",
        "M/exp",
        "axes.routing_statistics.dispatches_per_touched_expert_mean",
        Place.RESULT,
        show=lambda n: f"{n:.3g}",
        drop=2,
    ),
    Column("imbalance", "imbal", "axes.routing_statistics.imbalance", Place.RESULT, show=lambda n: f"{n:.3g}", drop=3),
    Column("", "correct", _verdict, Place.RESULT, left=True),
    Column("nmse", "NMSE", "correctness.nmse", Place.RESULT, show=lambda x: f"{x:.1e}", drop=4),
    Column("time_ns", "time µs", "timing.gpu_ns.median", Place.RESULT, show=_microseconds),
    Column("ci95_rel", "±95 %", "timing.ci95_rel", Place.RESULT, show=_percent),
    Column("gbps_unique", "GB/s", "work.gbps_unique", Place.RESULT, show=number),
    Column("sol_pct_measured", "SOL %", "work.sol_pct_measured", Place.RESULT, show=lambda x: f"{x:.1f}"),
    Column("bound", "bound", "work.bound", Place.RESULT, show=BOUND_WORDS.__getitem__, left=True, drop=1),
    Column("isolated_ns", "alone µs", "timing.isolated_ns", Place.RESULT, show=_microseconds, drop=5),
    Column("launch_overhead_ns", "launch µs", "timing.launch_overhead_ns", Place.RESULT, show=_microseconds, drop=6),
    Column("event_overhead_ns", "event µs", "timing.event_overhead_ns", Place.RESULT, show=_microseconds, drop=7),
)

COLUMNS: tuple[Column, ...] = (
    _data("run_id", "ids.run_id"),
    _data("row_id", "ids.row_id"),
    _data("case_id", "ids.case_id"),
    _data("status", "correctness.status"),
    _data("reason", "correctness.reason"),
    _data("needed_bytes", "correctness.needed_bytes"),
    *_CONDITIONS,
    *_KEYS,
    _data("tensor_name", "axes.tensor_name"),
    _data("rows_m", "axes.rows_m"),
    _data("cols_k", "axes.cols_k"),
    _data("activation_rows", "axes.activation_rows"),
    _data("output_rows", "axes.output_rows"),
    _data("output_mode", "axes.output_mode"),
    _data("accumulate", "axes.accumulate"),
    _data("engine", "kernel.engine"),
    _data("kernel", "ids.kernel.name"),
    _data("dequantizer", "kernel.dequantizer"),
    _data("m_total", "axes.routing_statistics.m_total"),
    _data("touched_experts", "axes.routing_statistics.touched_experts"),
    _data("dispatches_per_touched_expert_max", "axes.routing_statistics.dispatches_per_touched_expert_max"),
    _data("uniform_imbalance", "axes.routing_statistics.uniform_imbalance"),
    _data("error_constant", "kernel.precision.error_constant"),
    _data("bound_used_pct", "correctness.bound_used_pct"),
    _data("nmse_worst_token", "correctness.nmse_worst_token"),
    _data("nmse_worst_tile", "correctness.nmse_worst_tile"),
    _data("max_abs", "correctness.max_abs"),
    _data("max_rel", "correctness.max_rel"),
    *_RESULTS,
    _data("time_min_ns", "timing.gpu_ns.min"),
    _data("time_q1_ns", "timing.gpu_ns.q1"),
    _data("time_q3_ns", "timing.gpu_ns.q3"),
    _data("hot_ns", "timing.hot_ns"),
    _data("mde_rel", "timing.mde_rel"),
    _data("ns_per_token", "work.ns_per_token"),
    _data("bytes_unique", "work.bytes_unique"),
    _data("bytes_requested", "work.bytes_requested"),
    _data("flops", "work.flops"),
    _data("canary_ns", "work.canary_ns"),
    _data("timer", "protocol.timer"),
    _data("samples_n", "protocol.samples_n"),
    _data("reuse_distance_x_l2", "protocol.reuse_distance_x_l2"),
    _data("time_utc", "ids.time_utc"),
)
