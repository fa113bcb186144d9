from pathlib import Path

from mmvq_cli.record import Status
from mmvq_cli.report import summary_line
from tests.record.factory import make_record


def test_every_status_counts_once():
    line = summary_line([make_record(status) for status in Status], Path("results/run.jsonl"))
    assert line == "1 passed · 1 wrong · 3 skipped · 3 broken · records: results/run.jsonl"


def test_broken_is_named_only_when_there_is_one():
    assert summary_line([make_record(), make_record()]) == "2 passed · 0 wrong · 0 skipped"
