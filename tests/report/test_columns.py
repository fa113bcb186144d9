import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmvq_cli.record import Status
from mmvq_cli.report import COLUMNS, Place, number
from tests.record.factory import make_record


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (6.42, "6.420"),
        (9.99996, "10.00"),
        (1102.387, "1102"),
        (123456.0, "123500"),
        (0.012344, "0.01234"),
        (0, "0"),
        (0.0, "0"),
        (1e-9, "1.00e-09"),
        (3.14159e12, "3.14e+12"),
        (-6.42, "-6.420"),
    ],
)
def test_numbers_have_four_significant_digits(value, text):
    assert number(value) == text


@given(st.floats(1e-4, 9e6))
def test_the_shown_number_is_within_its_digits(value):
    assert float(number(value)) == pytest.approx(value, rel=5.1e-4)
    assert len(number(value).replace(".", "").strip("0")) <= 4


def test_names_and_headers_are_unique():
    for texts in ([column.name for column in COLUMNS if column.name], [c.header for c in COLUMNS if c.header]):
        assert len(texts) == len(set(texts))


def test_every_column_is_somewhere_and_tables_have_headers():
    for column in COLUMNS:
        assert column.name or column.header
        assert bool(column.header) == (column.place is not Place.DATA_ONLY)


def test_correctness_stands_before_speed():
    headers = [column.header for column in COLUMNS if column.place is Place.RESULT]
    assert headers.index("correct") < headers.index("time µs") < headers.index("GB/s")


def test_every_column_reads_every_kind_of_record():
    bare = make_record(
        Status.UNSUPPORTED, kernel=None, work=None, axes__routing_statistics=None, axes__unique_experts=()
    )
    for record in (make_record(), make_record(Status.OUT_OF_MEMORY), bare):
        for column in COLUMNS:
            assert isinstance(column.text(record), str)


def text_of(header, record):
    return next(column for column in COLUMNS if column.header == header).text(record)


def test_cells_are_in_the_unit_of_their_header():
    record = make_record()
    assert text_of("time µs", record) == "6.420"
    assert text_of("alone µs", record) == "9.100"
    assert text_of("±95 %", record) == "0.3"
    assert text_of("SOL %", record) == "32.7"
    assert text_of("correct", record) == "ok 12%"
    assert text_of("tensor", record) == "0.up"
    assert text_of("uniq", make_record(axes__unique_experts=[7, 8])) == "7.5"


@pytest.mark.parametrize("status", [status for status in Status if status is not Status.PASSED])
def test_a_row_that_failed_has_dashes_for_times(status):
    record = make_record(status)
    assert text_of("correct", record) == status.value
    assert {text_of(header, record) for header in ("time µs", "±95 %", "GB/s", "SOL %", "launch µs")} == {"—"}
