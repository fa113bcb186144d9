"""The field table of `results/README.md`, made from the models so that it cannot drift from them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import AwareDatetime

from mmvq_cli.record.groups import Group
from mmvq_cli.record.schema import Record
from mmvq_cli.record.session import Look
from mmvq_cli.record.store import write_whole

_BEGIN, _END = "<!-- fields: begin -->\n", "<!-- fields: end -->"
_JSON_NAMES = {str: "string", int: "integer", float: "number", bool: "boolean", AwareDatetime: "time, ISO 8601 in UTC"}


def field_table() -> str:
    """Write every field of a record and of a look as Markdown tables: dotted path, type, meaning."""
    return f"{_table(Record)}\nA look:\n\n{_table(Look)}"


def refresh_field_table(readme: Path) -> None:
    """Replace the table between the two markers of `readme` by the current one."""
    text = readme.read_text(encoding="utf-8")
    begin, end = text.index(_BEGIN) + len(_BEGIN), text.index(_END)
    write_whole(readme, text[:begin] + field_table() + text[end:])


def _table(group: type[Group]) -> str:
    rows = [f"| `{path}` | {type_} | {meaning} |" for path, type_, meaning in _fields(group, "")]
    return "\n".join(["| field | type | meaning |", "|---|---|---|", *rows]) + "\n"


def _fields(group: type[Group], prefix: str) -> Iterator[tuple[str, str, str]]:
    for name, field in group.model_fields.items():
        path = prefix + (field.alias or name)
        inner = _group_in(field.annotation)
        meaning = field.description or (inner.__doc__ if inner else None) or ""
        yield path, "object" + _null(field.annotation) if inner else _type_name(field.annotation), _one_line(meaning)
        if inner:
            yield from _fields(inner, path + ".")


def _is_union(annotation: Any) -> bool:
    return get_origin(annotation) in (Union, UnionType)


def _group_in(annotation: Any) -> type[Group] | None:
    candidates = get_args(annotation) if _is_union(annotation) else (annotation,)
    return next((c for c in candidates if isinstance(c, type) and issubclass(c, Group)), None)


def _null(annotation: Any) -> str:
    return " or null" if type(None) in get_args(annotation) else ""


def _type_name(annotation: Any) -> str:
    """Name a type in the words of JSON."""
    arguments = get_args(annotation)
    if _is_union(annotation):
        return _type_name(arguments[0]) + _null(annotation)
    if get_origin(annotation) is tuple:
        return f"list of {_type_name(arguments[0])}"
    if get_origin(annotation) is dict:
        return "object"
    if get_origin(annotation) is Literal:
        return " / ".join(f"`{value}`" for value in arguments)
    if issubclass(annotation, Enum):
        return " / ".join(f"`{member.value}`" for member in annotation)
    return _JSON_NAMES[annotation]


def _one_line(text: str) -> str:
    return re.sub(r"\s+", " ", text).strip().replace("|", "\\|")
