"""`Record`: one row of one run, as one JSON line of a versioned schema."""

from __future__ import annotations

import hashlib
import json
import math
from typing import Any, Literal, TypeVar

from pydantic import ConfigDict, Field, ValidationError, model_validator

from mmvq_cli.errors import OpenError
from mmvq_cli.record.environment import Env
from mmvq_cli.record.groups import Axes, Correctness, Group, Ids, Kernel, KernelIdentity, Status, Work
from mmvq_cli.record.timing import Protocol, Timing
from mmvq_cli.record.upgrade import upgraded

SCHEMA = "mmvq.result/2"

AnyGroup = TypeVar("AnyGroup", bound=Group)

# Realised only when the case runs; the row's identity is what was asked for.
_REALISED_AXES = {"unique_experts", "routing_statistics"}
_ASKED_PROTOCOL = {"timer", "cache", "draws_n"}
# Fields of `work` that hold a time in another form.
_SPEEDS = ("gbps_unique", "sol_pct_measured", "sol_pct_datasheet", "ns_per_token")


class Record(Group):
    """One case with its plan, verdict, times and environment.

    `timing` and the speeds of `work` are null unless the status is PASSED; `timing` is also null when only
    correctness was asked for. `kernel` is null when no kernel was chosen, `work` when the sizes are not known.

        Record(
            ids=Ids(run_id=..., row_id=make_row_id(kernel_identity, axes, protocol), ...),
            axes=Axes(ggml_type="Q4_K", ..., routing_statistics=RoutingSummary.model_validate(routing.statistics())),
            protocol=Protocol(timer="graph", cache="cold", ...),
            timing=Timing(gpu_ns=TimeStatistics.of(samples_ns), samples_ns=samples_ns),
            work=Work(...),
            kernel=Kernel(precision=Precision.model_validate(plan.precision_guarantee), ...),
            correctness=Correctness(status=Status.PASSED, nmse=finite(nmse), ...),
            env=Env(...),
        )

    Raises pydantic's `ValidationError` for unknown fields, non-finite floats, and a time without PASSED.
    """

    # Revalidating an instance meets its fields by their own names.
    model_config = ConfigDict(populate_by_name=True)

    schema_name: Literal["mmvq.result/2"] = Field(default="mmvq.result/2", alias="schema")
    """Name and version of this schema."""
    ids: Ids
    axes: Axes
    protocol: Protocol
    timing: Timing | None = None
    work: Work | None = None
    kernel: Kernel | None = None
    correctness: Correctness
    env: Env

    @property
    def status(self) -> Status:
        """How the case ended."""
        return self.correctness.status

    @model_validator(mode="after")
    def _no_time_without_a_right_result(self) -> Record:
        if self.status is Status.PASSED:
            return self
        speeds = [name for name in _SPEEDS if self.work and getattr(self.work, name) is not None]
        if self.timing or speeds:
            raise ValueError(f"a case with status {self.status} has no times, but got {', '.join(speeds) or 'timing'}")
        return self

    def to_json(self) -> str:
        """Write the record as one line of JSON, without the line end."""
        return self.model_dump_json(by_alias=True)

    @classmethod
    def from_json(cls, line: str | bytes) -> Record:
        """Read one line of JSON, of this schema or an older one.

        Raises `ValueError` when it is no JSON object, `OpenError` for another schema or a field that breaks it.
        """
        data = json.loads(line)
        if not isinstance(data, dict):
            raise ValueError(f"a record is a JSON object, not {type(data).__name__}")
        data = upgraded(data)
        if data.get("schema") != SCHEMA:
            raise OpenError(
                f"schema is {data.get('schema')!r}, this version reads {SCHEMA!r}",
                "read it with the mmvq version that wrote it, or a newer one",
            )
        return validated(cls, data)


def validated(group: type[AnyGroup], data: dict[str, Any]) -> AnyGroup:
    """Make a group of its fields.

    Raises `OpenError` naming the first field that breaks the schema.
    """
    try:
        return group.model_validate(data)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        field = ".".join(map(str, first["loc"])) or "record"
        raise OpenError(f"{field}: {first['msg']}", "results/README.md lists the fields") from error


def make_row_id(kernel: KernelIdentity, axes: Axes, protocol: Protocol) -> str:
    """Hash what was asked for: kernel name and plug-in, axes, timer, cache and draws; 16 hexadecimal digits.

    Known before the case runs, and equal across runs, devices and versions, so it serves resuming and comparing. Axes
    at their default are left out: an axis that a later version adds does not rename the rows of before.
    """
    asked: dict[str, Any] = {
        "kernel": [kernel.name, kernel.plugin],
        "axes": axes.model_dump(mode="json", exclude=_REALISED_AXES, exclude_defaults=True),
        "protocol": protocol.model_dump(mode="json", include=_ASKED_PROTOCOL),
    }
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:16]


def finite(value: float | None) -> float | None:
    """Return the value, or None when it is infinite or not a number, as records demand."""
    return None if value is None or not math.isfinite(value) else float(value)
