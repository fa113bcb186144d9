"""Comparisons for CI: JUnit test cases with properties, GitHub annotations and the job's summary."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Sequence

from mmvq_cli.compare import Comparison, RowResult, Verdict
from mmvq_cli.report.compare_columns import ORDER, percent, summary

_MOST_ANNOTATIONS = 10  # of one kind that GitHub shows for a step
_FAILURES = {Verdict.WRONG: "correctness", Verdict.REGRESSED: "regression"}
_ERRORS = {Verdict.INVALID: "not-comparable", Verdict.MISSING: "missing"}
_SKIPPED = (Verdict.INCONCLUSIVE, Verdict.NEW)
_LEVELS = {
    Verdict.WRONG: "error",
    Verdict.REGRESSED: "error",
    Verdict.INVALID: "warning",
    Verdict.MISSING: "warning",
}
_PROPERTIES = ("base_ns", "head_ns", "ratio", "low", "high", "detectable", "tau", "reason")


def junit(comparisons: Sequence[Comparison]) -> str:
    """Write one test suite for each comparison and one test case for each row.

    Wrong and slower rows are failures, rows that could not be compared are errors, unknown and new ones are skipped.
    """
    root = ET.Element("testsuites", name="mmvq")
    for comparison in comparisons:
        suite = ET.SubElement(root, "testsuite", name=f"{comparison.head} against {comparison.base}")
        counts = {"tests": len(comparison.rows), "failures": 0, "errors": 0, "skipped": 0}
        for row in comparison.rows:
            kind = _add_case(suite, row, comparison.method)
            if kind:
                counts[kind] += 1
        if comparison.suite:
            case = ET.SubElement(suite, "testcase", classname=f"mmvq.{comparison.method}", name="geomean")
            counts["tests"] += 1
            if comparison.suite.verdict is Verdict.REGRESSED:
                counts["failures"] += 1
                ET.SubElement(case, "failure", type="regression", message=percent(comparison.suite.ratio))
        suite.attrib.update({name: str(n) for name, n in counts.items()})
    ET.indent(root, " ")
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ET.tostring(root, encoding="unicode") + "\n"


def _add_case(suite: ET.Element, row: RowResult, method: str) -> str:
    """Append a test case; the name of the count that it belongs to, "" for one that passed."""
    case = ET.SubElement(suite, "testcase", classname=f"mmvq.{method}", name=row.case_id)
    if row.head_ns is not None:
        case.set("time", f"{row.head_ns / 1e9:.9f}")
    properties = ET.SubElement(case, "properties")
    for name in _PROPERTIES:
        value = getattr(row, name)
        if value is not None:
            ET.SubElement(properties, "property", name=name, value=str(value))
    message = _message(row)
    if row.verdict in _FAILURES:
        ET.SubElement(case, "failure", type=_FAILURES[row.verdict], message=message)
        return "failures"
    if row.verdict in _ERRORS:
        ET.SubElement(case, "error", type=_ERRORS[row.verdict], message=message)
        return "errors"
    if row.verdict in _SKIPPED:
        ET.SubElement(case, "skipped", message=message)
        return "skipped"
    return ""


def github_annotations(comparisons: Sequence[Comparison]) -> str:
    """Write workflow commands: an error or warning for the ten worst rows of each kind, and a notice that sums up."""
    lines = []
    for comparison in comparisons:
        for level in ("error", "warning"):
            rows = [row for row in comparison.rows if _LEVELS.get(row.verdict) == level]
            rows.sort(key=lambda row: (ORDER.index(row.verdict), -(row.ratio or 0)))
            lines += [
                _command(level, f"{row.verdict} {row.case_id}", _message(row)) for row in rows[:_MOST_ANNOTATIONS]
            ]
        lines.append(_command("notice", f"mmvq {comparison.method}", summary(comparison)))
    return "".join(f"{line}\n" for line in lines)


def _message(row: RowResult) -> str:
    change = ""
    if row.ratio is not None and row.low is not None and row.high is not None:
        change = f"{percent(row.ratio)} [{100 * (row.low - 1):+.1f}, {100 * (row.high - 1):+.1f}]"
    return "; ".join(filter(None, [change, str(row.reason), row.detail]))


def _command(level: str, title: str, message: str) -> str:
    """One workflow command, with its data escaped as the runner demands."""
    return f"::{level} title={_escape(title).replace(':', '%3A').replace(',', '%2C')}::{_escape(message)}"


def _escape(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")
