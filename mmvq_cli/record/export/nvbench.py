"""nvbench's JSON, file version 1.0.0: what nvbench-compare and nvbench-json-summary (package cuda-bench) read.

One benchmark `mmvq`, one state per timed or failed record, its case id the one axis. Times are seconds; 64-bit
integers and floats are strings, as nvbench writes them.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from mmvq_cli.record.schema import Record


def nvbench_json(records: Sequence[Record]) -> str:
    """Write records, each with its median, mean, quartiles, noise, bandwidth and samples' count."""
    devices = {device: i for i, device in enumerate(dict.fromkeys(r.env.device.name for r in records))}
    case_ids = list(dict.fromkeys(record.ids.case_id for record in records))
    root = {
        "meta": {
            "argv": ["mmvq"],
            "version": {
                "json": {"major": 1, "minor": 0, "patch": 0, "string": "1.0.0"},
                "nvbench": {"major": 0, "minor": 0, "patch": 0, "string": "mmvq", "git_branch": "", "git_sha": "",
                            "git_version": "", "git_is_dirty": False},
            },
        },
        "devices": [_device(next(r for r in records if r.env.device.name == name), i) for name, i in devices.items()],
        "benchmarks": [
            {
                "name": "mmvq",
                "index": 0,
                "devices": list(devices.values()),
                "axes": [
                    {
                        "name": "case",
                        "type": "string",
                        "flags": "",
                        "values": [{"input_string": text, "description": "", "value": text} for text in case_ids],
                    }
                ],
                "states": [_state(record, devices[record.env.device.name]) for record in records],
            }
        ],
    }  # fmt: skip
    return json.dumps(root, indent=1, ensure_ascii=False) + "\n"


def _device(record: Record, index: int) -> dict[str, Any]:
    facts = record.env.device
    major, _, minor = (facts.cc or "0.0").partition(".")
    return {
        "id": index,
        "name": facts.name,
        "sm_version": 100 * int(major) + 10 * int(minor or 0),
        "number_of_sms": facts.sm_n or 0,
        "global_memory_size": facts.mem_bytes or 0,
        "global_memory_bus_width": facts.bus_bits or 0,
        "l2_cache_size": facts.l2_bytes or 0,
    }


def _state(record: Record, device: int) -> dict[str, Any]:
    state: dict[str, Any] = {
        "name": f"Device={device} case={record.ids.case_id}",
        "device": device,
        "type_config_index": 0,
        "min_samples": str(record.protocol.samples_n),
        "axis_values": [{"name": "case", "type": "string", "value": record.ids.case_id}],
        "summaries": _summaries(record),
        "is_skipped": record.timing is None,
    }
    if record.timing is None:
        state["skip_reason"] = record.correctness.reason or "checked, not timed"
    return state


def _summaries(record: Record) -> list[dict[str, Any]]:
    if record.timing is None:
        return []
    t = record.timing.gpu_ns
    found = [
        _summary("nv/cold/sample_size", "Samples", "sample_size", record.protocol.samples_n),
        _summary("nv/cold/time/gpu/min", "Min GPU Time", "duration", t.min / 1e9),
        _summary("nv/cold/time/gpu/max", "Max GPU Time", "duration", t.max / 1e9),
        _summary("nv/cold/time/gpu/mean", "GPU Time", "duration", t.mean / 1e9),
        _summary("nv/cold/time/gpu/q1", "Q1 GPU Time", "duration", t.q1 / 1e9),
        _summary("nv/cold/time/gpu/median", "Median GPU Time", "duration", t.median / 1e9),
        _summary("nv/cold/time/gpu/q3", "Q3 GPU Time", "duration", t.q3 / 1e9),
        _summary("nv/cold/time/gpu/stdev/absolute", "StDev GPU Time", "duration", t.cv * t.mean / 1e9),
        _summary("nv/cold/time/gpu/stdev/relative", "Noise", "percentage", t.cv),
        _summary("nv/cold/time/gpu/iqr/absolute", "IQR GPU Time", "duration", t.iqr_rel * t.median / 1e9),
        _summary("nv/cold/time/gpu/iqr/relative", "Rel. IQR GPU Time", "percentage", t.iqr_rel),
    ]
    if record.work and record.work.gbps_unique is not None:
        found.append(_summary("nv/cold/bw/global/bytes_per_second", "GlobalMem BW", "byte_rate",
                              record.work.gbps_unique * 1e9))  # fmt: skip
    return found


def _summary(tag: str, name: str, hint: str, value: float) -> dict[str, Any]:
    kind = "int64" if isinstance(value, int) else "float64"
    return {
        "tag": tag,
        "name": name,
        "hint": hint,
        "description": "",
        "data": [{"name": "value", "type": kind, "value": repr(value)}],
    }
