"""Fills in a case's record step by step, so that whatever ends the case leaves what is known by then."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

from mmvq_cli import __version__
from mmvq_cli.check import Check
from mmvq_cli.compare import detectable_in
from mmvq_cli.engine.workload import Workload
from mmvq_cli.errors import MmvqError
from mmvq_cli.measure import CacheMode, Conditions, Measurement, bound_of, least_stream_gb_s
from mmvq_cli.op import Device, Plan
from mmvq_cli.record import (
    Axes,
    CanaryBandwidth,
    Correctness,
    DeviceFacts,
    Env,
    Git,
    Ids,
    Kernel,
    KernelIdentity,
    Precision,
    Protocol,
    Record,
    RoutingSummary,
    SmClock,
    Status,
    TimeStatistics,
    Timing,
    Work,
    finite,
    make_row_id,
)
from mmvq_cli.routing import Routing
from mmvq_cli.suite import Case


class CaseRecorder:
    """Collects the groups of one case's record; `passed` or `failed` makes the record."""

    def __init__(self, case: Case, run_id: str, suite: str, device: Device, draws_n: int, timed: bool) -> None:
        self._case, self._run_id, self._suite, self._device = case, run_id, suite, device
        self.git: Git | None = None
        self.facts: dict[str, Any] = {}
        self._identity = KernelIdentity(name=_planned_name(case, device), version=__version__)
        self._kernel: Kernel | None = None
        self._axes = _axes(case)
        timer = _timer_name(case, device) if timed else None
        self._protocol = Protocol.model_validate({"timer": timer, "cache": case.cache, "draws_n": draws_n})
        self._correctness: dict[str, Any] = {}
        self._work: Work | None = None
        self._timing: Timing | None = None
        self._canary_gb_s: float | None = None
        self._conditions: Conditions | None = None
        self._n_launches = 1

    @property
    def row_id(self) -> str:
        """Hash of what is asked for; known before the case runs."""
        return make_row_id(self._identity, self._axes, self._protocol)

    def planned(self, plan: Plan, launches: Sequence[Any]) -> None:
        """Note the plan, and the resources of its main launch where an engine knows them."""
        # The product, the last launch that knows the format: arranging, clearing and summing may have larger grids.
        main = next((launch for launch in reversed(plan.launches) if "MMVQ_FORMAT" in dict(launch.defines)), None)
        facts = next((f for f in launches if main and f.entry == main.entry), None)
        self._n_launches = max(1, len(plan.launches))
        self._kernel = Kernel.model_validate(
            {
                "engine": plan.device.backend,
                "sku": plan.sku.name,
                "precision": Precision.model_validate(plan.precision_guarantee),
                "dequantizer": self.facts.get("dequantizer"),
                "grid": main.grid if main else (),
                "block": main.block if main else (),
                **_resources(facts, main, self.facts.get("max_threads_per_sm", 2048)),
            }
        )
        if facts:
            hashes = {"source_sha256": facts.source_sha256, "cubin_sha256": facts.cubin_sha256}
            self._identity = self._identity.model_copy(update=hashes)

    def routed(self, routings: Sequence[Routing], workload: Workload) -> None:
        """Note what the draws really touch."""
        d = workload.descriptor
        unique = tuple(len(draw.touched_experts) for draw in workload.draws)
        statistics = RoutingSummary.model_validate(routings[0].statistics())
        self._axes = self._axes.model_copy(update={"unique_experts": unique, "routing_statistics": statistics})
        m_total = workload.draws[0].dispatch.m_total
        self._work = Work(
            bytes_unique=round(sum(unique) / len(unique) * d.expert_bytes),
            bytes_requested=m_total * d.expert_bytes,
            flops=2 * m_total * d.n_rows_per_expert * d.n_cols,
        )

    def checked(self, check: Check) -> None:
        """Note the verdict."""
        v = check.verdict
        tile = v.worst_tile
        self._correctness = {
            "oracle": self.facts.get("oracle"),
            "bound_used_pct": finite(100 * v.bound_used),
            "worst_index": v.worst_index,
            "nmse": finite(v.nmse),
            "nmse_worst_token": finite(v.worst_row_nmse),
            "worst_token": v.worst_row,
            "nmse_worst_tile": finite(tile.nmse) if tile else None,
            "worst_tile": (tile.expert, tile.first_row) if tile else None,
            "max_abs": finite(v.max_abs),
            "max_rel": finite(v.max_rel),
            "bitwise_repeat": check.bitwise_repeat,
            "batch_invariant": check.batch_invariant,
            "guard_ok": check.n_unwritten == 0 and check.guard_bytes_damaged == 0,
            "inputs_intact": check.inputs_intact,
        }

    def slowed(self, share: float) -> None:
        """Note that the times are made longer on purpose: the row is no run of its machine code."""
        version_ = f"{__version__}+slowed-{share:g}"
        self._identity = self._identity.model_copy(update={"version": version_, "cubin_sha256": None})

    def placed(self, order_in_block: int, budget_s: float) -> None:
        """Note which case of its process it is, from 0, and how long its sampling may take."""
        self._protocol = self._protocol.model_copy(update={"order_in_block": order_in_block, "budget_s": budget_s})

    def measured(self, m: Measurement, *, stream_gb_s: float, launch_ns: float, hot_ns: float | None) -> None:
        """Note times, speeds and the proof of cold; `launch_ns` is what a launch costs that does nothing."""
        self._canary_gb_s, self._conditions = stream_gb_s, m.conditions
        samples = m.samples.samples_ns
        self._timing = Timing(
            gpu_ns=TimeStatistics.of(samples),
            samples_ns=samples,
            ci95_rel=finite(m.interval.relative_half_width),
            mde_rel=finite(detectable_in(samples)),
            isolated_ns=m.overheads.isolated_latency_ns,
            launch_overhead_ns=m.overheads.launch_overhead_ns,
            event_overhead_ns=m.overheads.event_overhead_ns,
            hot_ns=hot_ns,
        )
        self._protocol = self._protocol.model_copy(
            update={
                "reuse_distance_x_l2": m.reuse_distance_x_l2,
                "warmup_n": m.samples.warmup_n * m.launches_per_sample,
                "samples_n": len(samples),
                "launches_per_sample": m.launches_per_sample,
                "stop_reason": str(m.stop_reason),
            }
        )
        assert self._work is not None
        datasheet = self._device.bandwidth_gb_s
        canary = m.matched_canary
        self._work = self._work.model_copy(
            update={
                "bytes_unique": m.bytes_unique,
                "gbps_unique": m.gb_s_unique,
                "canary_ns": canary.time_ns if canary and canary.checksum_ok else None,
                "sol_pct_measured": m.percent_of_canary,
                "sol_pct_datasheet": 100 * m.gb_s_unique / datasheet if datasheet else None,
                "ns_per_token": m.time_ns / self._case.n_tokens,
                "bound": bound_of(m.time_ns, m.bytes_unique, stream_gb_s, self._n_launches, launch_ns),
            }
        )

    def verified_after_timing(self, right: bool) -> None:
        """Note the second look."""
        self._correctness["verified_after_timing"] = right

    def passed(self) -> Record:
        """The record of a right result."""
        return self._record(Correctness(status=Status.PASSED, **self._correctness), self._timing, self._work)

    def failed(self, status: Status, reason: str, needed_bytes: int | None = None) -> Record:
        """The record of anything else; it holds no time."""
        work = self._work
        if work is not None:
            work = Work(bytes_unique=work.bytes_unique, bytes_requested=work.bytes_requested, flops=work.flops)
        correctness = Correctness(status=status, reason=reason, needed_bytes=needed_bytes, **self._correctness)
        return self._record(correctness, None, work)

    def _record(self, correctness: Correctness, timing: Timing | None, work: Work | None) -> Record:
        return Record(
            ids=Ids(
                run_id=self._run_id,
                row_id=self.row_id,
                case_id=self._case.id,
                suite=self._suite,
                kernel=self._identity,
                git=self.git,
                time_utc=datetime.now(UTC),
            ),
            axes=self._axes,
            protocol=self._protocol,
            timing=timing,
            work=work,
            kernel=self._kernel,
            correctness=correctness,
            env=self._env(),
        )

    def _env(self) -> Env:
        device, facts = self._device, self.facts
        canary = CanaryBandwidth(start=self._canary_gb_s) if self._canary_gb_s else None
        return Env(
            device=DeviceFacts(
                name=device.name,
                uuid=facts.get("uuid"),
                cc=".".join(map(str, device.compute_capability)) if device.backend == "cuda" else None,
                sm_n=device.sm_count or None,
                l2_bytes=device.l2_bytes or None,
                mem_bytes=device.memory_bytes or None,
                bus_bits=facts.get("bus_bits"),
            ),
            python=platform.python_version(),
            mmvq=__version__,
            gguf=version("gguf"),
            driver=facts.get("driver"),
            cuda_rt=facts.get("cuda_rt"),
            nvrtc=facts.get("nvrtc"),
            cupy=facts.get("cupy"),
            threads_n=facts.get("threads"),
            **_conditions(self._conditions),
            container=facts.get("container"),
            canary_gbps=canary,
            canary_least_gbps=least_stream_gb_s(device),
        )


def _timer_name(case: Case, device: Device) -> str:
    """A flush between two launches cannot be part of a replayed graph, so these are timed one by one."""
    if device.backend != "cuda":
        return "wall"
    return "event" if case.cache == CacheMode.FLUSH else "graph"


def _conditions(seen: Conditions | None) -> dict[str, Any]:
    if seen is None:
        return {}
    after = seen.after
    return {
        "clock_sm_mhz": SmClock(start=seen.sm_start_mhz, min=seen.sm_min_mhz, end=seen.sm_end_mhz),
        "clock_mem_mhz": after.mem_mhz,
        "power_w": after.power_w,
        "temp_c": after.temp_c,
        "throttle_bits": seen.throttle_bits,
        "foreign_pids_n": after.foreign_pids_n,
        "ecc": after.ecc,
        "mig": after.mig,
    }


def _axes(case: Case) -> Axes:
    s, origin = case.source, case.trace_origin
    return Axes(
        ggml_type=s.format_name,
        rows_m=s.rows,
        cols_k=s.cols,
        n_experts=s.n_experts,
        top_k=case.top_k,
        n_tokens=case.n_tokens,
        dtype=case.dtype,
        activation_rows=case.activation_rows,
        output_rows=case.output_rows,
        output_mode=case.output_mode,
        accumulate=case.accumulate,
        routing=str(case.routing),
        routing_seed=case.seed,
        routing_provenance=origin.provenance if origin else None,
        trace_sha256=origin.sha256 if origin else None,
        model=s.model,
        tensor_name=s.name,
    )


def _planned_name(case: Case, device: Device) -> str:
    """The kernel's name, or the engine's for a case without a kernel."""
    try:
        return Plan.select(case.descriptor, device, case.preference).sku.name
    except MmvqError:
        return device.backend


def _resources(facts: Any, main: Any, max_threads_per_sm: int) -> dict[str, Any]:
    """Registers, memory and occupancy of the main launch."""
    if facts is None or main is None:
        return {}
    threads = main.block[0] * main.block[1] * main.block[2]
    return {
        "regs": facts.registers,
        "smem_bytes": facts.shared_bytes,
        "local_bytes": facts.local_bytes,
        "max_blocks_per_sm": facts.blocks_per_sm,
        "occupancy_pct": 100 * facts.blocks_per_sm * threads / max_threads_per_sm,
        "waves": facts.waves,
    }
