"""The README against the program."""

import re
from pathlib import Path

import pytest

from mmvq_cli.cli.app import COMMANDS, EXIT_CODES, run
from mmvq_cli.errors import ExitCode
from mmvq_cli.suite import known_suites
from scripts.refresh_readme import refreshed, twins_table

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def example():
    section = README.split("## From Python")[1].split("\n## ")[0]
    return re.search(r"```python\n(.*?)```", section, re.DOTALL)[1]


def test_the_python_example_runs_and_is_right(capsys):
    names = {}
    exec(compile(example(), "README.md", "exec"), names)
    assert names["output"].shape == (1, 8)
    assert float(capsys.readouterr().out) < 1e-4  # two orders of summing 64 f32 terms


def test_the_python_example_is_about_ten_lines():
    assert len([line for line in example().splitlines() if line.strip()]) <= 12


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_stands_in_the_readme(command):
    assert f"| `mmvq {command}" in README


@pytest.mark.parametrize("command", re.findall(r"mmvq ([a-z]+)", README))
def test_every_command_of_the_readme_exists(command):
    assert command in COMMANDS


def test_every_option_of_the_readme_exists(capsys):
    helps = ""
    for command in COMMANDS:
        run([command, "--help"])
        helps += capsys.readouterr().out
    options = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", README)) - {"--help"}
    assert options
    assert {option for option in options if option not in helps} == set()


def test_links_of_the_readme_lead_somewhere():
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", README) if "://" not in link]
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_suites_are_described_in_their_files():
    for name in known_suites():
        assert (ROOT / "configs" / "suites" / f"{name}.toml").read_text().startswith("# ")


def test_the_exit_codes_are_named_in_words():
    assert EXIT_CODES.count("·") == len(ExitCode) - 1


def test_the_tables_are_what_the_committed_records_say():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert refreshed(text) == text, "run python -m scripts.refresh_readme"


def test_times_stand_beside_the_bytes():
    cases = "gpt-oss-20b/gate/MXFP4-e32k4-2880x2880-t16-{}-f16"
    times_ns = {cases.format("uniform"): 2000.0, cases.format("twin:gpt-oss;compose=chunk"): 1500.0}
    row = next(line for line in twins_table(times_ns).splitlines() if line.startswith("| gpt-oss"))
    _, _, uniform, requests, in_a_row, _ = row.split("|")
    assert uniform.strip().endswith("MiB, 2.0 µs")
    assert "µs" not in requests
    assert in_a_row.strip().endswith(" %), 1.5 µs (-25 %)")
