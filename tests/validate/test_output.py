"""A report in every output format, read back by a parser of that format."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest

from mmvq_cli.errors import UsageError
from mmvq_cli.validate import CHECKS, LAYERS, OUTPUTS, Report, Severity, choose, find_check, render
from mmvq_cli.validate.findings import Finding, Place

PLACE = Place(Path("a,b.gguf"), 77, "blk.0.ffn|up\x1b[31m", 3, 4, 5)
FINDINGS = (
    Finding("blocks.dead-expert", Severity.ERROR, "50 % of it\nis <zero>", PLACE, "0"),
    Finding("moe.router-type", Severity.WARNING, "is F16", Place(Path("a,b.gguf"))),
    Finding("moe.mixed-types", Severity.INFO, "differs\x00", PLACE),
)
REPORT = Report(("a,b.gguf",), "toy", 3, 2, 100, 90, 9, 0.5, tuple(choose((), ())), FINDINGS, ("the tokenizer",))


@pytest.mark.parametrize("output", OUTPUTS)
def test_every_format_names_every_finding(output):
    text = render(REPORT, output)
    assert all(finding.check in text for finding in FINDINGS)
    assert "\x1b" not in text
    assert "\x00" not in text


def test_tables_say_what_was_not_checked_and_stay_narrow():
    for output in ("table", "md", "json"):
        assert "the tokenizer" in render(REPORT, output)
    assert max(map(len, render(REPORT, "table").splitlines())) <= 100


def test_json_and_jsonl():
    document = json.loads(render(REPORT, "json"))
    assert document["counts"] == {"error": 1, "warning": 1, "info": 1}
    assert document["findings"][0]["place"]["offset"] == 77
    assert [json.loads(line)["check"] for line in render(REPORT, "jsonl").splitlines()] == [f.check for f in FINDINGS]


def test_junit():
    suite = ElementTree.fromstring(render(REPORT, "junit"))
    assert suite.attrib["tests"] == str(len(REPORT.checks))
    assert {case.attrib["name"] for case in suite if case.find("failure") is not None} == {
        "blocks.dead-expert",
        "moe.router-type",
    }


def test_github_commands_are_one_line_each():
    lines = render(REPORT, "github").splitlines()
    assert lines[0].startswith("::error file=a%2Cb.gguf,title=blocks.dead-expert::")
    assert "50 %25 of it\\nis" in lines[0]
    assert [line.split()[0] for line in lines] == ["::error", "::warning", "::notice"]


def test_sarif():
    (run,) = json.loads(render(REPORT, "sarif"))["runs"]
    rules = [rule["id"] for rule in run["tool"]["driver"]["rules"]]
    assert all(result["ruleId"] in rules for result in run["results"])
    assert run["results"][0]["locations"][0]["physicalLocation"]["region"]["byteOffset"] == 77


def test_an_unknown_format():
    with pytest.raises(UsageError, match="yaml"):
        render(REPORT, "yaml")


def test_choosing_checks():
    assert set(choose((), ())) == {check.id for check in CHECKS.values() if check.layer in LAYERS}
    assert set(choose(("moe.gating", "blocks"), ("blocks",))) == {"moe.gating"}
    assert "against.error" in choose(("structure",), (), ("against",))
    for names in (("nothing",), ("moe.nothing",)):
        with pytest.raises(UsageError):
            choose(names, ())


@pytest.mark.parametrize("check", CHECKS)
def test_every_check_explains_itself(check):
    assert len(find_check(check).explanation) > 40
    assert find_check(check).explanation.endswith(".")


def test_the_page_has_every_check():
    page = (Path(__file__).parents[2] / "docs" / "validate.md").read_text()
    rows = [f"| `{check.id}` | {check.severity} | {check.explanation} |" for check in CHECKS.values()]
    assert [row for row in rows if row not in page] == []
