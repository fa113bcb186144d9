"""Comparisons written for people, programs and CI."""

import csv
import io
import json
import xml.etree.ElementTree as ET

import pytest

from mmvq_cli.compare import GateConfig, Verdict, compare
from mmvq_cli.errors import UsageError
from mmvq_cli.report.compare_columns import View, summary
from mmvq_cli.report.compare_output import COMPARE_FORMATS, comparison_markdown, render_comparisons
from tests.compare.records import Status, make_record, source, timed


@pytest.fixture(scope="module")
def comparison():
    base = [timed(c, seed=i) for i, c in enumerate("abcd")]
    head = [
        timed("a", 55_000, seed=7),
        timed("b", seed=8),
        make_record(
            Status.WRONG_RESULT, ids__row_id="row-c", ids__case_id="case-c|x", correctness__reason="50% off\nnow"
        ),
        timed("e"),
    ]
    return compare(source(*base, name="before"), source(*head, name="after"), GateConfig().limits_of)


def test_a_table_has_words_and_fits(comparison):
    text = render_comparisons([comparison], "table", View.INTERVALS)
    for word in ("REGRESSED", "SAME", "WRONG", "MISSING", "NEW", "+10", "≥3", "after against before"):
        assert word in text
    assert max(map(len, text.splitlines())) <= 100
    assert "missing in the head: 1 rows: case-d" in text


def test_views_show_more_and_more(comparison):
    simple, intervals, explain = (render_comparisons([comparison], "md", view) for view in View)
    assert "interval %" not in simple
    assert "can detect" in intervals
    assert "reason" not in intervals
    assert "beyond-threshold" in explain


def test_only_changed_leaves_out_what_is_the_same(comparison):
    text = render_comparisons([comparison], "table", only_changed=True)
    assert "case-a" in text
    assert "case-b" not in text


def test_a_bar_in_an_id_does_not_break_a_markdown_table(comparison):
    lines = comparison_markdown(comparison).splitlines()
    rows = [line for line in lines if line.startswith("|")]
    assert len({line.replace(r"\|", "").count("|") for line in rows}) == 1


def test_the_summary_counts_worst_first(comparison):
    assert summary(comparison).startswith("1 wrong · 1 missing · 1 regressed · 1 new · 1 same · geomean +")


def test_json_and_csv_have_every_row_unrounded(comparison):
    (read,) = json.loads(render_comparisons([comparison], "json"))["comparisons"]
    assert [row["verdict"] for row in read["rows"]] == [row.verdict for row in comparison.rows]
    assert read["rows"][0]["ratio"] == comparison.rows[0].ratio
    rows = list(csv.DictReader(io.StringIO(render_comparisons([comparison], "csv"))))
    assert float(rows[0]["ratio"]) == comparison.rows[0].ratio
    assert rows[0]["base"] == "before"


def test_junit_counts_and_properties(comparison):
    suite = ET.fromstring(render_comparisons([comparison], "junit")).find("testsuite")
    counts = {name: int(suite.get(name)) for name in ("tests", "failures", "errors", "skipped")}
    geomean_failed = comparison.suite.verdict is Verdict.REGRESSED
    assert counts == {"tests": 6, "failures": 2 + geomean_failed, "errors": 1, "skipped": 1}
    cases = {case.get("name"): case for case in suite.findall("testcase")}
    assert cases["case-a"].find("failure").get("type") == "regression"
    assert cases["case-c|x"].find("failure").get("type") == "correctness"
    properties = {p.get("name"): p.get("value") for p in cases["case-a"].iter("property")}
    assert float(properties["ratio"]) == pytest.approx(1.1, rel=0.01)
    assert float(properties["detectable"]) > 0.02


def test_github_commands_are_escaped_and_few(comparison):
    lines = render_comparisons([comparison], "github").splitlines()
    assert lines[0] == "::error title=WRONG case-c|x::wrong-result; 50%25 off%0Anow"
    assert lines[1].startswith("::error title=REGRESSED case-a::+10")
    assert lines[2].startswith("::warning title=MISSING case-d::")
    assert lines[-1].startswith("::notice title=mmvq unpaired::1 wrong")
    cases = [f"{i}" for i in range(15)]
    many = compare(
        source(*(timed(c) for c in cases)), source(*(timed(c, 60_000) for c in cases)), GateConfig().limits_of
    )
    assert render_comparisons([many], "github").count("::error") == 10


def test_other_formats_are_refused(comparison):
    with pytest.raises(UsageError, match="not an output format"):
        render_comparisons([comparison], "xml")
    assert "junit" in COMPARE_FORMATS
