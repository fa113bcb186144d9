"""llama.cpp's `test-backend-ops --output sql`: the table `test_backend_ops`, one row per record.

Columns and their order are those of `test_result::get_fields` in tests/test-backend-ops.cpp;
scripts/compare-llama-bench.py --tool test-backend-ops reads the first fourteen from SQLite.
"""

from __future__ import annotations

from collections.abc import Sequence

from mmvq_cli.record.groups import Status
from mmvq_cli.record.schema import Record

_COLUMNS = {
    "test_time": "TEXT",
    "build_commit": "TEXT",
    "backend_name": "TEXT",
    "op_name": "TEXT",
    "op_params": "TEXT",
    "test_mode": "TEXT",
    "supported": "INTEGER",
    "passed": "INTEGER",
    "error_message": "TEXT",
    "time_us": "REAL",
    "flops": "REAL",
    "bandwidth_gb_s": "REAL",
    "memory_kb": "INTEGER",
    "n_runs": "INTEGER",
    "device_description": "TEXT",
    "backend_reg_name": "TEXT",
}


def llama_sql(records: Sequence[Record]) -> str:
    """Write CREATE and INSERT statements: `perf` rows for timed records, `test` rows for the others.

    `flops` are operations per second, and 0 stands where there is no value, as test-backend-ops prints them.
    """
    columns = ",\n".join(f"  {name} {kind}" for name, kind in _COLUMNS.items())
    lines = [f"CREATE TABLE IF NOT EXISTS test_backend_ops (\n{columns}\n);\n"]
    for record in records:
        values = ", ".join(_literal(value) for value in _values(record))
        lines.append(f"INSERT INTO test_backend_ops ({', '.join(_COLUMNS)}) VALUES ({values});")
    return "\n".join(lines) + "\n"


def _values(record: Record) -> tuple[str | int | float, ...]:
    timing, work, ids = record.timing, record.work, record.ids
    median_ns = timing.gpu_ns.median if timing else 0.0
    engine = record.kernel.engine if record.kernel else "none"
    return (
        f"{ids.time_utc:%Y-%m-%dT%H:%M:%SZ}",
        ids.git.rev[:8] if ids.git else ids.kernel.version,
        "CUDA0" if engine == "cuda" else engine.upper(),
        "MUL_MAT_ID",
        _parameters(record),
        "perf" if timing else "test",
        int(record.status is not Status.UNSUPPORTED),
        int(record.status is Status.PASSED),
        record.correctness.reason or "",
        median_ns / 1e3,
        work.flops / median_ns * 1e9 if work and median_ns else 0.0,
        (work.gbps_unique or 0.0) if work else 0.0,
        work.bytes_unique // 1024 if work else 0,
        record.protocol.samples_n * record.protocol.launches_per_sample,
        record.env.device.name,
        engine.upper(),
    )


def _parameters(record: Record) -> str:
    """The parameters of test-backend-ops' MUL_MAT_ID, then ours that it does not have."""
    a = record.axes
    return (
        f"type_a={a.ggml_type.lower()},type_b={a.dtype},n_mats={a.n_experts},n_used={a.top_k},b=0,"
        f"m={a.rows_m},n={a.n_tokens},k={a.cols_k},routing={a.routing},seed={a.routing_seed},"
        f"rows={a.activation_rows}-{a.output_rows},cache={record.protocol.cache},tensor={a.tensor_name}"
    )


def _literal(value: str | int | float) -> str:
    return "'" + value.replace("'", "''") + "'" if isinstance(value, str) else repr(value)
