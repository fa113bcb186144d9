"""Which rows belong together, and whether their conditions allow a comparison at all."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from mmvq_cli.compare.rule import Reason
from mmvq_cli.measure import THROTTLED, drift
from mmvq_cli.record import Record, Status


@dataclass(frozen=True, slots=True)
class Pair:
    """One row on both sides; None where a side lacks it."""

    base: Record | None
    head: Record | None

    @property
    def any(self) -> Record:
        """The head's record, else the base's."""
        found = self.head or self.base
        assert found is not None
        return found

    @property
    def runs_same_code(self) -> bool:
        """Whether both sides ran the same machine code with the same launch shape: a difference is noise."""
        if not (self.base and self.head and self.base.kernel and self.head.kernel):
            return False
        hashes = {side.ids.kernel.cubin_sha256 for side in (self.base, self.head)}
        shapes = {(side.kernel.grid, side.kernel.block) for side in (self.base, self.head) if side.kernel}
        return len(hashes) == 1 and None not in hashes and len(shapes) == 1


def match(base: Mapping[str, Record], head: Mapping[str, Record]) -> list[Pair]:
    """Pair rows by row id; what is left by case id, cache and timer where these are unique: its kernel was renamed.

    In the order of the base, then what only the head has.
    """
    renamed = _unique(record for row_id, record in head.items() if row_id not in base)
    lonely = _unique(record for row_id, record in base.items() if row_id not in head)
    pairs, used = [], set()
    for row_id, record in base.items():
        key = _case_key(record)
        other = head.get(row_id) or (renamed.get(key) if lonely.get(key) is record else None)
        pairs.append(Pair(record, other))
        used.add(other.ids.row_id if other else "")
    return pairs + [Pair(None, record) for row_id, record in head.items() if row_id not in used]


def _case_key(record: Record) -> tuple[str, str, str | None]:
    return record.ids.case_id, record.protocol.cache, record.protocol.timer


def _unique(records: Iterable[Record]) -> dict[tuple[str, str, str | None], Record]:
    found = list(records)
    counts = Counter(map(_case_key, found))
    return {key: record for record in found if counts[key := _case_key(record)] == 1}


def wrong(record: Record) -> bool:
    """Whether the kernel computed something else than the operation."""
    return record.status is Status.WRONG_RESULT


def invalidity(base: Record, head: Record, canary_drift: float) -> tuple[Reason, str] | None:
    """Say why two records must not be compared, as a code and the values seen; None when they may."""
    for record in (base, head):
        if record.status is not Status.PASSED:
            return Reason.NO_TIME, f"{record.ids.run_id}: {record.status}, {record.correctness.reason}"
    if (base.timing is None) != (head.timing is None):
        return Reason.NO_TIME, "one side was only checked, not timed"
    facts = [
        (Reason.DEVICE_DIFFERS, base.env.device.name, head.env.device.name),
        (Reason.DRIVER_DIFFERS, base.env.driver, head.env.driver),
        (Reason.PROTOCOL_DIFFERS, _protocol(base), _protocol(head)),
        (Reason.ROUTING_DIFFERS, base.axes.unique_experts, head.axes.unique_experts),
    ]
    for reason, old, new in facts:
        if old != new:
            return reason, f"{old} / {new}"
    for record in (base, head):
        if record.env.foreign_pids_n:
            return Reason.FOREIGN_PROCESS, f"{record.env.foreign_pids_n} in {record.ids.run_id}"
        if (record.env.throttle_bits or 0) & THROTTLED:
            return Reason.THROTTLED, f"reasons {record.env.throttle_bits:#x} in {record.ids.run_id}"
        readings, least = _readings(record), record.env.canary_least_gbps
        if (spread := drift(readings)) > canary_drift:
            return Reason.CANARY_DRIFT, f"streaming read changed by {100 * spread:.1f} % during {record.ids.run_id}"
        if readings and least and min(readings) < least:
            return Reason.CANARY_SLOW, f"streaming read {min(readings):.0f} of {least:.0f} GB/s in {record.ids.run_id}"
    return None


def stream_drift(base: Record, head: Record) -> float:
    """Relative change of the streaming read's bandwidth between two sessions; 0 where it was not measured."""
    old, new = (r.env.canary_gbps.start if r.env.canary_gbps else None for r in (base, head))
    return new / old - 1 if old and new else 0.0


def _readings(record: Record) -> list[float]:
    """The streaming reads of a record's session, in GB/s."""
    canary = record.env.canary_gbps
    return [value for value in (canary.start, canary.mid, canary.end) if value] if canary else []


def canary_log_ratio(record: Record) -> float | None:
    """ln(time / time of the canary of the same size): what a baseline keeps, as sessions differ in speed."""
    if record.timing is None or record.work is None or not record.work.canary_ns:
        return None
    return math.log(record.timing.gpu_ns.median / record.work.canary_ns)


def _protocol(record: Record) -> tuple[str | None, str, int]:
    p = record.protocol
    return p.timer, p.cache, p.draws_n
