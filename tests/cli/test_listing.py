"""`mmvq list`."""

import json

import pytest

from mmvq_cli.cli.app import run
from mmvq_cli.cli.listing import Kind
from mmvq_cli.model import load_presets
from mmvq_cli.op import FORMATS
from mmvq_cli.suite import known_suites


def listed(kind, capsys):
    assert run(["list", kind, "-o", "json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_formats_with_kernels_and_those_without_and_why(capsys):
    rows = {row["format"]: row for row in listed("formats", capsys)}
    assert [name for name, row in rows.items() if row["kernel"] == "yes"] == list(FORMATS)
    assert rows["Q4_K"] | {"kernel": 0} == {
        "format": "Q4_K", "id": 12, "block": 256, "bytes": 144, "bits/weight": 4.5, "kernel": 0,
    }  # fmt: skip
    assert "activation format" in rows["Q8_1"]["kernel"]
    assert rows["Q2_0"]["id"] == 42


def test_presets_suites_and_kernels(capsys):
    assert [row["preset"] for row in listed("presets", capsys)] == list(load_presets())
    assert [row["suite"] for row in listed("suites", capsys)] == list(known_suites())
    assert {row["engine"] for row in listed("kernels", capsys)} == {"cpu", "cuda"}


@pytest.mark.parametrize("kind", list(Kind))
def test_every_kind_as_table_and_markdown_has_the_same_cells(kind, capsys):
    rows = listed(kind, capsys)
    assert run(["list", kind]) == 0
    table = capsys.readouterr().out.splitlines()
    assert len(table) == len(rows) + 1
    assert all(str(next(iter(row.values()))) in line for row, line in zip(rows, table[1:], strict=True))
    assert run(["list", kind, "-o", "md"]) == 0
    markdown = capsys.readouterr().out.splitlines()
    assert len(markdown) == len(rows) + 2
    assert len({line.count(" | ") for line in markdown}) == 1


def test_an_unknown_output_is_a_usage_error(capsys):
    assert run(["list", "formats", "-o", "csv"]) == 2
    assert "table, md or json" in capsys.readouterr().err
