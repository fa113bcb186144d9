"""Validate a split model of any size in bounded memory: write it sparse, check every block, print the peak.

The files have holes for most of their bytes and one random block at the start of each expert, so a model of 20 GB takes
about 100 MB of disk. The peak is that of this process, memory that no file backs; the blocks are read, not mapped.

    python scripts/validate_large.py --gigabytes 20 --shards 4
"""

from __future__ import annotations

import argparse
import struct
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from math import prod
from pathlib import Path

import numpy as np

from mmvq_cli.model.synthetic import random_blocks
from mmvq_cli.op.formats import FORMATS
from mmvq_cli.validate import Request, headline, validate
from mmvq_cli.validate.scales import scales_of

N_EXPERTS, N_EMBD, N_FF = 128, 2048, 768
LAYER = {  # name: type, dimensions in ggml order
    "ffn_gate_inp": ("F32", (N_EMBD, N_EXPERTS, 1)),
    "ffn_gate_exps": ("Q4_K", (N_EMBD, N_FF, N_EXPERTS)),
    "ffn_up_exps": ("Q4_K", (N_EMBD, N_FF, N_EXPERTS)),
    "ffn_down_exps": ("Q6_K", (N_FF, N_EMBD, N_EXPERTS)),
}
ALIGNMENT = 32
U16, U32, I32, TEXT = 2, 4, 5, 8  # types of metadata values


def main() -> int:
    """Write, validate, report; the exit code is 3 when more than `--limit-mib` were needed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=20.0)
    parser.add_argument("--shards", type=int, default=4)
    parser.add_argument("--limit-mib", type=float, default=1024.0)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        first = write_model(Path(folder), int(given.gigabytes * 1e9), given.shards)
        with peak_of_anonymous_memory() as peak:
            report = validate(Request(first))
    peak_mib = peak[0] / 2**20
    print(f"{headline(report)}; {len(report.files)} files of {report.file_bytes / 1e9:.1f} GB")
    print(f"{report.checked_bytes / report.seconds / 1e9:.2f} GB/s, peak {peak_mib:.0f} MiB of anonymous memory")
    return 0 if peak_mib <= given.limit_mib else 3


@contextmanager
def peak_of_anonymous_memory() -> Iterator[list[int]]:
    """Look every 20 ms; the list holds the peak in bytes."""
    peak, done = [0], threading.Event()

    def watch() -> None:
        while not done.wait(0.02):
            peak[0] = max(peak[0], anonymous_bytes())

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield peak
    finally:
        done.set()
        watcher.join()


def anonymous_bytes() -> int:
    """Resident memory of this process that no file backs, as Linux counts it."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("RssAnon"))


def write_model(folder: Path, n_bytes: int, n_shards: int) -> Path:
    """Write a split set of at least `n_bytes`; returns its first file."""
    layer_bytes = sum(tensor_bytes(kind, ne) for kind, ne in LAYER.values())
    n_layers = max(n_shards, -(-n_bytes // layer_bytes))
    tensors = [
        (f"blk.{layer}.{name}.weight", kind, ne) for layer in range(n_layers) for name, (kind, ne) in LAYER.items()
    ]
    paths = [folder / f"large-{number:05d}-of-{n_shards:05d}.gguf" for number in range(1, n_shards + 1)]
    for number, path in enumerate(paths):
        begin, end = (len(tensors) * edge // n_shards for edge in (number, number + 1))
        split = [
            ("split.no", U16, struct.pack("<H", number)),
            ("split.count", U16, struct.pack("<H", n_shards)),
            ("split.tensors.count", I32, struct.pack("<i", len(tensors))),
        ]
        write_file(path, (model_keys(n_layers) if number == 0 else []) + split, tensors[begin:end])
    return paths[0]


def model_keys(n_layers: int) -> list[tuple[str, int, bytes]]:
    """The metadata of the architecture."""
    numbers = {
        "block_count": n_layers,
        "embedding_length": N_EMBD,
        "expert_feed_forward_length": N_FF,
        "expert_count": N_EXPERTS,
        "expert_used_count": 8,
    }
    own = [(f"qwen3moe.{key}", U32, struct.pack("<I", value)) for key, value in numbers.items()]
    return [("general.architecture", TEXT, string("qwen3moe")), *own]


def write_file(
    path: Path, keys: Sequence[tuple[str, int, bytes]], tensors: Sequence[tuple[str, str, tuple[int, ...]]]
) -> None:
    """Write header and first blocks; all other bytes stay holes."""
    header = struct.pack("<4sIQQ", b"GGUF", 3, len(tensors), len(keys))
    header += b"".join(string(key) + struct.pack("<I", kind) + raw for key, kind, raw in keys)
    offset = 0
    offsets = []
    for name, kind, ne in tensors:
        header += string(name) + struct.pack(f"<I{len(ne)}QIQ", len(ne), *ne, FORMATS[kind].id, offset)
        offsets.append(offset)
        offset += -(-tensor_bytes(kind, ne) // ALIGNMENT) * ALIGNMENT
    start = -(-len(header) // ALIGNMENT) * ALIGNMENT
    rng = np.random.default_rng(len(header))
    with path.open("wb") as file:
        file.write(header)
        for (_, kind, ne), at in zip(tensors, offsets, strict=True):
            blocks = random_blocks(FORMATS[kind], ne[2], rng)
            for scales in scales_of(FORMATS[kind]):
                blocks[:, scales.offset + 1] &= 0x7F  # no negative ones
            for expert in range(ne[2]):
                file.seek(start + at + expert * (tensor_bytes(kind, ne) // ne[2]))
                file.write(blocks[expert].tobytes())
        file.truncate(start + offset)


def tensor_bytes(kind: str, ne: tuple[int, ...]) -> int:
    """Bytes of a tensor with dimensions `ne` in ggml order."""
    return FORMATS[kind].row_bytes(ne[0]) * prod(ne[1:])


def string(text: str) -> bytes:
    """GGUF's string: u64 length and bytes."""
    return struct.pack("<Q", len(text)) + text.encode()


if __name__ == "__main__":
    sys.exit(main())
