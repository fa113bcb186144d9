from pathlib import Path

from mmvq_cli.record import field_table, refresh_field_table

README = Path(__file__).parents[2] / "results" / "README.md"


def test_the_readme_has_the_table_of_the_code():
    assert field_table() in README.read_text(encoding="utf-8"), "run the command that results/README.md names"


def test_every_field_has_a_type_and_a_meaning():
    rows = [row.split(" | ") for row in field_table().splitlines() if row.startswith("| `")]
    assert len(rows) > 100
    assert all(len(row) == 3 and all(cell.strip(" |") for cell in row) for row in rows)


def test_refresh_replaces_the_table_and_nothing_else(tmp_path):
    copy = tmp_path / "README.md"
    text = README.read_text(encoding="utf-8")
    copy.write_text(text.replace("| `axes.rows_m` |", "| `axes.wrong` |"), encoding="utf-8")
    refresh_field_table(copy)
    assert copy.read_text(encoding="utf-8") == text
