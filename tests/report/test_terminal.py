import io

import pytest
from rich.console import Console

from mmvq_cli.record import Status
from mmvq_cli.report import terminal_table
from tests.record.factory import make_record


def printed(records, width=100):
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(terminal_table(records, width))
    return console.export_text()


WIDE = {
    "axes__model": "a-very-long-model-name-that-somebody-gave-to-a-file-00001-of-00008.gguf",
    "timing__isolated_ns": 123_456_789.0,
    "timing__ci95_rel": 0.1234,
    "axes__unique_experts": [101, 102],
    "axes__routing_statistics__dispatches_per_touched_expert_mean": 1234.56,
    "work__gbps_unique": 12345.6,
    "work__sol_pct_measured": 101.9,
    "correctness__bound_used_pct": 99.9,
}


def wide_records():
    records = [
        make_record(
            axes__tensor_name=f"blk.{layer}.ffn_gate_up_exps.weight", axes__dtype=dtype, axes__n_tokens=tokens, **WIDE
        )
        for layer in (0, 61)
        for dtype in ("f32", "bf16")
        for tokens in (1, 100_000)
    ]
    bad = [make_record(status, axes__ggml_type="IQ2_XXS") for status in Status if status is not Status.PASSED]
    return [*records, *bad]


@pytest.mark.parametrize("records", [wide_records(), [make_record()], [make_record(Status.OUT_OF_MEMORY)]])
def test_tables_fit_100_columns(records):
    text = printed(records)
    assert max(map(len, text.splitlines())) <= 100
    assert "time µs" in text or records[0].status is not Status.PASSED


@pytest.mark.parametrize("width", [20, 60, 80, 100, 200])
def test_tables_fit_the_width_asked_for(width):
    assert max(map(len, printed(wide_records(), width).splitlines())) <= width


def test_no_number_is_cut_off():
    text = printed(wide_records())
    for number in ("6.420", "12350", "101.9", "100000", "OUT_OF_MEMORY", "61.gate_up", "101.5"):
        assert number in text


def test_a_failing_row_shows_its_status_and_reason_and_no_time():
    text = printed([make_record(), make_record(Status.WRONG_RESULT, axes__ggml_type="Q6_K", ids__case_id="bad-case")])
    row = next(line for line in text.splitlines() if line.startswith("Q6_K"))
    assert "WRONG_RESULT" in row
    assert row.split()[-5:] == ["—"] * 5
    assert "bad-case: WRONG_RESULT, it was made so" in text


def test_the_header_stands_once_over_aligned_blocks():
    text = printed([make_record(), make_record(axes__rows_m=9, axes__ggml_type="IQ2_XXS")])
    lines = text.splitlines()
    assert sum("time µs" in line for line in lines) == 1
    first, second = (next(line for line in lines if line.startswith(name)) for name in ("Q4_K", "IQ2_XXS"))
    assert first.index("ok") == second.index("ok")


def test_square_brackets_are_text():
    records = [make_record(axes__tensor_name=name) for name in ("[bold]x", "y")]
    assert "[bold]x" in printed(records)


def test_nothing_to_show():
    assert printed([]).strip() == "no records"
