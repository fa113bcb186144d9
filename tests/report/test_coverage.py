import io

import pytest
from rich.console import Console

from mmvq_cli.record import Status
from mmvq_cli.report import terminal_table
from mmvq_cli.report.coverage import coverage
from tests.record.factory import make_record


def untimed(status=Status.PASSED, **changes):
    return make_record(status, timing=None, **changes)


def printed(records):
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(terminal_table(records))
    return console.export_text()


def test_counts_and_worst_values_are_by_format():
    q4, q6 = coverage(
        [
            untimed(correctness__bound_used_pct=20.0, correctness__nmse=1e-14),
            untimed(correctness__bound_used_pct=70.0, correctness__nmse=5e-15),
            untimed(axes__dtype="f16", correctness__nmse=4e-8),
            untimed(axes__rows_m=1, correctness__nmse=0.5),
            untimed(Status.WRONG_RESULT, correctness__bound_used_pct=1e6, correctness__nmse=1.0),
            untimed(Status.OUT_OF_MEMORY),
            untimed(Status.UNSUPPORTED, axes__ggml_type="Q6_K", correctness__bound_used_pct=None),
        ]
    )
    assert (q4.format, q4.cases, q4.passed, q4.wrong, q4.not_run) == ("Q4_K", 6, 4, 1, 1)
    assert q4.worst_bound_used_pct == 70.0
    assert q4.worst_nmse == {"f32": 1e-14, "f16": 4e-8}
    assert (q6.cases, q6.passed, q6.not_run, q6.worst_bound_used_pct) == (1, 0, 1, None)


def test_hundreds_of_untimed_records_become_a_line_per_format():
    records = [untimed(axes__ggml_type=name) for name in ("Q4_K", "MXFP4") for _ in range(150)]
    text = printed(records)
    assert len(text.splitlines()) == 4
    assert "MXFP4" in text
    assert max(map(len, text.splitlines())) <= 100


def test_what_did_not_pass_is_shown_in_full():
    failed = untimed(Status.WRONG_RESULT, axes__tensor_name="nonfinite", ids__case_id="check/Q4_K/f32-nonfinite")
    text = printed([untimed()] * 300 + [failed])
    assert "check/Q4_K/f32-nonfinite: WRONG_RESULT, it was made so" in text
    assert "more that did not pass" not in text
    assert "and 10 more that did not pass" in printed([untimed()] * 300 + [failed] * 60)


@pytest.mark.parametrize("records", [[make_record()] * 300, [untimed()] * 200], ids=["timed", "few"])
def test_timed_or_few_records_stay_rows(records):
    assert len(printed(records).splitlines()) > len(records)
