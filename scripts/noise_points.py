"""Write the noise table of docs/gate.md: what the simulation assumes, and what A/A runs measured.

`python -m scripts.noise_points` after committing the lines of `mmvq gate --aa` as results/aa-<machine>.jsonl.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from mmvq_cli.compare import AaRun, read_aa
from mmvq_cli.record import write_whole
from scripts.simulate_gate import NOISES

ROOT = Path(__file__).resolve().parents[1]
BEGIN, END = "<!-- noise: begin -->\n", "<!-- noise: end -->"


def noise_table(runs: Sequence[AaRun]) -> str:
    """The assumed and the measured standard deviations as Markdown, in percent."""
    lines = ["| | session | process | launch | largest difference of identical kernels |", "|---|--:|--:|--:|--:|"]
    lines += [
        f"| assumed: {noise.name} | {_cells(noise.session, noise.process, noise.launch)} | |"
        for noise in NOISES
        if not noise.layout
    ]
    for run in runs:
        session = session_sd([other for other in runs if other.uuid == run.uuid])
        figures = _cells(session, run.process_sd, run.launch_sd)
        what = f"{run.device}, {run.time_utc[:16]}, {len(run.differences)} cases, {run.blocks} blocks"
        lines.append(f"| measured: {what} | {figures} | {100 * run.largest:.2f} |")
    return "\n".join(lines) + "\n"


def session_sd(runs: Sequence[AaRun]) -> float | None:
    """Spread between runs on one GPU of the mean ln(time) of the cases that all have; None below two runs."""
    shared = set.intersection(*(set(run.log_ns) for run in runs)) if len(runs) > 1 else set()
    if not shared:
        return None
    means = [sum(run.log_ns[case] for case in shared) / len(shared) for run in runs]
    center = sum(means) / len(means)
    return math.sqrt(sum((mean - center) ** 2 for mean in means) / (len(means) - 1))


def refreshed(text: str) -> str:
    """The page's text with the table between the markers replaced."""
    head, rest = text.split(BEGIN)
    runs = [run for path in sorted((ROOT / "results").glob("aa-*.jsonl")) for run in read_aa(path)]
    return f"{head}{BEGIN}{noise_table(runs)}{END}{rest.split(END)[1]}"


def _cells(*shares: float | None) -> str:
    return " | ".join("—" if share is None else f"{100 * share:.2f}" for share in shares)


if __name__ == "__main__":
    page = ROOT / "docs" / "gate.md"
    write_whole(page, refreshed(page.read_text(encoding="utf-8")))
