"""The machine of a run in words: its own speed and how steady that was, its clocks, what slowed it down."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from mmvq_cli.measure import THROTTLED, drift
from mmvq_cli.record import Record
from mmvq_cli.report.columns import BOUND_WORDS, number


def machine_words(records: Sequence[Record]) -> list[str]:
    """Describe the streaming read with its drift, the range of clocks, and how many rows ran under which trouble."""
    readings = [value for record in records for value in _readings(record)]
    clocks = [
        clock for r in records if (seen := r.env.clock_sm_mhz) for clock in (seen.start, seen.min, seen.end) if clock
    ]
    words = []
    if readings:
        changed = f" (drift {100 * drift(readings):.1f} %)" if len(set(readings)) > 1 else ""
        words.append(f"canary {number(readings[0])} GB/s{changed}")
    if clocks:
        words.append(f"clock {min(clocks)} to {max(clocks)} MHz")
    for count, trouble in (
        (sum(bool((r.env.throttle_bits or 0) & THROTTLED) for r in records), "throttled"),
        (sum(bool(r.env.foreign_pids_n) for r in records), "beside other processes"),
    ):
        if count:
            words.append(f"{count} rows {trouble}")
    return words


def bounds_in_words(records: Sequence[Record]) -> str:
    """Say how many cases the memory, the launches and the kernel's own work hold; "" when nothing was timed."""
    counts = Counter(str(record.work.bound) for record in records if record.work and record.work.bound)
    parts = [f"{word} holds {counts[bound]}" for bound, word in BOUND_WORDS.items() if counts[bound]]
    return f"What holds the {counts.total()} timed cases: {', '.join(parts)}." if parts else ""


def _readings(record: Record) -> list[float]:
    canary = record.env.canary_gbps
    return [value for value in (canary.start, canary.mid, canary.end) if value] if canary else []
