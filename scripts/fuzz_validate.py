"""Feed mutated models to `mmvq_cli.validate` and stop at the first crash, hang or large allocation.

Seeds are tiny models (4 KB) in both layouts and with several block types; a mutation flips bits, overwrites integers
with edge values, inserts, removes or repeats runs of bytes, in the header most of the time. Everything follows from
`--seed`, so a failure can be repeated: the input is kept in the file that is printed.

    python scripts/fuzz_validate.py --inputs 1000000 --processes 2
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import signal
import struct
import sys
import tempfile
import time
import tracemalloc
from pathlib import Path

import numpy as np

from mmvq_cli.errors import MmvqError
from mmvq_cli.model import read_header
from mmvq_cli.op.formats import FORMATS
from mmvq_cli.validate import Request, validate

LIMIT_S = 2.0
TRACED_EVERY = 500  # tracing allocations is slow
ALLOWED_BYTES = 2 * 2**20  # beside twice the file: interpreter caches, and one report
EDGES = (0, 1, 2**7, 2**8 - 1, 2**15, 2**16, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**62, 2**63 - 1, 2**63, 2**64 - 1)


def string(text: str) -> bytes:
    """GGUF's string: u64 length and bytes."""
    return struct.pack("<Q", len(text)) + text.encode()


def seed_model(format_name: str, legacy: bool, rng: np.random.Generator) -> bytes:
    """A model of one layer and two experts with random blocks of one type."""
    weight_format = FORMATS[format_name]
    n = max(weight_format.block_size, 32)
    keys: list[tuple[str, int]] = [("block_count", 1), ("expert_count", 2), ("expert_used_count", 1)]
    keys += [("embedding_length", n), ("expert_feed_forward_length", n)]
    head = [string("general.architecture") + struct.pack("<I", 8) + string("qwen3moe")]
    head += [string(f"qwen3moe.{key}") + struct.pack("<II", 4, value) for key, value in keys]
    head.append(string("words") + struct.pack("<IIQ", 9, 8, 3) + string("a") + string("bc") + string("d"))
    names = [f"ffn_{role}.{expert}.weight" for role in ("gate", "up", "down") for expert in range(2)]
    names = names if legacy else [f"ffn_{role}_exps.weight" for role in ("gate", "up", "down")]
    shape = (n, 2) if legacy else (n, 2, 2)
    rows = [(f"blk.0.{name}", shape, weight_format.id) for name in names]
    rows.append(("blk.0.ffn_gate_inp.weight", (n, 2), 0))
    infos, data = [], b""
    for name, ne, type_id in rows:
        size = FORMATS["F32"].row_bytes(n) if type_id == 0 else weight_format.row_bytes(n)
        infos.append(string(name) + struct.pack(f"<I{len(ne)}QIQ", len(ne), *ne, type_id, len(data)))
        data += rng.integers(0, 256, size * int(np.prod(ne[1:])), np.uint8).tobytes()
        data += bytes(-len(data) % 32)
    start = struct.pack("<4sIQQ", b"GGUF", 3, len(infos), len(head)) + b"".join(head + infos)
    return start + bytes(-len(start) % 32) + data


def mutate(model: bytes, header_bytes: int, rng: np.random.Generator) -> bytes:
    """Apply 1 to 4 mutations."""
    raw = bytearray(model)
    for _ in range(rng.integers(1, 5)):
        end = min(len(raw), header_bytes if rng.random() < 0.7 else len(raw))
        at = int(rng.integers(0, max(end, 1)))
        match int(rng.integers(0, 6)):
            case 0:
                raw[at : at + 1] = bytes([rng.integers(0, 256)])
            case 1:
                raw[at : at + 8] = struct.pack("<Q", EDGES[rng.integers(len(EDGES))])
            case 2:
                raw[at : at + 4] = struct.pack("<I", EDGES[rng.integers(len(EDGES))] & 0xFFFFFFFF)
            case 3:
                del raw[at : at + int(rng.integers(1, 64))]
            case 4:
                raw[at:at] = raw[at : at + int(rng.integers(1, 64))]
            case _:
                n_bits = int(rng.integers(1, 9))
                for bit in rng.integers(0, 8, n_bits):
                    if at < len(raw):
                        raw[at] ^= 1 << int(bit)
    return bytes(raw)


def _late(signum: int, frame: object) -> None:
    raise TimeoutError(f"more than {LIMIT_S} s")


def run(arguments: tuple[int, int, int]) -> dict[str, int]:
    """Run one process's share; returns how many inputs ended how. Any other exception is the bug that was sought."""
    number, n_inputs, seed = arguments
    rng = np.random.default_rng((seed, number))
    folder = Path(tempfile.mkdtemp(prefix="fuzz-"))
    seeds = [
        seed_model(name, legacy, rng) for name in ("Q4_K", "MXFP4", "NVFP4", "Q8_0", "F16") for legacy in (False, True)
    ]
    path = folder / "input.gguf"
    headers = []
    for model in seeds:
        path.write_bytes(model)
        headers.append(read_header(path).data_offset)
        validate(Request(path, all_tensors=True))
    outcomes = {"sound": 0, "findings": 0, "refused": 0}
    signal.signal(signal.SIGALRM, _late)
    for index in range(n_inputs):
        which = int(rng.integers(len(seeds)))
        path.write_bytes(mutate(seeds[which], headers[which], rng))
        traced = index % TRACED_EVERY == 0
        if traced:
            tracemalloc.start()
        signal.setitimer(signal.ITIMER_REAL, LIMIT_S)
        try:
            report = validate(Request(path, all_tensors=True))
            outcomes["findings" if report.findings else "sound"] += 1
        except MmvqError:
            outcomes["refused"] += 1
        except BaseException:
            print(f"input {index} of process {number}: kept in {path}", file=sys.stderr)
            raise
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
        if traced:
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
            if peak > 2 * path.stat().st_size + ALLOWED_BYTES:
                raise MemoryError(f"{peak} bytes for a file of {path.stat().st_size}: kept in {path}")
    path.unlink()
    folder.rmdir()
    return outcomes


def main() -> None:
    """Share the inputs among processes and add up the outcomes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=10_000)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    share = -(-given.inputs // given.processes)
    start = time.monotonic()
    with multiprocessing.Pool(given.processes) as pool:
        parts = pool.map(run, [(number, share, given.seed) for number in range(given.processes)])
    total = {name: sum(part[name] for part in parts) for name in parts[0]}
    peak_mib = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    print(f"{share * given.processes} inputs in {time.monotonic() - start:.0f} s: {total}, peak {peak_mib:.0f} MiB")


if __name__ == "__main__":
    main()
