"""What holds for a whole run: looks at the machine before, half way and after it, as lines among the records."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

from pydantic import AwareDatetime, ConfigDict, Field

from mmvq_cli.record.environment import CanaryBandwidth
from mmvq_cli.record.groups import Group
from mmvq_cli.record.schema import Record, validated

LOOK_SCHEMA = "mmvq.look/1"


class MachineState(Group):
    """The GPU by NVML; null where the driver does not tell: made from a `DeviceState`."""

    sm_mhz: int | None = None
    """Multiprocessor clock, right after the streaming read."""
    sm_max_mhz: int | None = None
    """Highest clock that it can have."""
    mem_mhz: int | None = None
    """Memory clock."""
    power_w: float | None = None
    """Power draw."""
    temp_c: float | None = None
    """Temperature."""
    slowdown_temp_c: float | None = None
    """Temperature at which it slows down."""
    throttle_bits: int | None = None
    """NVML throttle reasons."""
    foreign_pids_n: int | None = None
    """Other processes that compute on the device."""
    ecc: bool | None = None
    """Whether error correction is on."""
    mig: bool | None = None
    """Whether the device is partitioned."""
    persistence: bool | None = None
    """Whether the driver stays loaded between processes."""


class Look(Group):
    """One look at the machine: a streaming read, and the state of the GPU."""

    model_config = ConfigDict(populate_by_name=True)

    schema_name: Literal["mmvq.look/1"] = Field(default="mmvq.look/1", alias="schema")
    """Name and version of this schema; a line without it is a record."""
    run_id: str
    """Run, also the name of its file."""
    point: Literal["start", "mid", "end"]
    """Before the first case, half way, or after the last; a resumed run starts again."""
    time_utc: AwareDatetime
    """When it was taken."""
    canary_gbps: float | None
    """Streaming read in GB/s; null when the words read did not add up."""
    state: MachineState | None = None

    def to_json(self) -> str:
        """Write the look as one line of JSON, without the line end."""
        return self.model_dump_json(by_alias=True)

    @classmethod
    def from_json(cls, line: str | bytes) -> Look:
        """Read one line of JSON.

        Raises `ValueError` when it is no JSON, `OpenError` for a field that breaks the schema.
        """
        return validated(cls, json.loads(line))


def with_looks(records: Iterable[Record], looks: Sequence[Look]) -> list[Record]:
    """Give timed records the canary readings of their run, which were not all known when they were written."""
    seen: dict[str, float] = {look.point: look.canary_gbps for look in looks if look.canary_gbps}
    return [_with_readings(record, seen) if seen and record.timing else record for record in records]


def _with_readings(record: Record, seen: Mapping[str, float]) -> Record:
    own = record.env.canary_gbps.model_dump() if record.env.canary_gbps else {}
    env = record.env.model_copy(update={"canary_gbps": CanaryBandwidth.model_validate(own | dict(seen))})
    return record.model_copy(update={"env": env})
