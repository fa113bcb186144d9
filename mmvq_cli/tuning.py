"""What `mmvq tune` found: chosen from records, kept in a file of the user's cache, read before plans are made."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, PositiveInt, ValidationError

from mmvq_cli.engine.discovery import kernel_cache_dir
from mmvq_cli.errors import OpenError
from mmvq_cli.op import Device, Preference
from mmvq_cli.op.tuning import Family, Tuned, Tuning
from mmvq_cli.record import Record, Status, write_whole
from mmvq_cli.resources import resource_root

_LEAST_GAIN = 0.02  # of the time by the rules; less is not worth another kernel
_HINT = "`mmvq tune` measures the kernels that could run"

# What can be measured; the first is what the rules take by themselves.
CANDIDATES = (Preference.AUTO, Preference.FASTEST, Preference.REPRODUCIBLE, Preference.REFERENCE)


def _require_candidate(preference: Preference) -> Preference:
    if preference not in CANDIDATES:
        raise ValueError(f"{preference} is no kernel's")
    return preference


_Candidate = Annotated[Preference, AfterValidator(_require_candidate)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """The times of one problem's kernels in ns, by preference, and the fastest of them: one entry of the file."""

    family: Family
    m_tokens: PositiveInt
    preference: _Candidate
    run_id: str
    gpu_ns: dict[_Candidate, float]


class _File(BaseModel):
    """The whole file; `kernels_sha256` is of the sources whose times these are."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal["mmvq.tuning/1"] = "mmvq.tuning/1"
    device: str
    kernels_sha256: str
    cases: tuple[Measured, ...]


def fastest(records: Mapping[Preference, Record]) -> tuple[Preference, dict[Preference, float]]:
    """Choose among the records of one problem; the times in ns of those that are right, the rules' choice first.

    Another kernel must be 2 % faster and its interval apart. AUTO where nothing was timed.
    """
    timings = {
        preference: record.timing
        for preference, record in records.items()
        if record.status is Status.PASSED and record.timing is not None
    }
    times = {preference: timing.gpu_ns.median for preference, timing in timings.items()}
    if not times:
        return Preference.AUTO, {}
    best = min(times, key=times.__getitem__)
    if Preference.AUTO not in times:
        return best, times
    auto, other = timings[Preference.AUTO], timings[best]
    longest = other.gpu_ns.median * (1 + (other.ci95_rel or 0.0))
    shortest = auto.gpu_ns.median * (1 - (auto.ci95_rel or 0.0))
    is_worth_it = longest < shortest and times[best] < (1 - _LEAST_GAIN) * times[Preference.AUTO]
    return best if is_worth_it else Preference.AUTO, times


def tuning_path(device: Device) -> Path:
    """Where the file of a GPU of this kind is, or would be."""
    words = f"{device.name}-{device.architecture}-{device.sm_count}".lower()
    return kernel_cache_dir() / "tuning" / f"{re.sub(r'[^a-z0-9]+', '-', words).strip('-')}.json"


def read_tuning(device: Device) -> Tuning:
    """What was measured on GPUs of this kind.

    Raises `OpenError` when there is nothing, when it is of other kernels, and for a file that cannot be read.
    """
    cases = _read(device).cases
    return Tuning(
        tuple(
            Tuned(family=case.family, m_tokens=case.m_tokens, preference=case.preference.value, run_id=case.run_id)
            for case in cases
        )
    )


def with_tuning(device: Device) -> Device:
    """The device with what was measured on its kind, where there is anything that can be used."""
    try:
        return replace(device, tuning=read_tuning(device))
    except OpenError:
        return device


def add_measured(device: Device, measured: Iterable[Measured]) -> Path:
    """Keep what was measured, in place of what the file has of the same problems; the path.

    A problem without times is forgotten: no kernel was right. What is of other kernels, or cannot be read, is replaced.
    Raises `OpenError` when it cannot be written.
    """
    try:
        known = _read(device).cases
    except OpenError:
        known = ()
    cases = {(case.family, case.m_tokens): case for case in (*known, *measured)}
    path = tuning_path(device)
    timed = tuple(case for case in cases.values() if case.gpu_ns)
    file = _File(device=device.name, kernels_sha256=_kernels_sha256(), cases=timed)
    write_whole(path, file.model_dump_json(indent=1) + "\n")
    return path


def _read(device: Device) -> _File:
    path = tuning_path(device)
    try:
        file = _File.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        raise OpenError(f"nothing was tuned on {device.name} ({path} is missing)", _HINT) from None
    except OSError as error:
        raise OpenError(f"cannot read {path}: {error.strerror}", "check its permissions") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the whole"
        raise OpenError(f"{path} is damaged: {where}: {first['msg']}", f"remove it; {_HINT}") from None
    if file.kernels_sha256 != _kernels_sha256():
        raise OpenError(f"what was tuned on {device.name} ({path}) is of other kernels than these", f"{_HINT} again")
    return file


@cache
def _kernels_sha256() -> str:
    """Of all sources, with their names."""
    root = resource_root("kernels")
    digest = hashlib.sha256()
    for path in sorted(path for path in root.rglob("*.cu*") if path.is_file()):
        digest.update(f"{path.relative_to(root).as_posix()}\n".encode())
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()
