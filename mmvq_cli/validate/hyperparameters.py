"""Typed access to the metadata of a model that may lie: a wrong type is None, never an exception."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from mmvq_cli.model import ArrayValue, Header
from mmvq_cli.model.header import Value
from mmvq_cli.op.ggml import Keys


class Hyperparameters:
    """The keys of one architecture, merged from all files (the first one wins)."""

    def __init__(self, headers: tuple[Header, ...]) -> None:
        self.path: Path = headers[0].path
        merged: dict[str, Value] = {}
        for header in headers:
            merged = {**header.metadata, **merged}
        self.values: Mapping[str, Value] = merged
        name = merged.get(Keys.General.ARCHITECTURE)
        self.architecture = name if isinstance(name, str) and name.isprintable() else ""

    def key(self, name: str) -> str:
        """The whole key of a hyperparameter such as `expert_count`."""
        return f"{self.architecture}.{name}"

    def get(self, name: str) -> Value | None:
        """The value as the file has it, None when it is missing."""
        return self.values.get(self.key(name))

    def integer(self, name: str) -> int | None:
        """The value when it is one integer."""
        value = self.get(name)
        return value if type(value) is int else None

    def of_layer(self, name: str, layer: int) -> int | None:
        """The integer for `layer`, from a number or from an array with one number a layer."""
        value = self.get(name)
        if isinstance(value, tuple):
            value = value[layer] if layer < len(value) else None
        return value if type(value) is int else None

    def shown(self, name: str) -> str:
        """The key and its value, for messages."""
        value = self.get(name)
        if isinstance(value, ArrayValue):
            value = f"an array of {value.length}"
        return f"{self.key(name)} is {'missing' if value is None else str(value)[:80]}"
