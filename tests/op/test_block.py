import pytest

from mmvq_cli.op import FORMATS, Device
from mmvq_cli.op.block import blocks_for
from mmvq_cli.op.operands import operands_of
from tests.op.problems import H200, problem


@pytest.mark.parametrize(
    ("capability", "shared"),
    [((8, 0), 167_936), ((8, 9), 102_400), ((9, 0), 233_472), ((10, 3), 233_472), ((12, 0), 102_400)],
)
def test_blocks_share_a_multiprocessor(capability, shared):
    device = Device(name="GPU", backend="cuda", compute_capability=capability, sm_count=1)
    blocks = blocks_for(problem(n_cols=768), operands_of(problem()), 1, True, device)
    assert [block.per_multiprocessor for block in blocks] == [2, 1]
    for block in blocks:
        assert (block.shared_bytes + 1024) * block.per_multiprocessor == shared
        assert block.threads * block.per_multiprocessor <= block.max_threads
        assert block.share(1000) == 1000 // block.per_multiprocessor
    assert len({block.max_threads for block in blocks}) == 1  # one kernel serves both
    assert blocks[0].grid_bytes == blocks[1].grid_bytes // 2 <= shared * 3 / 16


@pytest.mark.parametrize(
    ("changes", "column_tiles"), [({"n_cols": 1024}, 1), ({"n_cols": 768}, 2), ({"n_cols": 768, "format": "F16"}, 1)]
)
def test_long_rows_wide_tiles_and_floats_have_one_block(changes, column_tiles):
    if "format" in changes:
        changes = changes | {"format": FORMATS[changes["format"]]}
    d = problem(**changes)
    assert [block.per_multiprocessor for block in blocks_for(d, operands_of(d), column_tiles, True, H200)] == [1]


def test_schedulers_have_equal_shares_unless_copies_take_long_or_work_is_short():
    def warps(has_boxes, **changes):
        d = problem(**changes)
        return [block.warps for block in blocks_for(d, operands_of(d), 1, has_boxes, H200)]

    assert warps(True) == [16]
    assert warps(False) == warps(True, m_tokens=1, m_total=8) == [14]
    assert warps(False, format=FORMATS["F16"]) == [12]
