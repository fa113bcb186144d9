"""The codebooks of the IQ and FP4 formats as CUDA source, generated from gguf's own tables and never pasted.

Layouts are chosen for the decoders in `kernels/formats`: signed values are bytes with 128 added (`kBias` there), byte
i of an entry is weight i; the grid of IQ1 holds value + 1 in nibbles.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

_BIAS = 128


@cache
def codebook_source(family: str) -> str:
    """Write the device tables that `kernels/formats/<family>.cuh` names; empty for a family without codebooks."""
    tables = _TABLES.get(family, {})
    return "".join(table(name) for name, table in tables.items())


def _grid_of(type_name: str) -> NDArray[np.int8]:
    """Unpack the grid of one IQ type with gguf-py: int8 [n_entries, weights per entry]."""
    from gguf import quants

    traits: Any = getattr(quants, type_name)
    traits.init_grid()
    return np.asarray(traits.grid, dtype=np.int8).reshape(traits.grid_shape)


def _magnitudes(type_name: str) -> Callable[[str], str]:
    """Make a writer of the grid of `type_name`: one word of biased bytes per entry."""

    def write(name: str) -> str:
        grid = _grid_of(type_name)
        words = (grid.astype(np.int16) + _BIAS).astype(np.uint8).view(f"<u{grid.shape[1]}").ravel()
        return _array(name, words)

    return write


def _signs_in_nibbles(type_name: str) -> Callable[[str], str]:
    """Make a writer of a grid of -1, 0, 1: weights 0..3 in the low nibbles of a u32, 4..7 in the high ones."""

    def write(name: str) -> str:
        codes = (_grid_of(type_name) + 1).astype(np.uint8)
        return _array(name, (codes[:, :4] | codes[:, 4:] << 4).copy().view("<u4").ravel())

    return write


def _distinct(sign: int, *type_names: str) -> Callable[[str], str]:
    """Make a writer of the magnitudes in the grids of all `type_names`, times `sign`: a function giving four bytes."""

    def write(name: str) -> str:
        values, *others = (np.unique(_grid_of(type_name)) for type_name in type_names)
        if len(values) > 4 or any(not np.array_equal(other, values) for other in others):
            raise ValueError(f"{type_names} no longer share one table of at most four magnitudes in gguf")
        word = np.resize(np.append(sign * values, [0] * 4), 4).astype(np.int8).view("<u4")
        return f"DEVICE constexpr uint32_t {name}() {{ return {_literals(word)}; }}\n"

    return write


def _sixteen(*type_names: str) -> Callable[[str], str]:
    """Make a writer of the 16 values that 4-bit codes of all `type_names` stand for: a function giving a Table16."""

    def write(name: str) -> str:
        from gguf import quants

        values, *others = (getattr(quants, type_name).kvalues for type_name in type_names)
        if any(other != values for other in others):
            raise ValueError(f"{type_names} no longer share one table in gguf")
        words = (np.array(values, dtype=np.int16) + _BIAS).astype(np.uint8).view("<u4")
        return f"DEVICE Table16 {name}() {{ return {{{{{_literals(words)}}}}}; }}\n"

    return write


def _array(name: str, words: NDArray[Any]) -> str:
    lines = "".join(f"  {_literals(words[i : i + 8])},\n" for i in range(0, len(words), 8))
    return f"DEVICE_TABLE uint{8 * words.itemsize}_t {name}[{len(words)}] = {{\n{lines}}};\n"


def _literals(words: NDArray[Any]) -> str:
    suffix = "ull" if words.itemsize == 8 else "u"
    return ", ".join(f"0x{int(word):0{2 * words.itemsize}x}{suffix}" for word in words)


_TABLES: dict[str, dict[str, Callable[[str], str]]] = {
    "fp4": {"e2m1_doubled": _sixteen("MXFP4", "NVFP4")},
    "iq4": {"iq4_nl_values": _sixteen("IQ4_NL")},
    "iq3": {"iq3_xxs_grid": _magnitudes("IQ3_XXS"), "iq3_s_grid": _magnitudes("IQ3_S")},
    "iq2": {
        "iq2_xxs_grid": _magnitudes("IQ2_XXS"),
        "iq2_xs_grid": _magnitudes("IQ2_XS"),
        "iq2_s_grid": _magnitudes("IQ2_S"),
        "iq2_magnitudes": _distinct(1, "IQ2_XXS", "IQ2_XS", "IQ2_S"),
        "iq2_negatives": _distinct(-1, "IQ2_XXS", "IQ2_XS", "IQ2_S"),
    },
    "iq1": {"iq1_grid": _signs_in_nibbles("IQ1_S")},
}
