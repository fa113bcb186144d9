"""What only a second file can show: swaps, transposes, single blocks, downloads, experts without calibration."""

from __future__ import annotations

import json

import numpy as np
import pytest

from mmvq_cli.errors import ModelError, OpenError
from mmvq_cli.validate import Request, render, validate

QWEN = "qwen3moe-Q4_K_M"
GATE, UP, DOWN = (f"blk.0.ffn_{role}_exps.weight" for role in ("gate", "up", "down"))


def swap(model):
    model.tensors[GATE], model.tensors[UP] = model.tensors[UP], model.tensors[GATE]


def transpose(model):
    """Transpose the blocks of every down matrix: 256 x 256 weights are 256 x 1 blocks, so shuffle the rows instead."""
    expert = model.tensors[DOWN].data.reshape(8, 256, -1)
    expert[:] = expert[:, ::-1]


def one_block(model):
    block = model.tensors[GATE].expert(3)[17]
    block[4:] = np.random.default_rng(0).integers(0, 256, block[4:].shape, np.uint8)


def checks(report):
    return {finding.check for finding in report.findings}


@pytest.fixture
def original(kit, tmp_path):
    return kit.load(QWEN).write(tmp_path / "original.gguf")


def changed(kit, tmp_path, change):
    model = kit.load(QWEN)
    change(model)
    return model.write(tmp_path / "changed.gguf")


@pytest.mark.parametrize("change", [swap, transpose, one_block])
def test_a_single_file_cannot_show_them(kit, tmp_path, change):
    report = validate(Request(changed(kit, tmp_path, change)))
    assert report.findings == ()
    assert any("--against" in note for note in report.not_checked)


@pytest.mark.parametrize(
    ("change", "expected", "n"), [(swap, "against.error", 16), (transpose, "against.error", 8), (one_block, None, 1)]
)
def test_against_shows_them(kit, tmp_path, original, change, expected, n):
    report = validate(Request(changed(kit, tmp_path, change), ("structure",), against=original))
    found = [finding for finding in report.findings if finding.check == (expected or "against.block")]
    assert len(found) == n
    if not expected:
        assert (found[0].place.expert, found[0].place.row, found[0].place.block) == (3, 17, 0)
    assert report.errors_against[0].tensor in (GATE, UP, DOWN)


def test_the_same_file_has_no_error(original):
    report = validate(Request(original, ("structure",), against=original))
    assert report.findings == ()
    assert {error.worst[0] for error in report.errors_against} == {0}


def test_another_quantization_is_no_finding(kit, original):
    other = kit.data / "models" / "qwen3moe-IQ2_XS.gguf"
    report = validate(Request(other, ("structure",), against=original))
    assert report.findings == ()
    assert all(0.2 < error.worst[0] < 0.8 for error in report.errors_against)
    worst = [error.worst for error in report.errors_against]
    assert worst == sorted(worst, reverse=True)


def test_another_model_is_no_quantization_of_it(kit, original):
    report = validate(Request(original, ("structure",), against=kit.data / "models" / "deepseek2-Q6_K.gguf"))
    assert "against.structure" in checks(report)


def test_one_expert_worse_than_its_siblings(kit, tmp_path):
    from gguf.quants import dequantize

    from mmvq_cli.op.ggml import GGML

    weights = np.random.default_rng(3).standard_normal((8, 256, 256), dtype=np.float32)
    model = kit.load(QWEN)
    model.tensors[GATE] = kit.tensor((256, 256, 8), 0, weights.copy().view(np.uint8).reshape(-1))
    reference = model.write(tmp_path / "reference.gguf")
    weights[5] = dequantize(kit.quantized(weights[5:6], GGML.Q3_K).data.reshape(256, -1), GGML.Q3_K)
    model.tensors[GATE] = kit.quantized(weights, GGML.Q8_0)
    report = validate(Request(model.write(tmp_path / "x.gguf"), ("structure",), against=reference))
    (finding,) = report.findings
    assert (finding.check, finding.place.tensor, finding.place.expert) == ("against.outlier", GATE, 5)


def test_a_manifest_of_the_same_file_finds_nothing(tmp_path, original):
    manifest = tmp_path / "manifest.json"
    validate(Request(original, ("structure",), write_manifest=manifest))
    entry = json.loads(manifest.read_text())["tensors"][GATE]
    assert (entry["type"], entry["ne"], len(entry["experts"])) == ("Q4_K", [256, 256, 8], 8)
    assert validate(Request(original, ("structure",), manifest=manifest)).findings == ()


def test_a_manifest_names_what_differs(kit, tmp_path, original):
    manifest = tmp_path / "manifest.json"
    validate(Request(original, ("structure",), write_manifest=manifest))
    report = validate(Request(changed(kit, tmp_path, swap), ("structure",), manifest=manifest))
    assert {(f.place.tensor, f.message) for f in report.findings} == {
        (GATE, f"its bytes are those that the manifest has as {UP}"),
        (UP, f"its bytes are those that the manifest has as {GATE}"),
    }
    report = validate(Request(changed(kit, tmp_path, one_block), ("structure",), manifest=manifest))
    (finding,) = report.findings
    assert (finding.check, finding.place.tensor, finding.place.expert) == ("manifest.changed", GATE, 3)


def test_a_manifest_knows_missing_and_extra_tensors(kit, tmp_path, original):
    manifest = tmp_path / "manifest.json"
    validate(Request(original, ("structure",), write_manifest=manifest))
    path = changed(kit, tmp_path, lambda model: model.rename(GATE, "blk.0.other.weight"))
    assert checks(validate(Request(path, ("structure",), manifest=manifest))) == {"manifest.missing", "manifest.extra"}


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"manifest_version": 2}', '{"manifest_version": 1, "tensors": 3}'])
def test_what_is_no_manifest_is_refused(tmp_path, original, text):
    path = tmp_path / "bad.json"
    path.write_text(text)
    with pytest.raises(ModelError):
        validate(Request(original, ("structure",), manifest=path))


def test_a_manifest_that_is_missing_or_would_overwrite_the_model(tmp_path, original):
    with pytest.raises(OpenError):
        validate(Request(original, ("structure",), manifest=tmp_path / "none.json"))
    with pytest.raises(ModelError, match="overwrite"):
        validate(Request(original, ("structure",), write_manifest=original))


def write_counts(kit, path, counts):
    model = kit.load(QWEN)
    model.metadata = {"general.type": "imatrix"}
    model.tensors = {
        f"blk.{layer}.ffn_{role}_exps.weight.counts": kit.tensor(
            (1, len(counts)), 0, np.array(counts, np.float32).view(np.uint8)
        )
        for layer in (0, 1)
        for role in ("gate", "up", "down")
    }
    return model.write(path)


def test_experts_that_calibration_never_reached(kit, tmp_path, original):
    path = write_counts(kit, tmp_path / "imatrix.gguf", [3, 1, 0, 4, 5, 6, 7, 8])
    report = validate(Request(original, ("structure",), imatrix=path))
    assert {finding.check for finding in report.findings} == {"imatrix.never-routed"}
    assert {finding.place.expert for finding in report.findings} == {2}
    assert len(report.findings) == 6


def test_an_imatrix_of_another_model(kit, tmp_path, original):
    path = write_counts(kit, tmp_path / "imatrix.gguf", [3, 1])
    assert checks(validate(Request(original, ("structure",), imatrix=path))) == {"imatrix.mismatch"}
    with pytest.raises(ModelError, match="counts"):
        validate(Request(original, ("structure",), imatrix=original))


def test_what_is_not_finite_is_infinitely_far_and_stands_first(kit, tmp_path, original):
    model = kit.load(QWEN)
    model.tensors[DOWN].expert(2)[3, :2] = np.frombuffer(b"\x00\x7c", np.uint8)
    report = validate(Request(model.write(tmp_path / "x.gguf"), ("structure",), against=original))
    assert report.errors_against[0].worst == (np.inf, 2)
    assert report.errors_against[0].tensor == DOWN
    assert [finding.place.expert for finding in report.findings if finding.check == "against.error"] == [2]
    document = json.loads(render(report, "json"), parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert document["errors_against"][0]["relative"][2] is None
