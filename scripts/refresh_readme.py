"""Write the tables of README.md from the committed records and suites, so that no number in them is typed.

`python -m scripts.refresh_readme` after committing a newer decode or twins run to results/.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from mmvq_cli.record import Record, Status, read_records, write_whole
from mmvq_cli.report import render
from mmvq_cli.suite import Case, load_suite

ROOT = Path(__file__).resolve().parents[1]
SHOWN_TOKENS = (1, 8, 64, 256)
TWIN_TOKENS = 16
TWIN_DRAWS = 16


def refreshed(text: str) -> str:
    """README's text with what is between the markers replaced."""
    for name, table in (("twins", newest_twins_table()), ("speed", speed_table())):
        begin, end = f"<!-- {name}: begin -->\n", f"<!-- {name}: end -->"
        head, rest = text.split(begin)
        text = f"{head}{begin}{table}{end}{rest.split(end)[1]}"
    return text


def speed_table() -> str:
    """The newest decode run of an H200 as Markdown, at a few batch sizes."""
    newest = max((ROOT / "results").glob("*-nvidia-h200-decode-*.jsonl.gz"))
    records: list[Record] = [r for r in read_records(newest) if r.axes.n_tokens in SHOWN_TOKENS]
    return f"From `results/{newest.name}`:\n\n{render(records, 'md')}"


def newest_twins_table() -> str:
    """What skew makes of bytes, and of time where a twins run of a GPU is committed."""
    runs = sorted((ROOT / "results").glob("*-nvidia-*-twins-*.jsonl.gz"))
    if not runs:
        return twins_table({})
    records = [record for record in read_records(runs[-1]) if record.timing and record.status is Status.PASSED]
    times_ns = {record.ids.case_id: record.timing.gpu_ns.median for record in records if record.timing}
    return f"Times from `results/{runs[-1].name}`:\n\n{twins_table(times_ns)}"


def twins_table(times_ns: Mapping[str, float]) -> str:
    """Bytes of weights that one matrix reads under three routings, and the times by case id, beside uniform's."""
    by_model: dict[str, list[Case]] = {}
    for case in load_suite("twins", {}).cases:
        if case.n_tokens == TWIN_TOKENS and not case.is_down:
            by_model.setdefault(case.source.model, []).append(case)
    lines = [
        f"| model | uniform | {TWIN_TOKENS} requests | {TWIN_TOKENS} in a row |",
        "|---|---|---|---|",
    ]
    for model, cases in by_model.items():
        uniform = cases[0]
        cells = [_cell(case, uniform, times_ns) for case in cases]
        lines.append(f"| {model} | {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


def _cell(case: Case, uniform: Case, times_ns: Mapping[str, float]) -> str:
    n_bytes = _touched_bytes(case)
    parts = [f"{n_bytes / 2**20:.0f} MiB" + _change(n_bytes, _touched_bytes(uniform))]
    if case.id in times_ns and uniform.id in times_ns:
        parts.append(f"{times_ns[case.id] / 1e3:.1f} µs" + _change(times_ns[case.id], times_ns[uniform.id]))
    return ", ".join(parts)


def _change(value: float, reference: float) -> str:
    return "" if value == reference else f" ({100 * (value / reference - 1):+.0f} %)"


def _touched_bytes(case: Case) -> float:
    """Mean over draws of the bytes of the experts that a batch goes to."""
    touched = [len(np.unique(case.draw_routing(index).ids)) for index in range(TWIN_DRAWS)]
    return float(np.mean(touched)) * case.descriptor.expert_bytes


if __name__ == "__main__":
    readme = ROOT / "README.md"
    write_whole(readme, refreshed(readme.read_text(encoding="utf-8")))
