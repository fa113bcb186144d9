"""The HTML page: whole, escaped, without network; and the geometry of its charts."""

import re
import xml.etree.ElementTree as ET
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmvq_cli.report.html_chart import Chart, Point, Series, draw
from mmvq_cli.report.html_figures import error_chart, roofline_chart, routing_chart, throughput_charts
from mmvq_cli.report.html_page import html_page
from tests.compare.records import Status, make_record


def runs(tokens=(1, 8, 64)):
    return [make_record(axes__n_tokens=n, ids__row_id=str(n), ids__case_id=f"case-t{n}") for n in tokens]


class Balance(HTMLParser):
    """Counts tags that are open."""

    VOID = frozenset({"meta", "br"})

    def __init__(self):
        super().__init__()
        self.open, self.faults = [], []

    def handle_starttag(self, tag, attrs):
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        """A closed tag changes nothing."""

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.faults.append(tag)


def test_the_page_is_whole_and_needs_no_network():
    page = html_page(runs())
    parser = Balance()
    parser.feed(page)
    assert (parser.open, parser.faults) == ([], [])
    assert page.count("<svg") == 4
    assert not re.findall(r"(?:src|href)\s*=|@import|url\(|https?://", page)
    assert "NVIDIA H200" in page


def test_the_page_says_what_holds_the_cases_and_how_steady_the_machine_was():
    page = html_page([make_record(work__bound="compute", env__canary_gbps={"start": 4560.0, "end": 4500.0})])
    assert "compute holds 1." in page
    assert "canary 4560 GB/s (drift 1.3 %)" in page
    assert ">compute</td>" in page


def test_what_did_not_pass_has_its_reason_and_no_time():
    wrong = make_record(Status.WRONG_RESULT, correctness__reason="<script>alert(1)</script>")
    page = html_page([*runs(), wrong])
    assert "WRONG_RESULT" in page
    assert "<script>" not in page
    assert "&lt;script&gt;" in page


def test_checks_alone_have_no_charts_of_time():
    page = html_page([make_record(timing=None)])
    assert "Throughput" not in page
    assert "Routing skew" in page


def test_figures_say_what_the_records_say():
    (chart,) = throughput_charts(runs())
    line, roof = chart.series
    assert [(p.x, p.y) for p in line.points] == [(1, 1102.387), (8, 1102.387), (64, 1102.387)]
    assert {p.y for p in roof.points} == {4210.0}
    (point, *_) = roofline_chart(runs()).series[0].points
    assert point.x == pytest.approx(25165824 / 7077888)
    assert point.y == pytest.approx(25165824 / 6420.5)  # FLOP / ns = GFLOP/s
    assert error_chart(runs()).series[0].points[0].y == 4.56789e-14
    assert [series.points[0].y for series in routing_chart(runs()).series] == [16.0, 16.0]
    assert error_chart([make_record(correctness__nmse=0.0)]) is None


positive = st.floats(1e-12, 1e12)


@given(st.lists(st.tuples(positive, positive), min_size=1, max_size=5), st.booleans(), st.booleans())
def test_every_point_lies_inside_the_frame(values, x_log, y_log):
    series = Series("a<b", tuple(Point(x, y) for x, y in values))
    chart = Chart(title="t", x_label="x", y_label="y", series=(series,), x_log=x_log, y_log=y_log)
    svg = ET.fromstring(draw(chart))
    circles = svg.findall("circle")[: len(values)]
    assert len(circles) == len(values)
    for circle in circles:
        assert 62 <= float(circle.get("cx")) <= 508
        assert 28 <= float(circle.get("cy")) <= 256


def test_series_differ_without_colour():
    series = tuple(Series(str(i), (Point(1, 1 + i), Point(2, 2 + i))) for i in range(4))
    svg = draw(Chart(title="t", x_label="x", y_label="y", series=series))
    assert {"<circle", "<rect", "<polygon"} & set(re.findall(r"<\w+", svg)) >= {"<circle", "<polygon"}
    assert len(set(re.findall(r'stroke-dasharray="([^"]+)"', svg))) == 4
