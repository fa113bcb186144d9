"""One case from weights to record: the table of contents of the whole program."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from mmvq_cli.check import Checker
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
    GraphTimer,
    Measurement,
    Rotation,
    Timer,
    WallTimer,
    Weights,
    cold_rotation,
    hot_rotation,
    measure,
)
from mmvq_cli.op import Plan
from mmvq_cli.record import Record, Status
from mmvq_cli.recording import CaseRecorder
from mmvq_cli.routing import Routing
from mmvq_cli.session import Session
from mmvq_cli.suite import Case

_CPU_ROTATION_BYTES = 1 << 30  # room for copies of the weights on the host
_COPY_SHARE = 0.8  # of the free device memory that copies may take

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
        stream_gb_s = session.stream_gb_s  # the long read comes first
        recorder.measured(_measure(case, bench, session), stream_gb_s)
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
    return measure(
        timer, rotation, session.settings.sampling, matched_canary=session.canary.size_matched(rotation.touched_bytes)
    )


def _rotation(case: Case, bench: _Bench, session: Session) -> Rotation:
    engine, d = session.engine, bench.plan.descriptor
    touched = [draw.touched_experts for draw in bench.workload.draws]
    weights = Weights(n_experts=d.n_experts, expert_bytes=d.expert_bytes, l2_bytes=engine.device.l2_bytes)
    if case.cache == "hot":
        return hot_rotation(touched[0], weights, launches_per_sample=16)
    free = int(engine.free_bytes() * _COPY_SHARE) + d.weight_bytes
    room = free if engine.device.backend == "cuda" else min(free, _CPU_ROTATION_BYTES)
    return cold_rotation(touched, weights, room, min_launches=16)


def _timer(bench: _Bench, rotation: Rotation, session: Session) -> Timer:
    """A timer whose launch i runs step i of the rotation into one output, with one workspace."""
    engine, plan, workload = session.engine, bench.plan, bench.workload
    d = plan.descriptor
    output = engine.upload(np.zeros((d.output_row_count, d.n_rows_per_expert), storage_dtype(d.dtype)))
    workspace = engine.xp.empty(plan.workspace_size(), dtype=np.uint8)

    def enqueue(i: int, stream: Any = None) -> None:
        step = rotation.sequence[i]
        plan.run(workload.args(workload.draws[step.draw], output, step.copy), workspace, stream)

    if engine.device.backend == "cpu":
        return WallTimer(enqueue, rotation.launches_per_sample)
    return GraphTimer(enqueue, rotation.launches_per_sample)
