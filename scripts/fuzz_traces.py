"""Feed damaged recordings to every trace importer.

Run `python -m scripts.fuzz_traces [INPUTS] [SEED]`.
Each input is a small valid recording with seeded damage: bytes flipped, cut, doubled, or replaced by extreme numbers.
An importer may read it or raise an `MmvqError`; anything else, an input that takes over 5 seconds, or memory that grows
by more than 256 MiB, is a failure; its seed is printed.
"""

from __future__ import annotations

import base64
import json
import random
import resource
import struct
import sys
import tempfile
import time
import traceback
import zipfile
from collections import Counter
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmvq_cli.errors import MmvqError
from mmvq_cli.routing.trace import ImportOptions, Trace, import_trace, read_trace, write_trace

Damage = Callable[[bytearray, random.Random], bytearray]
_SLOW_S = 5.0
_GROWTH_KIB = 256 << 10


def npy_bytes(array: NDArray[Any]) -> bytes:
    """The array as a `.npy` file."""
    stream = BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def npz_bytes(**arrays: Any) -> bytes:
    """The arrays as an `.npz` file."""
    stream = BytesIO()
    np.savez_compressed(stream, **arrays)
    return stream.getvalue()


def torch_bytes(value: Any) -> bytes:
    """The value as torch.save writes it: dicts, lists, numbers, strings, None and int32, int64 or float32 arrays."""
    storages: list[NDArray[Any]] = []
    pickle = b"\x80\x02" + _pickled(value, storages) + b"."
    stream = BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("dump/data.pkl", pickle)
        archive.writestr("dump/byteorder", "little")
        for key, array in enumerate(storages):
            archive.writestr(f"dump/data/{key}", array.tobytes())
    return stream.getvalue()


_TORCH_NAMES = {"i4": "IntStorage", "i8": "LongStorage", "f4": "FloatStorage"}


def _pickled(value: Any, storages: list[NDArray[Any]]) -> bytes:
    if value is None:
        return b"N"
    if isinstance(value, str):
        raw = value.encode()
        return b"X" + struct.pack("<I", len(raw)) + raw
    if isinstance(value, int):
        return b"J" + struct.pack("<i", value)
    if isinstance(value, dict):
        items = b"".join(_pickled(key, storages) + _pickled(item, storages) for key, item in value.items())
        return b"}(" + items + b"u"
    if isinstance(value, list | tuple):
        items = b"".join(_pickled(item, storages) for item in value)
        return (b"](" + items + b"e") if isinstance(value, list) else (b"(" + items + b"t")
    array = np.ascontiguousarray(value)
    storages.append(array)
    strides = tuple(step // array.itemsize for step in array.strides)
    name = f"ctorch\n{_TORCH_NAMES[array.dtype.str[1:]]}\n".encode()
    identity = b"(" + _pickled("storage", storages) + name + _pickled(str(len(storages) - 1), storages)
    identity += _pickled("cpu", storages) + _pickled(array.size, storages) + b"tQ"
    arguments = b"(" + identity + _pickled(0, storages) + _pickled(array.shape, storages) + _pickled(strides, storages)
    return b"ctorch._utils\n_rebuild_tensor_v2\n" + arguments + b"\x89ccollections\nOrderedDict\n)RtR"


def routing_ids(n_tokens: int = 40, n_layers: int = 3, top_k: int = 2, n_experts: int = 8) -> NDArray[np.int64]:
    """Distinct ids [tokens, layers, top_k], always the same."""
    keys = np.random.default_rng(5).random((n_tokens, n_layers, n_experts))
    return np.argsort(keys, axis=2)[:, :, :top_k]


def imatrix_bytes(counts: NDArray[Any], tokens: int) -> bytes:
    """An imatrix GGUF with counts [layers, experts] and one dense tensor."""

    def text(value: str) -> bytes:
        return struct.pack("<Q", len(value)) + value.encode()

    tensors = [("blk.0.attn_q.weight.counts", np.array([tokens], "<f4"))]
    for layer, row in enumerate(counts):
        tensors += [
            (f"blk.{layer}.ffn_{role}_exps.weight.counts", row.astype("<f4")) for role in ("gate", "up", "down")
        ]
    head = (
        b"GGUF"
        + struct.pack("<IQQ", 3, len(tensors), 1)
        + text("general.type")
        + struct.pack("<I", 8)
        + text("imatrix")
    )
    data = b""
    for name, row in tensors:
        head += text(name) + struct.pack("<IQQIQ", 2, 1, len(row), 0, len(data))
        data += row.tobytes() + b"\0" * (-row.nbytes % 32)
    return head + b"\0" * (-len(head) % 32) + data


def samples() -> dict[str, tuple[str, bytes, ImportOptions]]:
    """Name -> (file name, bytes, options) of a small valid recording of every kind."""
    ids = routing_ids()
    counts = np.stack([np.bincount(ids[:, layer].ravel(), minlength=8) for layer in range(3)])
    table = np.tile(np.arange(8, dtype=np.int32), (3, 1))
    encoded = base64.b64encode(npy_bytes(ids.astype(np.uint8))).decode()
    raw = base64.b64encode(ids.astype("<i4").tobytes()).decode()
    info = {"routed_experts": raw, "prompt_tokens": 11, "completion_tokens": 30}
    padded = np.full((3, 40, 8), -1, np.int32)
    padded[:, :, :2] = ids.transpose(1, 0, 2)
    token_dump = {
        "records": [{"forward_pass_id": 1, "rank": 0, "topk_ids_of_layer": padded}],
        "last_physical_to_logical_map": table,
    }
    pass_dump = {
        "records": [{"forward_pass_id": 1, "rank": 0, "global_physical_count": counts.astype(np.int32)}],
        "last_physical_to_logical_map": table,
    }
    rows = [
        {"layer": layer, "request": "a", "experts": ids[token, layer].tolist()}
        for token in range(40)
        for layer in range(3)
    ]
    csv = "layer,request,experts\n" + "".join(f"{r['layer']},a,{' '.join(map(str, r['experts']))}\n" for r in rows)
    prefill = {str(layer): ids[:30, layer].tolist() for layer in range(3)}
    passes = [prefill, *({str(layer): [ids[token, layer].tolist()] for layer in range(3)} for token in range(30, 40))]
    logits = np.random.default_rng(6).standard_normal((3, 40, 8)).astype(np.float32)
    none, top2 = ImportOptions(), ImportOptions(top_k=2)
    return {
        "vllm-base64": ("r.json", json.dumps({"choices": [{"routed_experts": encoded}]}).encode(), none),
        "vllm-lists": ("r.jsonl", json.dumps({"choices": [{"routed_experts": ids.tolist()}]}).encode(), none),
        "vllm-npy": ("r.npy", npy_bytes(ids.astype(np.int32)), none),
        "sglang-request": ("r.json", json.dumps({"meta_info": info}).encode(), top2),
        "sglang-stat": ("r.pt", torch_bytes({"rank": 0, "logical_count": counts[None].astype(np.int32)}), none),
        "sglang-per-pass": ("r.pt", torch_bytes(pass_dump), none),
        "sglang-per-token": ("r.pt", torch_bytes(token_dump), none),
        "imatrix": ("r.gguf", imatrix_bytes(counts, 40), none),
        "npz": ("r.npz", npz_bytes(topk_ids=ids.astype(np.uint8), request_offsets=np.array([0, 25, 40])), none),
        "hf-logits": ("r.npz", npz_bytes(router_logits=logits), top2),
        "table-csv": ("r.csv", csv.encode(), none),
        "table-jsonl": ("r.jsonl", "\n".join(map(json.dumps, rows)).encode(), none),
        "table-passes": ("r.json", json.dumps(passes).encode(), none),
        "eplb-json": ("r.json", json.dumps({"logical_count": counts.tolist()}).encode(), none),
        "eplb-npy": ("r.npy", npy_bytes(counts), none),
        "neutral": ("r.moetrace.safetensors", _neutral(), none),
        "trtllm": ("rank0.safetensors", _trtllm(counts), none),
    }


def source_of(name: str) -> str:
    """The importer that a sample is for."""
    return next(
        (s for s in ("vllm", "sglang", "imatrix", "npz", "hf-logits", "table", "eplb", "trtllm") if name.startswith(s)),
        "",
    )


def read_sample(name: str, path: Path, options: ImportOptions) -> Trace:
    """Read a sample, or what damage left of it."""
    if name == "neutral":
        return read_trace(path)
    if name == "trtllm":
        (path.parent / "meta_info.json").write_text('{"num_experts": 8, "num_experts_per_token": 2}')
        return import_trace(path.parent, "trtllm", options)
    return import_trace(path, source_of(name), options)


def _neutral() -> bytes:
    ids = np.ascontiguousarray(routing_ids().transpose(1, 0, 2)).astype(np.int16)
    trace = Trace(8, 2, np.arange(3, dtype=np.int32), topk_ids=ids, request_offsets=np.array([0, 25, 40]))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.moetrace.safetensors"
        write_trace(trace, path)
        return path.read_bytes()


def _trtllm(counts: NDArray[Any]) -> bytes:
    from safetensors.numpy import save

    return save({f"100_{layer}": row.astype(np.int64) for layer, row in enumerate(counts)})


def _flip(data: bytearray, rng: random.Random) -> bytearray:
    for _ in range(rng.choice((1, 1, 2, 8))):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return data


def _cut(data: bytearray, rng: random.Random) -> bytearray:
    return data[: rng.randrange(len(data))]


def _double(data: bytearray, rng: random.Random) -> bytearray:
    start = rng.randrange(len(data))
    part = data[start : start + rng.randrange(1, 64)]
    return data[:start] + part + data[start:]


def _remove(data: bytearray, rng: random.Random) -> bytearray:
    start = rng.randrange(len(data))
    return data[:start] + data[start + rng.randrange(1, 32) :]


def _extreme(data: bytearray, rng: random.Random) -> bytearray:
    number = rng.choice((0, 0x7F, 0xFF, 0x7FFFFFFF, 0xFFFFFFFF, 2**63 - 1, 2**64 - 1, 0x7F800000, 0x7FC00000))
    raw = number.to_bytes(8, "little")[: rng.choice((1, 4, 8))]
    start = rng.randrange(len(data))
    data[start : start + len(raw)] = raw
    return data


def _digits(data: bytearray, rng: random.Random) -> bytearray:
    """Replace a run of digits, for the sources that are text."""
    places = [at for at, byte in enumerate(data[:4096]) if 48 <= byte < 58]
    if not places:
        return _extreme(data, rng)
    at = rng.choice(places)
    return (
        data[:at]
        + rng.choice((b"3", b"9", b"12", b"-1", b"1e400", b"999999999999", b"null", b"NaN", b'"x"', b"[]", b"{}"))
        + data[at + 1 :]
    )


_DAMAGES: tuple[Damage, ...] = (_flip, _cut, _double, _remove, _extreme, _digits)


def main(n_inputs: int, seed: int) -> int:
    """Run and print what came of it; 1 when an input failed."""
    known = samples()
    outcomes: Counter[str] = Counter()
    failures = before_kib = 0
    start_s = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        for index in range(n_inputs):
            if index == 1000:
                before_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            rng = random.Random(f"{seed}/{index}")
            name = rng.choice(list(known))
            file, data, options = known[name]
            damaged = bytearray(data)
            for _ in range(rng.choice((1, 1, 1, 2, 4))):
                damaged = rng.choice(_DAMAGES)(damaged, rng) or bytearray(b"\0")
            path = Path(folder) / file
            path.write_bytes(damaged)
            began_s = time.monotonic()
            try:
                read_sample(name, path, options)
                outcomes[f"{name}: read"] += 1
            except MmvqError:
                outcomes[f"{name}: refused"] += 1
            except Exception:
                failures += 1
                traceback.print_exc()
                print(f"input {seed}/{index} of {name} broke its importer", file=sys.stderr)
            if time.monotonic() - began_s > _SLOW_S:
                failures += 1
                print(f"input {seed}/{index} of {name} took over {_SLOW_S} s", file=sys.stderr)
            if failures >= 5:
                break
    grown_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kib if before_kib else 0
    for outcome, count in sorted(outcomes.items()):
        print(f"{count:7d} {outcome}")
    print(
        f"{sum(outcomes.values())} inputs in {time.monotonic() - start_s:.0f} s, seed {seed}, {failures} failures, "
        f"memory grew {grown_kib / 1024:.0f} MiB"
    )
    return 1 if failures or grown_kib > _GROWTH_KIB else 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 10_000, int(sys.argv[2]) if len(sys.argv) > 2 else 0))
