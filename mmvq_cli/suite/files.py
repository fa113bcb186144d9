"""Suites: named TOML files. Values come from, in rising precedence: the defaults, the file, the command line."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

from mmvq_cli.errors import OpenError, UsageError
from mmvq_cli.resources import resource_root
from mmvq_cli.suite.case import Axes, Case, Suite
from mmvq_cli.suite.parse import as_text, parse_axes
from mmvq_cli.suite.sources import model_suite, preset_suite


def load_suite(name: str, given: dict[str, Any]) -> Suite:
    """The suite called `name` in configs/suites, or the TOML file at that path; `given` axes win over the file's.

    Raises `UsageError` for an unknown suite or a key that means nothing.
    """
    path = Path(name) if name.endswith(".toml") else resource_root("configs") / "suites" / f"{name}.toml"
    if not path.is_file():
        raise UsageError(f"there is no suite {name!r}", f"known: {', '.join(known_suites())}, or a path to a .toml")
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is not TOML: {error}", "configs/suites/smoke.toml is an example") from None
    except OSError as error:
        raise OpenError(f"cannot read {path}: {error.strerror}", "check the path and its permissions") from None
    unknown = sorted(set(table) - {"case", "description"})
    entries = table.get("case", [])
    if unknown or not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise UsageError(
            f"{path} has {f'the unknown key {unknown[0]!r}' if unknown else 'a case that is no table'}",
            "a suite is a description and [[case]] tables",
        )
    cases = (case for entry in entries for case in _entry_cases(entry, path, given))
    # Entries may overlap, above all when the command line narrows their axes.
    return Suite(path.stem, table.get("description", ""), tuple({case.id: case for case in cases}.values()))


def known_suites() -> tuple[str, ...]:
    """Names of the packaged suites."""
    return tuple(sorted(path.stem for path in (resource_root("configs") / "suites").glob("*.toml")))


def _entry_cases(entry: dict[str, Any], path: Path, given: dict[str, Any]) -> tuple[Case, ...]:
    values = dict(entry)
    model, preset = values.pop("model", None), values.pop("preset", None)
    formats = tuple(filter(None, as_text(values.pop("formats", "")).split(",")))
    if (model is None) == (preset is None):
        raise UsageError(f"{path}: a [[case]] needs either model or preset", "name one of them")
    axes = Axes().override(**parse_axes(values, str(path))).override(**given)
    if preset is not None:
        return preset_suite(as_text(preset), axes, formats).cases
    return model_suite(path.parent / as_text(model), axes).cases
