"""Made records: valid by default, any field replaced by its dotted path."""

from mmvq_cli.record import Record, Status, TimeStatistics

SAMPLES_NS = (6400.0, 6420.5, 6431.25, 6410.125, 6950.0)


def make_record(status=Status.PASSED, **changes):
    """A record like those of a bench run; `axes__n_tokens=4` replaces record.axes.n_tokens."""
    passed = status is Status.PASSED
    data = {
        "schema": "mmvq.result/2",
        "ids": {
            "run_id": "20260101T000000Z-nvidia-h200-smoke-abc1234",
            "row_id": "0123456789abcdef",
            "case_id": "Q4_K-f32-e128k8-768x2048-t1-uniform",
            "suite": "smoke",
            "kernel": {"name": "mmvq-Q4_K-f32-sm_90", "version": "0.1.0"},
            "time_utc": "2026-01-01T00:00:00Z",
        },
        "axes": {
            "ggml_type": "Q4_K",
            "rows_m": 768,
            "cols_k": 2048,
            "n_experts": 128,
            "top_k": 8,
            "n_tokens": 1,
            "dtype": "f32",
            "routing": "uniform",
            "routing_seed": 7,
            "unique_experts": [8],
            "routing_statistics": {
                "m_total": 8,
                "touched_experts": 8,
                "dispatches_per_touched_expert_mean": 1.0,
                "dispatches_per_touched_expert_max": 1,
                "imbalance": 16.0,
                "uniform_imbalance": 16.0,
                "histogram": {"0": 120, "1": 8},
            },
            "model": "qwen3-30b-a3b",
            "tensor_name": "blk.0.ffn_up_exps.weight",
        },
        "protocol": {"timer": "graph", "cache": "cold", "reuse_distance_x_l2": 3.4, "samples_n": len(SAMPLES_NS)},
        "timing": {
            "gpu_ns": TimeStatistics.of(SAMPLES_NS).model_dump(),
            "samples_ns": SAMPLES_NS,
            "ci95_rel": 0.00312345,
            "isolated_ns": 9100.0,
        }
        if passed
        else None,
        "work": {
            "bytes_unique": 7077888,
            "bytes_requested": 7077888,
            "flops": 25165824,
            "gbps_unique": 1102.387 if passed else None,
            "canary_ns": 2100.0,
            "sol_pct_measured": 32.7078 if passed else None,
            "ns_per_token": 6420.5 if passed else None,
        },
        "kernel": {
            "engine": "cuda",
            "sku": "mmvq-Q4_K-f32-sm_90",
            "precision": {
                "math": "f32",
                "accumulator": "f32",
                "error_constant": 32.0,
                "deterministic": True,
                "bit_stable_on_same_hardware": True,
                "batch_invariant": True,
            },
        },
        "correctness": {
            "status": status,
            "reason": None if passed else "it was made so",
            "needed_bytes": 3 * 2**29 if status is Status.OUT_OF_MEMORY else None,
            "bound_used_pct": 12.3456,
            "nmse": 4.56789e-14,
            "max_abs": 1.5e-5,
        },
        "env": {
            "device": {"name": "NVIDIA H200", "cc": "9.0", "sm_n": 132},
            "driver": "580.1",
            "python": "3.11.9",
            "mmvq": "0.1.0",
            "canary_gbps": {"start": 4210.0, "end": 4193.0},
        },
    }
    for path, value in changes.items():
        *groups, name = path.split("__")
        group = data
        for part in groups:
            group = group[part]
        group[name] = value
    return Record.model_validate(data)
