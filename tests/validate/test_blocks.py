"""Damaged blocks: found by the right check, with tensor, expert, row, block, byte and value."""

from __future__ import annotations

from concurrent.futures import Future

import numpy as np
import pytest

from mmvq_cli.model import read_header
from mmvq_cli.op.formats import FORMATS
from mmvq_cli.op.ggml import GGML
from mmvq_cli.validate import Request, Severity, scan, validate
from mmvq_cli.validate import blocks as blocks_layer
from mmvq_cli.validate.layers import expert_tensors, group_layers, list_tensors
from mmvq_cli.validate.scales import scales_of
from mmvq_cli.validate.scan import Run

QWEN, GPT_OSS = "qwen3moe-Q4_K_M", "gpt-oss-MXFP4_MOE"
GATE = "blk.0.ffn_gate_exps.weight"
QUICK = ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q4_K", "Q6_K", "MXFP4", "NVFP4", "TQ1_0")
TYPES = sorted(row.name for row in FORMATS.values() if not row.is_float and row.name != "Q8_K")
INF, NAN = b"\x00\x7c", b"\x01\x7e"


def run(model, tmp_path, **options):
    return validate(Request(model.write(tmp_path / "x.gguf"), ("blocks",), **options))


def ids(report):
    return {finding.check for finding in report.findings}


def only(report, check):
    found = [finding for finding in report.findings if finding.check == check]
    assert len(found) == 1, report.findings
    return found[0]


def put(expert, block, offset, value):
    expert[block, offset : offset + len(value)] = np.frombuffer(value, np.uint8)


@pytest.mark.parametrize("value", [INF, NAN, b"\x00\xfc"])
@pytest.mark.parametrize("offset", [0, 2])
def test_a_scale_that_is_not_finite_is_found_at_its_place(kit, tmp_path, offset, value):
    model = kit.load(QWEN)
    put(model.tensors[GATE].expert(5), 77, offset, value)
    report = run(model, tmp_path)
    place = only(report, "blocks.scale-not-finite").place
    assert (place.tensor, place.expert, place.row, place.block) == (GATE, 5, 77, 0)
    assert place.file.read_bytes()[place.offset + offset :][:2] == value
    assert report.fails(Severity.ERROR)


def test_the_place_counts_rows_of_several_blocks(kit, tmp_path):
    model = kit.load("gptoss288-Q4_K_M")  # 9 blocks a row
    put(model.tensors[GATE].expert(2), 9 * 10 + 4, 0, INF)
    put(model.tensors[GATE].expert(2), 9 * 10 + 6, 0, INF)
    finding = only(run(model, tmp_path), "blocks.scale-not-finite")
    assert (finding.place.expert, finding.place.row, finding.place.block, finding.count) == (2, 10, 4, 2)
    header = read_header(tmp_path / "x.gguf")
    (info,) = (tensor for tensor in header.tensors if tensor.name == GATE)
    assert finding.place.offset == header.data_offset + info.offset + 2 * info.n_bytes // 8 + 94 * 22


@pytest.mark.parametrize(("name", "seed"), [(name, 0) for name in TYPES] + [(name, 1) for name in QUICK])
def test_clean_quantizations_have_no_error_and_no_warning(kit, tmp_path, name, seed):
    report = validate(Request(kit.make(GGML[name], seed).write(tmp_path / "x.gguf")))
    assert [finding for finding in report.findings if finding.severity is not Severity.INFO] == []


@pytest.mark.parametrize("name", TYPES)
def test_every_type_has_its_scales_checked(kit, tmp_path, name):
    model, row = kit.make(GGML[name]), FORMATS[name]
    expert, field = model.tensors[GATE].expert(3), row.scales[-1]
    value = {"f16": INF, "e8m0": b"\xff", "ue4m3": b"\x7f", "iq1m": b"\x00\x00\x00\x00\x00\xc0\x00\x70"}[field.kind]
    put(expert, 11, field.offset, value)
    place = only(run(model, tmp_path), "blocks.scale-not-finite").place
    assert (place.expert, place.row * 256 // row.block_size + place.block) == (3, 11)


@pytest.mark.parametrize("name", TYPES)
def test_a_random_expert_of_any_type_is_found(kit, tmp_path, name):
    model = kit.make(GGML[name])
    expert = model.tensors[GATE].expert(6)
    expert[...] = np.random.default_rng(0).integers(0, 256, expert.shape, np.uint8)
    report = run(model, tmp_path)
    assert {finding.place.expert for finding in report.findings} == {6}
    assert report.fails(Severity.WARNING)


@pytest.mark.parametrize("name", ["Q4_0", "Q4_K", "Q6_K", "Q8_0", "MXFP4", "IQ4_XS", "Q2_K"])
def test_random_codes_behind_sane_scales_are_found(kit, tmp_path, name):
    model, row = kit.make(GGML[name]), FORMATS[name]
    expert = model.tensors[GATE].expert(6)
    kept = expert.copy()
    expert[...] = np.random.default_rng(0).integers(0, 256, expert.shape, np.uint8)
    for field in row.scales:
        width = 1 if field.kind == "e8m0" else 2
        expert[:, field.offset : field.offset + width] = kept[:, field.offset : field.offset + width]
    finding = next(f for f in run(model, tmp_path).findings if f.check == "blocks.code-histogram")
    assert finding.place.expert == 6


def test_a_shift_by_one_byte_is_found(kit, tmp_path):
    model = kit.load(QWEN)
    model.tensors[GATE].data = np.roll(model.tensors[GATE].data, 1)
    assert run(model, tmp_path).fails(Severity.ERROR)


@pytest.mark.parametrize(
    ("name", "factor"),
    [(name, factor) for name in ("Q4_K", "Q8_0", "MXFP4", "IQ4_XS", "TQ2_0", "Q6_K") for factor in (1000.0, 0.03)]
    + [("Q8_0", 0.001), ("MXFP4", 0.001), ("NVFP4", 100.0)],
)
def test_a_scaled_expert_is_an_outlier(kit, tmp_path, name, factor):
    model = kit.make(GGML[name])
    weights = 0.02 * np.random.default_rng(9).standard_normal((8, 256, 256), dtype=np.float32)
    weights[2] *= factor
    model.tensors[GATE] = kit.quantized(weights, GGML[name])
    found = {finding.place.expert for finding in run(model, tmp_path).findings if "outlier" in finding.check}
    assert found == {2}


def test_a_plain_expert_that_is_scaled_or_not_finite_is_found(kit, tmp_path):
    model = kit.make(GGML.Q8_0)
    weights = 0.02 * np.random.default_rng(9).standard_normal((8, 256, 256), dtype=np.float32)
    weights[2] *= 1000
    weights[4, 7, 13] = np.nan
    model.tensors[GATE] = kit.tensor((256, 256, 8), 0, weights.view(np.uint8).reshape(-1))
    report = run(model, tmp_path)
    assert only(report, "blocks.norm-outlier").place.expert == 2
    place = only(report, "blocks.value-not-finite").place
    assert (place.expert, place.row, place.block) == (4, 7, 13)


def test_a_huge_finite_scale_is_an_error(kit, tmp_path):
    model = kit.load(QWEN)
    put(model.tensors[GATE].expert(1), 3, 0, b"\xff\x7b")
    finding = only(run(model, tmp_path), "blocks.scale-huge")
    assert (finding.place.expert, finding.place.row, finding.value) == (1, 3, "65504 (0x7BFF)")


def test_mxfp4_exponents(kit, tmp_path):
    model = kit.load(GPT_OSS)
    expert = model.tensors[GATE].expert(1)
    expert[5, 0], expert[5, 1:] = 254, 0x77
    expert[9, 0], expert[9, 1:] = 20, 0x11
    expert[12, 0], expert[12, 1:] = 20, 0x80  # zeros only, of both signs: legal
    report = run(model, tmp_path)
    finding = only(report, "blocks.exponent-range")
    assert (finding.value, finding.count) == ("254", 2)
    assert only(report, "blocks.value-overflow").place.offset == finding.place.offset


def test_nvfp4_signs(kit, tmp_path):
    model = kit.make(GGML.NVFP4)
    model.tensors[GATE].expert(1)[5, 2] |= 0x80
    place = only(run(model, tmp_path), "blocks.nvfp4-sign").place
    assert (place.expert, place.row, place.block) == (1, 1, 1)


def test_signs_count_only_for_types_that_never_have_them(kit, tmp_path):
    for name, expected in (("Q4_K", {"blocks.scale-sign"}), ("Q6_K", set()), ("Q4_0", set())):
        model, row = kit.make(GGML[name]), FORMATS[name]
        model.tensors[GATE].expert(1)[5, row.scales[0].offset + 1] ^= 0x80
        assert ids(run(model, tmp_path)) == expected


def test_subnormal_scales_are_not_flagged(kit, tmp_path):
    model = kit.load(QWEN)
    put(model.tensors[GATE].expert(1), 5, 0, b"\x01\x00")
    assert ids(run(model, tmp_path)) == set()


@pytest.mark.parametrize("name", [QWEN, GPT_OSS])
def test_dead_experts_and_dead_layers(kit, tmp_path, name):
    model = kit.load(name)
    model.tensors[GATE].expert(3)[...] = 0
    finding = only(run(model, tmp_path), "blocks.dead-expert")
    assert finding.place.expert == 3
    model.tensors[GATE].data[...] = 0
    assert ids(run(model, tmp_path)) == {"blocks.dead-layer"}


def test_twin_experts_and_twin_tensors(kit, tmp_path):
    model = kit.load(QWEN)
    model.tensors[GATE].expert(6)[...] = model.tensors[GATE].expert(2)
    finding = only(run(model, tmp_path), "blocks.duplicate-expert")
    assert finding.place.expert == 6
    assert "expert 2" in finding.message
    model = kit.load(QWEN)
    model.tensors["blk.1.ffn_gate_exps.weight"] = model.tensors[GATE]
    assert only(run(model, tmp_path), "blocks.duplicate-tensor").place.tensor == "blk.1.ffn_gate_exps.weight"


def test_experts_larger_than_a_piece(kit, tmp_path, monkeypatch):
    from mmvq_cli.validate import scan

    model = kit.load("gptoss288-Q4_K_M")
    put(model.tensors[GATE].expert(7), 2500, 0, INF)
    model.tensors[GATE].expert(6)[...] = model.tensors[GATE].expert(2)
    whole = run(model, tmp_path)
    monkeypatch.setattr(scan, "PIECE_BYTES", 5000)
    assert run(model, tmp_path).findings == whole.findings
    assert ids(whole) == {"blocks.scale-not-finite", "blocks.duplicate-expert"}


def test_other_tensors_are_read_only_when_asked(kit, tmp_path):
    model = kit.load(QWEN)
    tensor = model.tensors["blk.0.attn_q.weight"]
    tensor.data.reshape(-1, 144)[200, :2] = (0, 0x7C)
    assert ids(run(model, tmp_path)) == set()
    finding = only(run(model, tmp_path, all_tensors=True), "blocks.scale-not-finite")
    assert (finding.place.expert, finding.place.row) == (None, 200)


def test_types_without_a_layout_are_named(kit):
    report = validate(Request(kit.data / "models" / "format-zoo.gguf", ("blocks",)))
    assert any("Q1_0" in note for note in report.not_checked)
    assert ids(report) == set()


def test_float32_scales(kit, tmp_path):
    model = kit.make(GGML.Q4_K)
    blocks = np.random.default_rng(0).integers(0, 256, (8, 256, 292), np.uint8)
    scales = np.random.default_rng(1).uniform(0.001, 0.002, (8, 256)).astype(np.float32)
    scales[3, 7], scales[5, 9] = np.nan, 1e30
    blocks[:, :, :4] = scales[..., None].view(np.uint8)
    model.tensors[GATE] = kit.tensor((256, 256, 8), int(GGML.Q8_K), blocks.reshape(-1))
    report = run(model, tmp_path)
    assert (only(report, "blocks.scale-not-finite").place.expert, only(report, "blocks.scale-huge").place.row) == (3, 9)


@pytest.mark.parametrize("name", ["Q4_K", "MXFP4", "NVFP4", "Q8_0", "IQ1_M", "Q8_K", "F32"])
def test_pieces_add_up_to_the_whole(kit, tmp_path, monkeypatch, name):
    size = FORMATS[name].type_size
    raw = np.random.default_rng(0).integers(0, 256, (4, 256, size), np.uint8)
    model = kit.make(GGML.Q4_K)
    ne = (FORMATS[name].block_size * 16, 16, 4)
    model.tensors = {GATE: kit.tensor(ne, FORMATS[name].id, raw.reshape(-1))}
    headers = (read_header(model.write(tmp_path / "x.gguf")),)
    (tensor,) = expert_tensors(group_layers(list_tensors(headers)))
    runs = [Run(tensor, expert, 1) for expert in range(4)]
    whole = [scan.scan(run) for run in runs]
    monkeypatch.setattr(scan, "PIECE_BYTES", 33 * size)  # a multiple of the sampling step
    pieces = [scan.scan(run) for run in runs]
    for one, other in zip(whole, pieces, strict=True):
        for left, right in zip(one.facts.fields, other.facts.fields, strict=True):
            assert (left.largest, left.is_negative) == (right.largest, right.is_negative)
            assert np.array_equal(left.powers, right.powers)
        assert np.array_equal(one.rms, other.rms)
        assert (one.facts.is_any, one.facts.has_odd_exponent) == (other.facts.is_any, other.facts.has_odd_exponent)


@pytest.mark.parametrize("name", ["Q4_K", "MXFP4", "NVFP4", "IQ1_M", "Q8_K"])
@pytest.mark.parametrize("n_blocks", [50, 6000])
def test_the_root_mean_square_of_scales(name, n_blocks):
    """By exact integers, against float64; beyond a number of scales they are counted by code."""
    blocks = np.random.default_rng(1).integers(0, 256, (2, n_blocks, FORMATS[name].type_size), np.uint8)
    for scales in scales_of(FORMATS[name]):
        magnitudes = scales.magnitudes(scales.read(blocks))
        magnitudes[magnitudes > scales.encoding.not_finite * 0.7] = 0
        values = scales.values(magnitudes)
        found = scales.root_mean_squares(scales.powers(magnitudes), values.shape[1])
        np.testing.assert_allclose(found, np.sqrt(np.square(values).mean(axis=1)), rtol=2e-3)
        if scales.encoding.kind != "f32":  # whose mantissas are cut to 10 bits
            np.testing.assert_allclose(found, np.sqrt(np.square(values).mean(axis=1)), rtol=1e-12)


def test_few_runs_are_under_way(kit, tmp_path):
    """The reader of the results goes along: a file with many tensors does not fill the memory."""

    class Pool:
        submitted = 0

        def submit(self, function, *arguments):
            self.submitted += 1
            done = Future()
            done.set_result(None)
            return done

    headers = (read_header(kit.load(QWEN).write(tmp_path / "x.gguf")),)
    tensors = list(expert_tensors(group_layers(list_tensors(headers)))) * 1000
    pool = Pool()
    next(blocks_layer._in_order(pool, tensors, None))
    assert pool.submitted == blocks_layer._RUNS_AHEAD * blocks_layer._WORKERS + 1
