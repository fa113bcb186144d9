"""A report as text: table and md for people; json, jsonl, junit, github and sarif for programs."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict
from itertools import groupby
from math import isfinite
from textwrap import fill
from types import MappingProxyType
from typing import Any
from xml.etree import ElementTree

from mmvq_cli import __version__
from mmvq_cli.errors import UsageError
from mmvq_cli.validate.checks import CHECKS
from mmvq_cli.validate.findings import Finding, Place, Report, Severity

_WIDTH = 100
_MOST_SHOWN = 10  # of each check, in texts for people
_SARIF = "https://raw.githubusercontent.com/oasis-tcs/sarif-spec/main/sarif-2.1/schema/sarif-schema-2.1.0.json"
_LEVELS = {Severity.ERROR: "error", Severity.WARNING: "warning", Severity.INFO: "note"}
_COMMANDS = {Severity.ERROR: "error", Severity.WARNING: "warning", Severity.INFO: "notice"}
_NOT_XML = re.compile(r"[^\t\n\r\x20-\uD7FF\uE000-\uFFFD\U00010000-\U0010FFFF]")


def headline(report: Report) -> str:
    """The outcome in one line."""
    counts = ", ".join(f"{count} {severity}{_plural(severity, count)}" for severity, count in report.counts().items())
    return f"{counts} in {report.n_tensors} tensors ({report.n_expert_tensors} of experts)"


def _plural(severity: Severity, count: int) -> str:
    return "" if severity is Severity.INFO or count == 1 else "s"


def _speed(report: Report) -> str:
    if not report.checked_bytes:
        return f"no blocks read, {report.seconds:.2f} s"
    speed = report.checked_bytes / max(report.seconds, 1e-9) / 1e9
    size = f"{report.checked_bytes / 2**20:.1f} MiB"
    on_gpu = " on the GPU" if report.blocks_engine == "cuda" else ""
    return f"{report.checked_blocks:,} blocks in {size}, {report.seconds:.2f} s, {speed:.2f} GB/s{on_gpu}"


def _title(report: Report) -> str:
    more = f" and {len(report.files) - 1} more" if len(report.files) > 1 else ""
    return f"{report.files[0]}{more} ({report.architecture or 'unknown architecture'})"


def _where(place: Place) -> str:
    return f"{place}" + (f", byte {place.offset}" if place.offset is not None else "")


def _table(report: Report) -> str:
    lines = [_title(report), headline(report), _speed(report)]
    for check, group in groupby(report.findings, key=lambda finding: finding.check):
        found = list(group)
        lines += ["", f"{found[0].severity.upper()} {check}"]
        for finding in found[:_MOST_SHOWN]:
            lines.append(_wrapped(f"  {_clean(f'{_where(finding.place)}: {finding.message}')}"))
        if len(found) > _MOST_SHOWN:
            lines.append(f"  and {len(found) - _MOST_SHOWN} more (-o json has all)")
        lines.append(f"  mmvq validate --explain {check}")
    if report.errors_against:
        lines += ["", "relative error against the other file, worst first"]
        for error in report.errors_against[:_MOST_SHOWN]:
            worst, expert = error.worst
            formats = " against ".join(error.formats)
            numbers = f"expert {expert}: {worst:.4f}, median {_median(error.relative):.4f}"
            lines.append(f"  {_clean(error.tensor)} ({formats}): {numbers}")
    if report.kernels:
        lines += ["", "kernels here"]
        lines += [_wrapped(f"  {name}: {answer}") for name, answer in report.kernels.items()]
    lines += ["", "not checked", *(_wrapped(f"  {_clean(note)}") for note in report.not_checked)]
    return "\n".join(lines) + "\n"


def _wrapped(line: str) -> str:
    return fill(line, _WIDTH, subsequent_indent="    ")


def _median(values: tuple[float, ...]) -> float:
    return sorted(values)[len(values) // 2]


def _clean(text: str) -> str:
    """Names come from the file: no control character reaches a terminal."""
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)


def _markdown(report: Report) -> str:
    lines = [f"**{_escaped(_title(report))}**: {headline(report)}; {_speed(report)}", ""]
    if report.findings:
        lines += ["| severity | check | where | what |", "| --- | --- | --- | --- |"]
        for finding in report.findings:
            cells = (finding.severity, finding.check, _where(finding.place), finding.message)
            lines.append(f"| {' | '.join(map(_escaped, cells))} |")
        lines.append("")
    if report.errors_against:
        lines += ["| tensor | types | worst expert | relative error | median |", "| --- | --- | --: | --: | --: |"]
        for error in report.errors_against:
            worst, expert = error.worst
            formats = " against ".join(error.formats)
            numbers = f"{expert} | {worst:.4f} | {_median(error.relative):.4f}"
            lines.append(f"| {_escaped(error.tensor)} | {formats} | {numbers} |")
        lines.append("")
    if report.kernels:
        lines += ["Kernels here:", ""]
        lines += [*(f"- {name}: {_escaped(answer)}" for name, answer in report.kernels.items()), ""]
    return "\n".join([*lines, "Not checked:", "", *(f"- {_escaped(note)}" for note in report.not_checked), ""])


def _escaped(text: str) -> str:
    return re.sub(r"([|`<>*\\])", r"\\\1", _clean(text))


def _row(finding: Finding) -> dict[str, Any]:
    place = {**asdict(finding.place), "file": str(finding.place.file)}
    return {**asdict(finding), "place": place}


def _json(report: Report) -> str:
    errors = [
        {**asdict(error), "relative": [value if isfinite(value) else None for value in error.relative]}
        for error in report.errors_against
    ]
    document = {
        **asdict(report),
        "errors_against": errors,
        "findings": [_row(finding) for finding in report.findings],
        "counts": report.counts(),
        "mmvq": __version__,
    }
    return json.dumps(document, indent=1, default=str, allow_nan=False) + "\n"


def _jsonl(report: Report) -> str:
    return "".join(json.dumps(_row(finding)) + "\n" for finding in report.findings)


def _junit(report: Report) -> str:
    """One test case for each check; errors and warnings are failures, the rest passed."""
    found: dict[str, list[Finding]] = {}
    for finding in report.findings:
        found.setdefault(finding.check, []).append(finding)
    failed = [check for check in found if found[check][0].severity is not Severity.INFO]
    suite = ElementTree.Element("testsuite", name="mmvq validate", time=f"{report.seconds:.3f}")
    suite.attrib.update(tests=str(len(report.checks)), failures=str(len(failed)))
    for check in report.checks:
        case = ElementTree.SubElement(suite, "testcase", classname=_xml(report.files[0]), name=check)
        lines = [_xml(f"{_where(finding.place)}: {finding.message}") for finding in found.get(check, [])]
        if check in failed:
            failure = ElementTree.SubElement(case, "failure", type=found[check][0].severity, message=lines[0])
            failure.text = "\n".join(lines)
        elif lines:
            ElementTree.SubElement(case, "system-out").text = "\n".join(lines)
    return ElementTree.tostring(suite, encoding="unicode", xml_declaration=True) + "\n"


def _xml(text: str) -> str:
    return _NOT_XML.sub("?", text)


def _github(report: Report) -> str:
    """Workflow commands of GitHub Actions."""
    return "".join(
        f"::{_COMMANDS[finding.severity]} file={_property(str(finding.place.file))},title={finding.check}"
        f"::{_data(_clean(f'{_where(finding.place)}: {finding.message}'))}\n"
        for finding in report.findings
    )


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")


def _sarif(report: Report) -> str:
    """SARIF 2.1.0; places are byte offsets, since a model has no lines."""
    rules = [
        {
            "id": check,
            "fullDescription": {"text": CHECKS[check].explanation},
            "defaultConfiguration": {"level": _LEVELS[CHECKS[check].severity]},
        }
        for check in report.checks
    ]
    driver = {"name": "mmvq", "version": __version__, "rules": rules}
    run = {"tool": {"driver": driver}, "results": [_sarif_result(finding) for finding in report.findings]}
    return json.dumps({"$schema": _SARIF, "version": "2.1.0", "runs": [run]}, indent=1) + "\n"


def _sarif_result(finding: Finding) -> dict[str, Any]:
    physical: dict[str, Any] = {"artifactLocation": {"uri": finding.place.file.as_posix()}}
    if finding.place.offset is not None:
        physical["region"] = {"byteOffset": finding.place.offset, "byteLength": 1}
    location: dict[str, Any] = {"physicalLocation": physical}
    if finding.place.tensor:
        location["logicalLocations"] = [{"fullyQualifiedName": str(finding.place), "kind": "tensor"}]
    message = {"text": f"{finding.place}: {finding.message}"}
    return {"ruleId": finding.check, "level": _LEVELS[finding.severity], "message": message, "locations": [location]}


OUTPUTS: Mapping[str, Callable[[Report], str]] = MappingProxyType(
    {
        "table": _table,
        "md": _markdown,
        "json": _json,
        "jsonl": _jsonl,
        "junit": _junit,
        "github": _github,
        "sarif": _sarif,
    }
)


def render(report: Report, output: str) -> str:
    """Write `report` in one of `OUTPUTS`; raises `UsageError` for another."""
    if output not in OUTPUTS:
        raise UsageError(f"-o {output!r} is not an output format of validate", f"use {', '.join(OUTPUTS)}")
    return OUTPUTS[output](report)
