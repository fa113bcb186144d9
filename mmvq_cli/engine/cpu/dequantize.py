"""Packed rows to float32 on the host, bit-equal to ggml's C code; by libgguf where it installs, else by gguf-py."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mmvq_cli.op import Format

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Dequantizer:
    """A named way to decode rows: `decode(format, packed u8 [rows, row_bytes], out f32 [rows, n_cols])`."""

    name: str
    decode: Callable[[Format, Bytes, Floats], None]


def oracle_dequantizer() -> Dequantizer:
    """gguf-py's dequantizers: the oracle, 10 to 300 million weights a second."""
    from importlib.metadata import version

    return Dequantizer(f"gguf-{version('gguf')}", _by_gguf)


def fastest_dequantizer() -> Dequantizer:
    """libgguf's (0.1 to 5 billion weights a second and core, no GIL held), else gguf-py's."""
    try:
        import libgguf
    except ImportError:
        return oracle_dequantizer()
    from importlib.metadata import version

    def by_libgguf(format: Format, packed: Bytes, out: Floats) -> None:
        if format.is_float or format.name == "Q8_K":
            _by_numpy(format, packed, out)
        else:
            libgguf.dequantize_rows_into_raw(format.id, packed, out, out.shape[0], out.shape[1])

    return Dequantizer(f"libgguf-{version('libgguf')}", by_libgguf)


def _by_gguf(format: Format, packed: Bytes, out: Floats) -> None:
    if format.is_float or format.name == "Q8_K":
        _by_numpy(format, packed, out)
        return
    from gguf.quants import dequantize

    with np.errstate(over="ignore", invalid="ignore"):
        out[...] = dequantize(packed, format.type)


def _by_numpy(format: Format, packed: Bytes, out: Floats) -> None:
    """Plain floats, and Q8_K (f32 d, int8[256], int16 bsums[16]: w = d * q), which no package dequantizes."""
    if format.name == "Q8_K":
        blocks = packed.reshape(-1, format.type_size)
        scale = np.ascontiguousarray(blocks[:, :4]).view(np.float32)
        codes = blocks[:, 4 : 4 + format.block_size].view(np.int8)
        out[...] = (scale * codes).reshape(out.shape)
    elif format.name == "F32":
        out[...] = packed.view(np.float32)
    elif format.name == "F16":
        out[...] = packed.view(np.float16)
    else:  # BF16: the upper half of a float32
        out.view(np.uint32)[...] = packed.view(np.uint16).astype(np.uint32) << 16
