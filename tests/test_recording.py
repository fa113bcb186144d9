"""The record of a CUDA case: what the launches' facts become."""

from pathlib import Path
from types import SimpleNamespace

from mmvq_cli.op import Plan, find_device
from mmvq_cli.record import Status
from mmvq_cli.recording import CaseRecorder
from mmvq_cli.suite import Axes, model_suite

CASE = model_suite(Path(__file__).parent / "data/models/qwen3moe-Q4_K_M.gguf", Axes(tokens=(4,))).cases[2]
H200 = find_device("H200")
FACTS = SimpleNamespace(
    entry="grouped", source_sha256="a" * 64, cubin_sha256="b" * 64, registers=40, shared_bytes=1024, local_bytes=0,
    blocks_per_sm=8, waves=0.5,
)  # fmt: skip


def recorder():
    return CaseRecorder(CASE, "run", "suite", H200, 4, True)


def test_the_main_launch_is_described():
    plan, subject = Plan.select(CASE.descriptor, H200), recorder()
    before = subject.row_id
    subject.planned(plan, (SimpleNamespace(entry="combine"), FACTS))
    record = subject.failed(Status.LAUNCH_ERROR, "it broke")
    grouped = next(launch for launch in plan.launches if launch.entry == "grouped")
    assert record.kernel.grid == grouped.grid
    assert (record.kernel.regs, record.kernel.smem_bytes, record.kernel.local_bytes) == (40, 1024, 0)
    assert record.kernel.occupancy_pct == 100 * 8 * 128 / 2048
    assert record.ids.kernel.source_sha256 == "a" * 64
    assert record.ids.row_id == before  # an edited source is the same row
    assert (record.protocol.timer, record.env.device.cc, record.env.device.sm_n) == ("graph", "9.0", 132)


def test_a_record_can_be_made_at_any_time():
    record = recorder().failed(Status.TIMEOUT, "no result")
    assert (record.kernel, record.work, record.timing) == (None, None, None)
    assert record.ids.kernel.name == Plan.select(CASE.descriptor, H200).sku.name
    assert (record.axes.output_rows, record.axes.model) == ("token", "qwen3moe-Q4_K_M")
