"""What a run leaves behind: records of a versioned schema, in append-only JSON lines."""

from mmvq_cli.record.environment import CanaryBandwidth, DeviceFacts, Env, SmClock
from mmvq_cli.record.fields import field_table, refresh_field_table
from mmvq_cli.record.groups import (
    Axes,
    Correctness,
    Git,
    Ids,
    Kernel,
    KernelIdentity,
    Precision,
    RoutingSummary,
    Status,
    Work,
)
from mmvq_cli.record.schema import SCHEMA, Record, finite, make_row_id
from mmvq_cli.record.session import Look, MachineState, with_looks
from mmvq_cli.record.store import (
    RecordStore,
    TruncatedRecordWarning,
    completed_row_ids,
    last_per_row,
    latest_run_id,
    new_run_id,
    read_looks,
    read_records,
    write_whole,
)
from mmvq_cli.record.timing import Protocol, TimeStatistics, Timing

__all__ = [
    "SCHEMA",
    "Axes",
    "CanaryBandwidth",
    "Correctness",
    "DeviceFacts",
    "Env",
    "Git",
    "Ids",
    "Kernel",
    "KernelIdentity",
    "Look",
    "MachineState",
    "Precision",
    "Protocol",
    "Record",
    "RecordStore",
    "RoutingSummary",
    "SmClock",
    "Status",
    "TimeStatistics",
    "Timing",
    "TruncatedRecordWarning",
    "Work",
    "completed_row_ids",
    "field_table",
    "finite",
    "last_per_row",
    "latest_run_id",
    "make_row_id",
    "new_run_id",
    "read_looks",
    "read_records",
    "refresh_field_table",
    "with_looks",
    "write_whole",
]
