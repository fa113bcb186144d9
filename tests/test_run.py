"""One case from weights to record, in this process, on the CPU engine."""

from dataclasses import replace
from pathlib import Path

import pytest

from mmvq_cli import run as run_module
from mmvq_cli.engine import cpu
from mmvq_cli.errors import BuildError, LaunchError, OpenError
from mmvq_cli.measure import Canary, SamplingSettings
from mmvq_cli.op import Plan
from mmvq_cli.record import Record, Status
from mmvq_cli.recording import CaseRecorder
from mmvq_cli.run import run_case
from mmvq_cli.session import RunSettings, Session
from mmvq_cli.suite import Axes, model_suite, preset_suite

MODELS = Path(__file__).parent / "data" / "models"
GATE, _, DOWN, _ = model_suite(MODELS / "qwen3moe-Q4_K_M.gguf", Axes(tokens=(2,))).cases
QUICK = SamplingSettings(warmup_min_s=0.0, warmup_max_s=0.01, max_samples=5, budget_s=0.1)


class FakeCanary:
    """The bandwidth of a memory that nobody waits for."""

    def stream(self):
        return Canary(1 << 30, 1e8, (1, 1), True)

    def size_matched(self, n_bytes):
        return Canary(n_bytes, 1e3, (1, 1), True)


@pytest.fixture
def session():
    made = Session(RunSettings(engine="cpu", draws_n=2, sampling=QUICK))
    made.__dict__["canary"] = FakeCanary()
    return made


def recorder_of(case, session):
    made = CaseRecorder(case, "run", "suite", session.engine.device, session.settings.draws_n, session.settings.timed)
    made.facts = session.facts
    return made


def record_of(case, session, observe=lambda phase: None):
    record = run_case(case, session, recorder_of(case, session), observe)
    assert Record.from_json(record.to_json()) == record
    return record


def has_no_time(record):
    speeds = (record.work.gbps_unique, record.work.canary_ns, record.work.ns_per_token) if record.work else ()
    return record.timing is None and not any(speeds)


@pytest.mark.parametrize("case", [GATE, DOWN], ids=["gate", "down"])
def test_a_right_case_has_a_whole_record(session, case):
    phases = []
    record = record_of(case, session, phases.append)
    assert phases == ["load", "build", "check", "time"]
    assert record.status is Status.PASSED
    assert record.correctness.reason is None
    assert record.correctness.bound_used_pct <= 100
    assert record.correctness.guard_ok
    assert record.correctness.verified_after_timing
    assert record.timing.gpu_ns.median > 0
    assert len(record.timing.samples_ns) == record.protocol.samples_n
    assert record.work.bytes_unique == pytest.approx(
        sum(record.axes.unique_experts) / 2 * case.descriptor.expert_bytes, abs=1
    )
    assert record.work.gbps_unique == pytest.approx(record.work.bytes_unique / record.timing.gpu_ns.median, rel=0.5)
    assert record.protocol.reuse_distance_x_l2 >= 3
    assert record.axes.routing_statistics.m_total == 4
    assert record.env.threads_n >= 1
    assert (record.axes.activation_rows, record.axes.output_rows) == (case.activation_rows, case.output_rows)


def test_a_case_that_is_only_checked_has_no_time(session):
    session.settings = replace(session.settings, timed=False)
    record = record_of(GATE, session)
    assert (record.status, record.protocol.timer) == (Status.PASSED, None)
    assert has_no_time(record)


def test_synthetic_weights_run_too(session):
    case = preset_suite("olmoe-1b-7b", Axes(tokens=(1,), roles=("gate",)), ("Q8_K",)).cases[0]
    small = replace(case, source=replace(case.source, n_experts=4, rows=32, cols=512), top_k=2)
    assert record_of(small, session).status is Status.PASSED


def test_the_row_id_is_known_before_and_does_not_change(session):
    before = recorder_of(GATE, session).row_id
    assert record_of(GATE, session).ids.row_id == before
    assert recorder_of(replace(GATE, seed=1), session).row_id != before


def test_a_wrong_result_has_no_time(session, monkeypatch):
    """The kernel is broken on purpose."""
    real = cpu.execute

    def broken(plan, views, *rest):
        real(plan, views, *rest)
        cpu.engine.host_args(views, plan.descriptor).output[1, 7] = 0

    monkeypatch.setattr(cpu, "execute", broken)
    record = record_of(GATE, session)
    assert record.status is Status.WRONG_RESULT
    assert record.correctness.reason == "1 elements beyond their error bound, the worst at (1, 7)"
    assert record.correctness.worst_index == (1, 7)
    assert record.correctness.bound_used_pct > 100
    assert has_no_time(record)


def test_a_result_that_goes_wrong_while_timing_loses_its_time(session, monkeypatch):
    real_measure, real = run_module.measure, cpu.execute

    def measure(*arguments, **named):
        result = real_measure(*arguments, **named)
        monkeypatch.setattr(cpu, "execute", lambda *_: None)
        return result

    monkeypatch.setattr(run_module, "measure", measure)
    record = record_of(GATE, session)
    assert cpu.execute is not real
    assert record.status is Status.WRONG_RESULT
    assert "after timing" in record.correctness.reason
    assert record.correctness.verified_after_timing is False
    assert has_no_time(record)


def test_too_little_memory_is_a_status_with_the_bytes_before_anything_is_loaded(session, monkeypatch):
    monkeypatch.setattr(session.engine, "free_bytes", lambda: 1 << 20)
    huge = replace(GATE, source=replace(GATE.source, tensor=None, n_experts=100_000, rows=4096, cols=4096))
    record = record_of(huge, session)
    assert record.status is Status.OUT_OF_MEMORY
    assert record.correctness.needed_bytes > 900_000_000_000
    assert "GiB" in record.correctness.reason


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (BuildError("does not compile", log="..."), Status.BUILD_ERROR),
        (LaunchError("CUDA_ERROR_ILLEGAL_ADDRESS", "grouped"), Status.LAUNCH_ERROR),
    ],
)
def test_what_ends_a_case_is_its_status(session, monkeypatch, error, status):
    def fail(plan):
        raise error

    monkeypatch.setattr(session, "prepare", fail)
    record = record_of(GATE, session)
    assert (record.status, record.correctness.reason) == (status, error.message)
    assert has_no_time(record)


def test_a_file_that_fails_ends_the_run_with_its_own_code(session, monkeypatch):
    def fail(plan):
        raise OpenError("the file shrank")

    monkeypatch.setattr(session, "prepare", fail)
    with pytest.raises(OpenError, match="shrank"):
        record_of(GATE, session)


def test_no_kernel_and_no_fitting_shape_are_statuses(session):
    zoo = model_suite(MODELS / "format-zoo.gguf", Axes(tokens=(1,))).matching("/Q1_0").cases[0]
    assert record_of(zoo, session).status is Status.UNSUPPORTED
    odd = replace(GATE, source=replace(GATE.source, tensor=None, cols=100))
    record = record_of(odd, session)
    assert record.status is Status.SKIPPED
    assert "n_cols is 100" in record.correctness.reason


def test_hot_weights_stay_in_the_cache(session):
    record = record_of(replace(GATE, cache="hot"), session)
    assert (record.protocol.cache, record.protocol.reuse_distance_x_l2) == ("hot", 0)


def test_flushed_weights_come_from_memory(session, monkeypatch):
    flushes = []
    session.__dict__["cache_flush"] = lambda: flushes.append(1)
    record = record_of(replace(GATE, cache="cold-flush"), session)
    assert (record.protocol.cache, record.protocol.reuse_distance_x_l2) == ("cold-flush", 2.0)
    assert len(flushes) == record.protocol.samples_n + record.protocol.warmup_n
    assert record.timing.hot_ns is None


class Timers:
    """Stands for the timers of a GPU: notes what they are made of and runs every launch once."""

    def __init__(self, monkeypatch):
        self.made = []
        for name in ("GraphTimer", "FlushTimer"):
            monkeypatch.setattr(run_module, name, lambda *arguments, name=name: self.make(name, *arguments))

    def make(self, name, enqueue, n_launches, *rest):
        for i in range(n_launches):
            enqueue(i, None)
        self.made.append((name, n_launches, rest))


@pytest.mark.parametrize(
    ("cache", "timer"), [("cold", "GraphTimer"), ("hot", "GraphTimer"), ("cold-flush", "FlushTimer")]
)
@pytest.mark.parametrize("slowdown", [0.0, 0.5])
def test_launches_of_a_gpu_are_replayed_or_flushed(session, monkeypatch, cache, timer, slowdown):
    timers, flush, runs = Timers(monkeypatch), object(), []
    session.__dict__["cache_flush"] = flush
    session.settings = replace(session.settings, slowdown=slowdown)
    case = replace(GATE, cache=cache)
    bench = run_module._load(case, session)
    rotation = run_module._rotation(case, bench, session)
    bench.workload.weights.extend([bench.workload.weights[0]] * (rotation.n_copies - 1))
    real = cpu.execute
    monkeypatch.setattr(cpu, "execute", lambda *arguments: (runs.append(1), real(*arguments)))
    monkeypatch.setattr(session.engine, "device", replace(session.engine.device, backend="cuda"))
    run_module._timer(bench, rotation, session)
    ((name, n_launches, rest),) = timers.made
    assert (name, n_launches) == (timer, rotation.launches_per_sample)
    assert rest == ((flush, run_module.reset_persisting_l2) if cache == "cold-flush" else ())
    assert len(runs) == n_launches + round(slowdown * n_launches)


def test_a_cold_case_is_seen_hot_too_and_the_rest_of_its_timing_is_whole(session):
    record = record_of(GATE, session)
    assert record.timing.hot_ns > 0
    assert record.timing.mde_rel > 0
    assert record.work.bound in ("mem", "launch", "compute")
    assert record.env.canary_least_gbps is None  # no data sheet of a CPU


def test_a_slowdown_that_is_asked_for_is_in_the_times_and_in_the_version(session):
    session.settings = replace(session.settings, slowdown=0.5)
    assert record_of(GATE, session).ids.kernel.version.endswith("+slowed-0.5")


def test_the_plan_of_the_record_is_the_plan_that_ran(session):
    record = record_of(DOWN, session)
    plan = Plan.select(DOWN.descriptor, session.engine.device)
    assert (record.kernel.sku, record.kernel.engine) == (plan.sku.name, "cpu")
    assert record.kernel.precision.error_constant == plan.precision_guarantee.error_constant
