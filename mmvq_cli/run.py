"""One case from weights to record: the table of contents of the whole program."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmvq_cli.check import Checker
from mmvq_cli.engine.cuda.device import reset_persisting_l2
from mmvq_cli.engine.elements import storage_dtype
from mmvq_cli.engine.workload import Draw, Workload, problem_bytes, upload_draw
from mmvq_cli.errors import (
    BuildError,
    InvalidProblem,
    LaunchError,
    OutOfMemory,
    Unsupported,
)
from mmvq_cli.measure import (
    CacheMode,
    FlushTimer,
    GraphTimer,
    Measurement,
    Rotation,
    SamplingSettings,
    Timer,
    WallTimer,
    Weights,
    cold_rotation,
    flush_rotation,
    hot_rotation,
    measure,
    sample_until,
    with_extra_launches,
    with_idle_time,
)
from mmvq_cli.op import Plan
from mmvq_cli.record import Record, Status
from mmvq_cli.recording import CaseRecorder
from mmvq_cli.routing import Routing
from mmvq_cli.session import Session
from mmvq_cli.suite import Case

_CPU_ROTATION_BYTES = 1 << 30  # room for copies of the weights on the host
_COPY_SHARE = 0.8  # of the free device memory that copies may take
_LAUNCHES = 16  # of one sample, at least
_HOT_SAMPLING = SamplingSettings(warmup_min_s=0.0, warmup_max_s=0.02, max_samples=5, budget_s=0.1)

Observer = Callable[[str], None]


def run_case(case: Case, session: Session, recorder: CaseRecorder, observe: Observer = lambda phase: None) -> Record:
    """Load, plan, check, time, check again; every outcome is a record.

    `observe` is told the phase: load, build, check, time. A status that leaves the device unusable (LAUNCH_ERROR) asks
    for a new process.
    """
    try:
        observe("load")
        bench = _load(case, session)
        observe("build")
        recorder.planned(bench.plan, session.prepare(bench.plan))
        if session.settings.slowdown:
            recorder.slowed(session.settings.slowdown)
        recorder.routed(bench.routings, bench.workload)
        observe("check")
        checker = Checker(session.engine, bench.plan, bench.workload, bench.workload.draws[0])
        check = checker.check()
        recorder.checked(check)
        if not check.passed:
            return recorder.failed(Status.WRONG_RESULT, "; ".join(check.failures))
        if not session.settings.timed:
            return recorder.passed()
        observe("time")
        stream_gb_s, launch_ns = session.stream_gb_s, session.launch_ns  # the long read comes first
        measurement = _measure(case, bench, session)
        hot_ns = _hot_ns(bench, session) if case.cache == CacheMode.COLD else None
        recorder.measured(measurement, stream_gb_s=stream_gb_s, launch_ns=launch_ns, hot_ns=hot_ns)
        again = checker.check_again()
        recorder.verified_after_timing(again.passed)
        if not again.passed:
            return recorder.failed(Status.WRONG_RESULT, f"after timing, {again.n_wrong} elements are wrong")
        return recorder.passed()
    except OutOfMemory as error:
        return recorder.failed(Status.OUT_OF_MEMORY, error.message, needed_bytes=error.needed_bytes)
    except BuildError as error:
        return recorder.failed(Status.BUILD_ERROR, error.message)
    except LaunchError as error:
        return recorder.failed(Status.LAUNCH_ERROR, error.message)
    except Unsupported as error:
        return recorder.failed(Status.UNSUPPORTED, error.message)
    except InvalidProblem as error:
        return recorder.failed(Status.SKIPPED, error.message)


@dataclass(slots=True)
class _Bench:
    """A loaded case."""

    plan: Plan
    workload: Workload
    routings: tuple[Routing, ...]


def _load(case: Case, session: Session) -> _Bench:
    """Draw the routings, and put their activations and the experts they touch on the device."""
    engine, settings = session.engine, session.settings
    descriptor = case.descriptor
    plan = Plan.select(descriptor, engine.device, case.preference)
    n_draws = settings.draws_n if settings.timed else 1
    needed = problem_bytes(plan, n_draws)
    if needed > engine.free_bytes():
        raise OutOfMemory(needed, engine.free_bytes())
    routings = tuple(case.draw_routing(index) for index in range(n_draws))
    draws = tuple(
        upload_draw(engine, routing.dispatch(), case.draw_activations(index), case.is_weighted)
        for index, routing in enumerate(routings)
    )
    return _Bench(plan, Workload(descriptor, [_load_weights(case, session, draws)], draws), routings)


def _load_weights(case: Case, session: Session, draws: tuple[Draw, ...]) -> Any:
    own = case.own_weights()
    if own is not None:
        return session.engine.upload(own)
    if case.source.tensor is None:
        return session.engine.synthesize(case.source.format, case.descriptor.weight_bytes, case.seed)
    touched = np.unique(np.concatenate([draw.touched_experts for draw in draws]))
    return session.engine.load_experts(case.source.tensor, touched.tolist())


def _measure(case: Case, bench: _Bench, session: Session) -> Measurement:
    rotation = _rotation(case, bench, session)
    weights = bench.workload.weights
    weights += [weights[0].copy() for _ in range(rotation.n_copies - 1)]
    timer = _timer(bench, rotation, session)
    canary = session.canary.size_matched(rotation.touched_bytes)
    return measure(timer, rotation, session.settings.sampling, matched_canary=canary, watch=session.watch())


def _hot_ns(bench: _Bench, session: Session) -> float:
    """Median ns of a launch whose weights are in the cache, as far as they fit; a short look after the cold samples."""
    rotation = _hot_rotation(bench, session)
    return median(sample_until(_timer(bench, rotation, session).sample, _HOT_SAMPLING).samples_ns)


def _rotation(case: Case, bench: _Bench, session: Session) -> Rotation:
    engine, d = session.engine, bench.plan.descriptor
    touched, weights = _touched(bench), _weights(bench, session)
    if case.cache == CacheMode.HOT:
        return _hot_rotation(bench, session)
    if case.cache == CacheMode.FLUSH:
        return flush_rotation(touched, weights)
    free = int(engine.free_bytes() * _COPY_SHARE) + d.weight_bytes
    room = free if engine.device.backend == "cuda" else min(free, _CPU_ROTATION_BYTES)
    return cold_rotation(touched, weights, room, min_launches=_LAUNCHES)


def _hot_rotation(bench: _Bench, session: Session) -> Rotation:
    return hot_rotation(_touched(bench)[0], _weights(bench, session), launches_per_sample=_LAUNCHES)


def _touched(bench: _Bench) -> list[NDArray[np.int64]]:
    return [draw.touched_experts for draw in bench.workload.draws]


def _weights(bench: _Bench, session: Session) -> Weights:
    d = bench.plan.descriptor
    return Weights(n_experts=d.n_experts, expert_bytes=d.expert_bytes, l2_bytes=session.engine.device.l2_bytes)


def _timer(bench: _Bench, rotation: Rotation, session: Session) -> Timer:
    """A timer whose launch i runs step i of the rotation into one output, with one workspace."""
    engine, plan, workload = session.engine, bench.plan, bench.workload
    d = plan.descriptor
    output = engine.upload(np.zeros((d.output_row_count, d.n_rows_per_expert), storage_dtype(d.dtype)))
    workspace = engine.xp.empty(plan.workspace_size(), dtype=np.uint8)

    def enqueue(i: int, stream: Any = None) -> None:
        step = rotation.sequence[i]
        plan.run(workload.args(workload.draws[step.draw], output, step.copy), workspace, stream)

    n_launches, is_flushed = rotation.launches_per_sample, rotation.mode is CacheMode.FLUSH
    slowdown = session.settings.slowdown
    if engine.device.backend == "cpu":
        call = with_idle_time(enqueue, slowdown) if slowdown else enqueue
        return WallTimer(call, n_launches, before_launch=session.cache_flush if is_flushed else None)
    launch = with_extra_launches(enqueue, n_launches, slowdown) if slowdown else enqueue
    if is_flushed:
        return FlushTimer(launch, n_launches, session.cache_flush, reset_persisting_l2)
    return GraphTimer(launch, n_launches)
