import csv
import io
import json
from pathlib import Path

import pytest

from mmvq_cli.errors import OpenError, UsageError
from mmvq_cli.record import Record, Status, read_records
from mmvq_cli.report import COLUMNS, OUTPUT_FORMATS, export, frame, parse_export, render
from tests.record.factory import make_record

RECORDS = [
    make_record(timing__ci95_rel=1 / 3),
    make_record(Status.WRONG_RESULT, axes__ggml_type="Q6_K", axes__n_tokens=8),
    make_record(Status.UNSUPPORTED, axes__ggml_type="Q1_0", kernel=None, work=None),
]


def test_csv_has_every_named_column_in_full_precision():
    rows = list(csv.DictReader(io.StringIO(render(RECORDS, "csv"))))
    assert list(rows[0]) == [column.name for column in COLUMNS if column.name]
    assert float(rows[0]["ci95_rel"]) == 1 / 3
    assert float(rows[0]["time_ns"]) == 6420.5
    assert [row["bytes_unique"] for row in rows] == ["7077888", "7077888", ""]
    assert [row["status"] for row in rows] == ["PASSED", "WRONG_RESULT", "UNSUPPORTED"]
    assert rows[1]["time_ns"] == rows[1]["gbps_unique"] == ""
    assert rows[0]["dtype"] == "f32"


def test_json_and_jsonl_hold_whole_records():
    assert [Record.from_json(json.dumps(item)) for item in json.loads(render(RECORDS, "json"))] == RECORDS
    assert [Record.from_json(line) for line in render(RECORDS, "jsonl").splitlines()] == RECORDS


def test_markdown_is_a_table_with_title_and_reasons():
    text = render([*RECORDS, make_record(axes__tensor_name="a|b", axes__rows_m=9)], "md")
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert {line.replace("\\|", "").count("|") for line in lines} == {lines[0].count("|")}
    assert lines[1].startswith("| :-- |")
    assert "**768×2048**" in text
    assert "a\\|b" in text
    assert "- Q4_K-f32-e128k8-768x2048-t1-uniform: UNSUPPORTED, it was made so" in text


def test_the_table_has_no_escape_sequences_and_no_trailing_blanks():
    text = render(RECORDS, "table")
    assert "\x1b" not in text
    assert all(line == line.rstrip() for line in text.splitlines())
    assert "ok 12%" in text


@pytest.mark.parametrize("output_format", OUTPUT_FORMATS)
def test_no_record_is_no_error(output_format):
    assert isinstance(render([], output_format), str)


def test_frame_keeps_integers_and_none():
    table = frame(RECORDS)
    assert table.loc[0, "bytes_unique"] == 7077888
    assert isinstance(table.loc[0, "bytes_unique"], int)
    assert table.loc[2, "bytes_unique"] is None


@pytest.mark.parametrize("output_format", OUTPUT_FORMATS)
def test_exports_are_what_is_rendered(output_format, tmp_path):
    path = export(RECORDS, f"{output_format}:{tmp_path / 'sub' / 'out'}")
    assert path.read_text(encoding="utf-8") == render(RECORDS, output_format)


def test_an_exported_jsonl_reads_back(tmp_path):
    assert list(read_records(export(RECORDS, f"jsonl:{tmp_path / 'out.jsonl'}"))) == RECORDS


def test_export_targets():
    assert parse_export("csv:a:b.csv") == ("csv", Path("a:b.csv"))
    for text, word in (("csv", "no path"), ("csv:", "no path"), ("xls:out", "'xls' does not exist"), (":x", "''")):
        with pytest.raises(UsageError, match=word):
            parse_export(text)
    with pytest.raises(UsageError, match="does not exist"):
        render(RECORDS, "xml")


def test_a_path_that_cannot_be_written_is_an_error(tmp_path):
    with pytest.raises(OpenError, match="cannot write"):
        export(RECORDS, f"md:{tmp_path}")
