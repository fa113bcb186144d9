"""Records as blocks of text cells: what is constant goes to titles, what differs stays in columns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from textwrap import shorten

from mmvq_cli.record import Record, Status
from mmvq_cli.report.columns import COLUMNS, Column, Place
from mmvq_cli.report.machine import machine_words

# The record has all of it: a compiler's log is longer than a table.
_LONGEST_REASON = 300
# A row is named by these even when they are constant.
_ALWAYS = ("format", "tokens")


@dataclass(frozen=True, slots=True)
class Block:
    """Rows under one title; each cell stands under the column of the same place."""

    title: str
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, slots=True)
class Layout:
    """A whole table as text: a title of what is constant, blocks that share columns and widths, and notes."""

    title: str
    columns: tuple[Column, ...]
    widths: tuple[int, ...]
    blocks: tuple[Block, ...]
    notes: tuple[str, ...]


def lay_out(records: Sequence[Record], width: int | None = None) -> Layout:
    """Arrange at least one record within `width` characters (None: no limit) by leaving out minor columns."""
    conditions = [column for column in COLUMNS if column.place is Place.CONDITION]
    keys = [column for column in COLUMNS if column.place is Place.KEY]
    results = [column for column in COLUMNS if column.place is Place.RESULT]
    folded = [c for c in (*conditions, *keys) if c.header not in _ALWAYS and len(_texts(c, records)) == 1]
    kept = [c for c in keys if c not in folded] + [c for c in results if any(c.value(r) is not None for r in records)]
    columns, left_out = _fit(kept, records, width)
    varying = [column for column in conditions if column not in folded]
    groups: dict[str, list[Record]] = {}
    for record in records:
        groups.setdefault(_labels(varying, record), []).append(record)
    return Layout(
        title=" · ".join(filter(None, [_environment(records), _labels(folded, records[0])])),
        columns=tuple(columns),
        widths=_widths(columns, records, width),
        blocks=tuple(
            Block(title, tuple(tuple(column.text(record) for column in columns) for record in group))
            for title, group in groups.items()
        ),
        notes=(*_explanations(records), *([f"left out for want of width: {', '.join(left_out)}"] if left_out else [])),
    )


def _texts(column: Column, records: Sequence[Record]) -> set[str]:
    return {column.text(record) for record in records}


def _width(column: Column, records: Sequence[Record]) -> int:
    return max(len(column.header), *map(len, _texts(column, records)))


def _fit(columns: list[Column], records: Sequence[Record], width: int | None) -> tuple[list[Column], list[str]]:
    """Leave out droppable columns until the rest, one space apart, is at most `width` wide."""
    kept, left_out = list(columns), []
    while width is not None and sum(_width(column, records) + 1 for column in kept) - 1 > width:
        victim = max(kept, key=lambda column: column.drop)
        if not victim.drop:
            break
        kept.remove(victim)
        left_out.append(victim.header)
    return kept, left_out


def _widths(columns: Sequence[Column], records: Sequence[Record], width: int | None) -> tuple[int, ...]:
    """Width of each column; the widest one gives way when the sum is still too large."""
    widths = [_width(column, records) for column in columns]
    if width is not None:
        widest = widths.index(max(widths))
        excess = max(0, sum(widths) + len(widths) - 1 - width)
        widths[widest] = max(1, widths[widest] - excess)
    return tuple(widths)


def _labels(columns: Sequence[Column], record: Record) -> str:
    present = [column for column in columns if column.value(record) is not None]
    return " · ".join(column.label.format(column.show(column.value(record))) for column in present)


def _environment(records: Sequence[Record]) -> str:
    """Say what the run ran on, beside the device's name."""
    env, kernel = records[0].env, records[0].kernel
    return " · ".join(
        filter(
            None,
            [
                f"mmvq {env.mmvq}",
                f"driver {env.driver}" if env.driver else "",
                *machine_words(records),
                kernel.dequantizer if kernel else "",
            ],
        )
    )


def _explanations(records: Sequence[Record]) -> list[str]:
    """Say why cases did not pass, one line for each reason."""
    cases: dict[str, list[str]] = {}
    for record in records:
        if record.status is not Status.PASSED:
            needed = record.correctness.needed_gib
            reason = shorten(record.correctness.reason or "", _LONGEST_REASON, placeholder=" …")
            why = f"{record.status}, {reason}{f' (needs {needed:.2f} GiB)' if needed else ''}"
            cases.setdefault(why, []).append(record.ids.case_id)
    return [f"{ids[0]}{f' and {len(ids) - 1} more' if len(ids) > 1 else ''}: {why}" for why, ids in cases.items()]
