"""The structure layer: what the strict reader refuses becomes a finding with its place; the rest is looked at here."""

from __future__ import annotations

import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from mmvq_cli.errors import ModelError, OpenError
from mmvq_cli.model import read_header
from mmvq_cli.validate import Request, Severity, validate

QWEN = "qwen3moe-Q4_K_M"
HOSTILE = Path(__file__).parents[1] / "data" / "hostile"
EXPECTED = {
    "21_dup_key": "structure.duplicate",
    "43_dup_tensor": "structure.duplicate",
    "24_align_0": "structure.alignment",
    "26_align_u64": "structure.alignment",
    "39_off_past_eof": "structure.layout",
    "41_off_unaligned": "structure.layout",
    "42_overlap": "structure.layout",
    "32_dims_overflow_wrap": "structure.extent",
    "48_trunc_data": "structure.extent",
    "49_trailing_1MB": "structure.trailing",
}


@pytest.mark.parametrize("path", sorted(HOSTILE.glob("*.gguf")), ids=lambda path: path.stem)
def test_hostile_files(path):
    validate(Request(HOSTILE / "00_valid.gguf"))  # imports
    start = time.perf_counter()
    report = validate(Request(path))
    assert time.perf_counter() - start < 0.05
    bad = [finding for finding in report.findings if finding.severity is not Severity.INFO]
    if path.stem == "00_valid":
        assert bad == []
    else:
        (finding,) = bad
        assert finding.check == EXPECTED.get(path.stem, "structure.header")
        assert finding.place.file == path
        assert finding.place.offset is not None
        assert finding.severity is (Severity.WARNING if path.stem == "49_trailing_1MB" else Severity.ERROR)


def lone_tensor(kit, name, ne, **metadata):
    """A model of one small F16 tensor."""
    model = kit.load(QWEN)
    model.metadata = {"general.architecture": "qwen3moe"} | {
        f"qwen3moe.{key}": value for key, value in metadata.items()
    }
    model.tensors = {name: kit.tensor(ne, 1, np.zeros(2 * int(np.prod(ne)), np.uint8))}
    return model


LIARS = {
    "expert number": ("blk.0.ffn_gate.99999999.weight", (32, 2), {"expert_count": 2}, "moe.legacy-experts"),
    "expert number of 40 digits": (f"blk.0.ffn_up.{'9' * 40}.weight", (32, 2), {}, "moe.legacy-experts"),
    "layer number": ("blk.4000000000.ffn_up_exps.weight", (32, 2, 2), {}, "moe.block-count"),
    "counts": (
        "blk.0.ffn_up_exps.weight",
        (32, 2, 2),
        {"expert_count": 2**32 - 1, "block_count": 2**32 - 1, "expert_group_count": 2**32 - 1},
        "moe.expert-count",
    ),
    "a million experts": ("blk.0.ffn_up_exps.weight", (1, 1, 1_000_000), {"expert_count": 10**6}, "moe.expert-count"),
    "a million columns": ("blk.0.ffn_up_exps.weight", (1_000_000,), {"expert_count": 1}, "moe.used-count"),
}


@pytest.mark.parametrize("name", LIARS)
def test_numbers_of_the_file_size_nothing(kit, tmp_path, name):
    tensor, ne, metadata, check = LIARS[name]
    path = lone_tensor(kit, tensor, ne, **metadata).write(tmp_path / "x.gguf")
    validate(Request(path, all_tensors=True))  # imports
    tracemalloc.start()
    report = validate(Request(path, all_tensors=True))
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert check in {finding.check for finding in report.findings}
    assert peak_bytes < 2 * path.stat().st_size + 2**20
    assert report.seconds < 0.5  # traced, which is slow


def test_a_malformed_file_is_never_clean_whatever_is_asked():
    with pytest.raises(ModelError, match="magic"):
        validate(Request(HOSTILE / "03_bad_magic.gguf", ("blocks",)))


def test_a_file_that_cannot_be_opened(tmp_path):
    with pytest.raises(OpenError):
        validate(Request(tmp_path / "none.gguf"))


def test_trailing_bytes(kit, tmp_path):
    model = kit.load(QWEN)
    model.trailing = b"x" * 100
    (finding,) = validate(Request(model.write(tmp_path / "x.gguf"), ("structure",))).findings
    assert finding.check == "structure.trailing"
    assert finding.place.file.stat().st_size - finding.place.offset == 100


def test_padding_that_is_not_zero(kit, tmp_path):
    model = kit.load("gptoss288-Q4_K_M")
    model.tensors["blk.0.attn_sinks.weight"].data[:] = 1
    path = model.write(tmp_path / "x.gguf")
    assert validate(Request(path, ("structure",))).findings == ()
    model.padding = b"\1"
    (finding,) = validate(Request(model.write(path), ("structure",))).findings
    assert finding.check == "structure.padding"
    assert path.read_bytes()[finding.place.offset] == 1


def write_shards(kit, folder, change=lambda number, model: None):
    whole = kit.load(QWEN)
    names = list(whole.tensors)
    for number, part in enumerate((names[:10], names[10:])):
        shard = kit.load(QWEN)
        shard.tensors = {name: whole.tensors[name] for name in part}
        shard.metadata |= {"split.count": 2, "split.tensors.count": len(names)}
        shard.metadata["split.no"] = number
        change(number, shard)
        shard.write(folder / f"m-{number + 1:05d}-of-00002.gguf")
    return folder / "m-00002-of-00002.gguf"


def test_a_split_set_is_read_as_one(kit, tmp_path):
    path = write_shards(kit, tmp_path)
    report = validate(Request(path))
    assert report.findings == ()
    assert (len(report.files), report.checked_blocks) == (2, 12288)


@pytest.mark.parametrize(
    ("key", "value"), [("split.count", 9), ("split.tensors.count", 5), ("split.no", 0), ("qwen3moe.expert_count", 4)]
)
def test_shards_that_disagree(kit, tmp_path, key, value):
    def change(number, model):
        if number == 1:
            model.metadata[key] = value

    (finding,) = validate(Request(write_shards(kit, tmp_path, change))).findings
    assert finding.check == "structure.split"


def test_a_tensor_in_two_shards(kit, tmp_path):
    def change(number, model):
        if number == 1:
            tensors = dict(model.tensors)
            tensors.pop(next(iter(tensors)))
            model.tensors = {"output_norm.weight": kit.load(QWEN).tensors["output_norm.weight"], **tensors}

    (finding,) = validate(Request(write_shards(kit, tmp_path, change))).findings
    assert finding.check == "structure.duplicate"


def test_a_missing_shard_cannot_be_opened(kit, tmp_path):
    path = write_shards(kit, tmp_path)
    (tmp_path / "m-00001-of-00002.gguf").unlink()
    with pytest.raises(OpenError, match="missing"):
        validate(Request(path))


def test_findings_of_the_second_shard_name_its_file(kit, tmp_path):
    def change(number, model):
        if number == 1:
            model.tensors["blk.1.ffn_up_exps.weight"].expert(2)[4, :2] = np.frombuffer(b"\x00\x7c", np.uint8)

    path = write_shards(kit, tmp_path, change)
    (finding,) = validate(Request(path)).findings
    assert finding.place.file == path
    start = read_header(path).data_offset
    assert finding.place.offset > start
