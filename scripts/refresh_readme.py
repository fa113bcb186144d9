"""Write the speed table of README.md from the committed records, so that no number in it is typed.

`python -m scripts.refresh_readme` after committing a newer decode run to results/.
"""

from __future__ import annotations

from pathlib import Path

from mmvq_cli.record import Record, read_records, write_whole
from mmvq_cli.report import render

ROOT = Path(__file__).resolve().parents[1]
BEGIN, END = "<!-- speed: begin -->\n", "<!-- speed: end -->"
SHOWN_TOKENS = (1, 8, 64, 256)


def speed_table() -> str:
    """The newest decode run of an H200 as Markdown, at a few batch sizes."""
    newest = max((ROOT / "results").glob("*-nvidia-h200-decode-*.jsonl.gz"))
    records: list[Record] = [r for r in read_records(newest) if r.axes.n_tokens in SHOWN_TOKENS]
    return f"From `results/{newest.name}`:\n\n{render(records, 'md')}"


def refreshed(text: str) -> str:
    """README's text with the table between the markers replaced."""
    head, rest = text.split(BEGIN)
    return f"{head}{BEGIN}{speed_table()}{END}{rest.split(END)[1]}"


if __name__ == "__main__":
    readme = ROOT / "README.md"
    write_whole(readme, refreshed(readme.read_text(encoding="utf-8")))
