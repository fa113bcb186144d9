"""Presets: the expert shapes of released models, from `configs/models/*.toml`, to bench without their files."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType

from mmvq_cli.errors import UsageError
from mmvq_cli.op.formats import FORMATS, Format, find_format
from mmvq_cli.resources import resource_root

# The types of llama.cpp's Q4_K_M, where it takes Q6_K for about half of the down tensors.
_DEFAULT_FORMATS = {"gate": "Q4_K", "up": "Q4_K", "down": "Q6_K"}
# What llama-quantize takes instead when the columns are no multiple of 256.
_FALLBACKS = {"Q2_K": "Q4_0", "Q3_K": "Q4_0", "Q4_K": "Q5_0", "Q5_K": "Q5_1", "Q6_K": "Q8_0"}


@dataclass(frozen=True, slots=True)
class Preset:
    """The experts of one released model: `n_ff` is the width of one expert, `top_k` the experts per token.

    `gated` is false where the activation has no gate tensor; `source` says where the numbers are from.
    """

    name: str
    title: str
    architecture: str
    n_layers: int
    n_embd: int
    n_ff: int
    n_experts: int
    top_k: int
    source: str
    format: str | None = None
    gated: bool = True

    @property
    def shapes(self) -> Mapping[str, tuple[int, int]]:
        """(rows, cols) of one expert for each role."""
        wide, narrow = (self.n_ff, self.n_embd), (self.n_embd, self.n_ff)
        return {"gate": wide, "up": wide, "down": narrow} if self.gated else {"up": wide, "down": narrow}

    @property
    def formats(self) -> Mapping[str, Format]:
        """The format of each role: the released one, else Q4_K_M's, with llama-quantize's fallback for odd rows."""
        return {
            role: _fitting(find_format(self.format or _DEFAULT_FORMATS[role]), cols)
            for role, (_, cols) in self.shapes.items()
        }


def _fitting(wanted: Format, n_cols: int) -> Format:
    return wanted if n_cols % wanted.block_size == 0 else FORMATS[_FALLBACKS[wanted.name]]


@cache
def load_presets() -> Mapping[str, Preset]:
    """Read all presets, by name, sorted."""
    found = {}
    for path in sorted((resource_root("configs") / "models").glob("*.toml")):
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
        found.update({name: Preset(name=name, **table) for name, table in tables.items()})
    return MappingProxyType(dict(sorted(found.items())))


def find_preset(name: str) -> Preset:
    """Return the preset called `name` (case is ignored); raises `UsageError` with the nearest names."""
    presets = load_presets()
    if name.lower() not in presets:
        near = difflib.get_close_matches(name.lower(), presets, n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(near)}? " if near else ""
        raise UsageError(f"no preset is called {name}", f"{hint}`mmvq list presets` shows all of them")
    return presets[name.lower()]
