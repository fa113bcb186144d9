"""The record of a CUDA case: what the launches' facts become."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

from mmvq_cli.measure import (
    Canary,
    Conditions,
    DeviceState,
    Overheads,
    SamplingSettings,
    Weights,
    hot_rotation,
    measure,
)
from mmvq_cli.op import Plan, find_device
from mmvq_cli.record import Status
from mmvq_cli.recording import CaseRecorder
from mmvq_cli.suite import Axes, model_suite

CASE = model_suite(Path(__file__).parent / "data/models/qwen3moe-Q4_K_M.gguf", Axes(tokens=(4,))).cases[2]
H200 = find_device("H200")
FACTS = SimpleNamespace(
    entry="stream", source_sha256="a" * 64, cubin_sha256="b" * 64, registers=40, shared_bytes=1024, local_bytes=0,
    blocks_per_sm=8, waves=0.5,
)  # fmt: skip


def recorder():
    return CaseRecorder(CASE, "run", "suite", H200, 4, True)


def test_the_main_launch_is_described():
    plan, subject = Plan.select(CASE.descriptor, H200), recorder()
    before = subject.row_id
    subject.planned(plan, (SimpleNamespace(entry="combine"), FACTS))
    record = subject.failed(Status.LAUNCH_ERROR, "it broke")
    product = next(launch for launch in plan.launches if launch.entry in ("stream", "wide"))
    assert record.kernel.grid == product.grid
    assert (record.kernel.regs, record.kernel.smem_bytes, record.kernel.local_bytes) == (40, 1024, 0)
    assert record.kernel.occupancy_pct == 100 * 8 * 288 / 2048
    subject.facts = {"max_threads_per_sm": 1536}
    subject.planned(plan, (FACTS,))
    assert subject.failed(Status.TIMEOUT, "no result").kernel.occupancy_pct == 100 * 8 * 288 / 1536
    assert record.ids.kernel.source_sha256 == "a" * 64
    assert record.ids.row_id == before  # an edited source is the same row
    assert (record.protocol.timer, record.env.device.cc, record.env.device.sm_n) == ("graph", "9.0", 132)


def test_a_record_can_be_made_at_any_time():
    record = recorder().failed(Status.TIMEOUT, "no result")
    assert (record.kernel, record.work, record.timing) == (None, None, None)
    assert record.ids.kernel.name == Plan.select(CASE.descriptor, H200).sku.name
    assert (record.axes.output_rows, record.axes.model) == ("token", "qwen3moe-Q4_K_M")


class Timer:
    launches_per_sample = 16

    def __init__(self):
        self.times_ns = iter([20_000.0, 20_100.0] * 100)

    def sample(self):
        return next(self.times_ns)

    def overheads(self, time_ns):
        return Overheads(isolated_latency_ns=22_000.0, event_overhead_ns=1_280.0, launch_overhead_ns=9_000.0)


def measured_record(case=CASE):
    """The record of a case with 66 MB of weights that took 20 us on a GPU that was seen to be hot."""
    made = CaseRecorder(case, "run", "suite", H200, 4, True)
    made.planned(Plan.select(case.descriptor, H200), ())
    routings = tuple(case.draw_routing(index) for index in range(4))
    draws = tuple(SimpleNamespace(touched_experts=[0], dispatch=routing.dispatch()) for routing in routings)
    made.routed(routings, SimpleNamespace(descriptor=case.descriptor, draws=draws))
    rotation = hot_rotation([0, 1], Weights(n_experts=2, expert_bytes=33_000_000, l2_bytes=1), 16)
    settings = SamplingSettings(warmup_min_s=0.0, max_samples=20)
    m = measure(Timer(), rotation, settings, matched_canary=Canary(66_000_000, 16_000.0, (1, 1), True))
    after = DeviceState(mem_mhz=3201, power_w=500.0, temp_c=84.0, foreign_pids_n=1, ecc=True, mig=False)
    seen = Conditions(sm_start_mhz=1980, sm_min_mhz=1500, sm_end_mhz=1700, throttle_bits=0x40, after=after)
    made.placed(3, 5.0)
    made.measured(replace(m, conditions=seen), stream_gb_s=4559.0, launch_ns=1600.0, hot_ns=15_000.0)
    return made.passed()


def test_the_conditions_of_the_gpu_are_in_the_record():
    record = measured_record()
    env = record.env
    assert (env.clock_sm_mhz.start, env.clock_sm_mhz.min, env.clock_sm_mhz.end) == (1980, 1500, 1700)
    assert (env.clock_mem_mhz, env.power_w, env.temp_c, env.throttle_bits) == (3201, 500.0, 84.0, 0x40)
    assert (env.foreign_pids_n, env.ecc, env.mig) == (1, True, False)
    assert (env.canary_gbps.start, env.canary_least_gbps) == (4559.0, 4500.0)
    assert (record.protocol.order_in_block, record.protocol.budget_s) == (3, 5.0)


def test_overheads_bound_and_what_could_be_seen_are_in_the_record():
    record = measured_record()
    assert (record.timing.isolated_ns, record.timing.launch_overhead_ns) == (22_000.0, 9_000.0)
    assert (record.timing.event_overhead_ns, record.timing.hot_ns) == (1_280.0, 15_000.0)
    assert 0.03 <= record.timing.mde_rel < 0.05
    assert record.work.bound == "mem"


def test_flushed_launches_are_timed_by_events_and_are_rows_of_their_own():
    flushed = measured_record(replace(CASE, cache="cold-flush"))
    assert (flushed.protocol.timer, flushed.protocol.cache) == ("event", "cold-flush")
    assert measured_record().protocol.timer == "graph"
    assert flushed.ids.row_id != measured_record().ids.row_id


def test_a_row_that_is_slowed_on_purpose_is_no_run_of_its_machine_code():
    made = recorder()
    made.planned(Plan.select(CASE.descriptor, H200), (FACTS,))
    made.slowed(0.1)
    record = made.failed(Status.TIMEOUT, "no result")
    assert record.ids.kernel.cubin_sha256 is None
    assert record.ids.kernel.version.endswith("+slowed-0.1")


def test_the_product_is_described_even_when_the_sum_has_a_larger_grid():
    many = model_suite(Path(__file__).parent / "data/models/qwen3moe-Q4_K_M.gguf", Axes(tokens=(1024,))).cases[2]
    plan = Plan.select(many.descriptor, H200)
    product = next(launch for launch in plan.launches if launch.entry in ("stream", "wide"))
    assert max(plan.launches, key=lambda launch: launch.grid[0]) is not product
    subject = CaseRecorder(many, "run", "suite", H200, 4, True)
    subject.planned(plan, (FACTS,))
    assert subject.failed(Status.TIMEOUT, "no result").kernel.grid == product.grid
