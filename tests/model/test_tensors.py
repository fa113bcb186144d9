"""Expert tensors: names, shapes, the three layouts, and reads."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mmvq_cli.errors import ModelError, OpenError, Unsupported
from mmvq_cli.model import open_model

MODELS = Path(__file__).parents[1] / "data" / "models"


@pytest.fixture
def open_file(kit, tmp_path):
    """Open a file with these tensors; its data counts up, so that every byte has a place."""

    def build(tensors, **metadata):
        file = kit.file(kit.moe(**metadata), [kit.tensor(*tensor) for tensor in tensors])
        file.header()
        file.data = (np.arange(file._end // 4, dtype="<u4")).tobytes()
        return open_model(file.write(tmp_path / "x.gguf"))

    return build


def test_stacked(open_file):
    model = open_file(
        [
            ("blk.1.ffn_down_exps.weight", (8, 4, 3)),
            ("blk.1.ffn_gate_exps.weight", (4, 8, 3)),
            ("blk.0.ffn_up_exps.weight", (4, 8, 3)),
        ],
        n_layers=2,
        n_experts=3,
    )
    seen = [(t.layer, t.role, t.n_experts, t.rows, t.cols, t.n_bytes, t.expert_bytes) for t in model.expert_tensors]
    assert seen == [(0, "up", 3, 8, 4, 384, 128), (1, "gate", 3, 8, 4, 384, 128), (1, "down", 3, 4, 8, 384, 128)]
    down = model.expert_tensors[2]
    assert down.format_name == down.format.name == "F32"
    assert down.read_expert(2).view("<u4").tolist() == list(range(64, 96))


def test_per_expert_matrices_read_like_stacked_ones(open_file):
    # stored in another order than numbered
    model = open_file([(f"blk.0.ffn_up.{e}.weight", (4, 2)) for e in (2, 0, 1)], n_experts=3)
    (up,) = model.expert_tensors
    assert (up.name, up.n_experts, up.rows, up.cols) == ("blk.0.ffn_up.0-2.weight", 3, 2, 4)
    order = np.concatenate([up.read_expert(e) for e in range(3)]).view("<u4")
    assert order.tolist() == [*range(8, 16), *range(16, 24), *range(8)]
    whole = np.empty(up.n_bytes, np.uint8)
    up.read_into(0, whole.data)
    assert whole.tobytes() == order.tobytes()
    crossing = np.empty(40, np.uint8)
    up.read_into(20, crossing.data)
    assert crossing.tobytes() == order.tobytes()[20:60]


def test_one_expert_and_fused(open_file):
    model = open_file([("blk.0.ffn_gate_up_exps.weight", (4, 6))], n_experts=1)
    (fused,) = model.expert_tensors
    assert (fused.role, fused.n_experts, fused.rows, fused.cols) == ("gate_up", 1, 6, 4)


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ([("blk.0.ffn_up_exps.weight", (4, 8, 3))], r"\[4, 8, 3\], the metadata says 2 experts"),
        ([("blk.0.ffn_up_exps.weight", (4, 8))], "the metadata says 2 experts"),
        ([("blk.0.ffn_up_exps.weight", (4, 8, 2, 2))], "the metadata says 2 experts"),
        ([("blk.0.ffn_up.0.weight", (4, 8))], "last of 1 experts, the metadata says 2"),
        ([("blk.0.ffn_up.0.weight", (4, 8)), ("blk.0.ffn_up.2.weight", (4, 8))], "last of 2 experts"),
        ([("blk.0.ffn_up.0.weight", (4, 8)), ("blk.0.ffn_up.1.weight", (8, 4))], r"F32 \[8, 4\], but .* F32 \[4, 8\]"),
        ([("blk.0.ffn_up.0.weight", (4, 8)), ("blk.0.ffn_up.1.weight", (4, 8), 1)], "F16 .* but .* F32"),
        ([(f"blk.0.ffn_up.{e}.weight", (4, 8, 2)) for e in (0, 1)], "one expert has two"),
        (
            [("blk.0.ffn_up_exps.weight", (4, 8, 2)), *((f"blk.0.ffn_up.{e}.weight", (4, 8)) for e in (0, 1))],
            "stands beside blk.0.ffn_up",
        ),
        ([("blk.0.ffn_gate_up_exps.weight", (4, 7, 2))], "has 7 rows"),
        (
            [("blk.0.ffn_gate_up_exps.weight", (4, 8, 2)), ("blk.0.ffn_up_exps.weight", (4, 4, 2))],
            "also has one of them by itself",
        ),
    ],
)
def test_refused(open_file, tmp_path, tensors, message):
    with pytest.raises(ModelError, match=message) as caught:
        open_file(tensors)
    assert str(tmp_path / "x.gguf") in caught.value.message


@pytest.mark.parametrize("path", sorted(MODELS.glob("*.gguf")), ids=lambda path: path.stem)
def test_bytes_are_those_of_gguf_py(path):
    from gguf import GGUFReader

    expected = {tensor.name: tensor.data for tensor in GGUFReader(path).tensors}
    for tensor in open_model(path).expert_tensors:
        data = expected[tensor.name].view(np.uint8).reshape(tensor.n_experts, -1)
        last = tensor.n_experts - 1
        assert np.array_equal(tensor.read_expert(last), data[last])
        pieces = list(tensor.pieces(max_bytes=10_000))
        assert max(len(piece) for _, piece in pieces) <= 10_000
        assert [offset for offset, _ in pieces] == list(range(0, tensor.n_bytes, 10_000))
        assert np.array_equal(np.concatenate([piece for _, piece in pieces]), data.ravel())


def test_beyond_the_end(open_file):
    (up,) = open_file([("blk.0.ffn_up_exps.weight", (4, 8, 2))]).expert_tensors
    for expert in (-1, 2):
        with pytest.raises(ValueError, match="are not inside the 256"):
            up.read_expert(expert)


def test_file_that_shrinks(open_file):
    (up,) = open_file([("blk.0.ffn_up_exps.weight", (4, 8, 2))]).expert_tensors
    path = up.extents[0].path
    with path.open("r+b") as file:
        file.truncate(up.extents[0].offset + 200)
    assert len(up.read_expert(0)) == 128
    with pytest.raises(OpenError, match="shrank"):
        up.read_expert(1)
    path.unlink()
    with pytest.raises(OpenError, match="No such file"):
        up.read_expert(0)


def test_type_without_a_kernel():
    q1 = next(t for t in open_model(MODELS / "format-zoo.gguf").expert_tensors if t.format_name == "Q1_0")
    with pytest.raises(Unsupported, match=rf"{q1.name}: Q1_0 has no kernel: "):
        _ = q1.format
