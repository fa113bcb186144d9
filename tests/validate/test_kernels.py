"""`--kernels` on the CPU engine, wrong kernels included, and where blocks are looked at."""

from __future__ import annotations

import numpy as np
import pytest

from mmvq_cli.engine import discovery
from mmvq_cli.engine.cpu import engine as cpu_engine
from mmvq_cli.engine.cpu.product import multiply
from mmvq_cli.errors import EnvironmentInvalid
from mmvq_cli.validate import Request, facts, render, validate, validation


@pytest.fixture
def original(kit, tmp_path):
    return kit.load("qwen3moe-Q4_K_M").write(tmp_path / "original.gguf")


def checks(report):
    return {finding.check for finding in report.findings}


def test_kernels_are_listed_and_tried(kit):
    report = validate(Request(kit.data / "models" / "format-zoo.gguf", ("structure",), kernels=True, kernel_rows=3))
    answers = {name: answer.split(":")[0] for name, answer in report.kernels.items()}
    assert answers["Q4_K"] == "yes, right on 3 rows of 4 experts in each of 1 tensors"
    assert answers["Q1_0"] == "no"
    assert len(answers) == 24
    assert checks(report) == {"kernels.missing"}
    assert "Q4_K: yes" in render(report, "md")


def test_a_wrong_product_is_found(kit, original, monkeypatch):
    def product_off_by_one_row(descriptor, args):
        multiply(descriptor, args)
        args.output[...] = np.roll(args.output, 1, axis=-1)

    monkeypatch.setattr(cpu_engine, "multiply", product_off_by_one_row)
    report = validate(Request(original, ("structure",), kernels=True))
    assert checks(report) == {"kernels.wrong"}
    assert len(report.findings) == report.n_expert_tensors
    assert set(report.kernels.values()) == {"WRONG, see the findings"}
    assert "beyond their error bound" in report.findings[0].message


def test_a_wrong_decoder_is_found(original, monkeypatch):
    def last_bit(self, format, packed, n_cols):
        weights = decode(self, format, packed, n_cols)
        weights.view(np.uint32)[5, 7] ^= 1
        return weights

    decode = cpu_engine.CpuEngine.dequantize
    monkeypatch.setattr(cpu_engine.CpuEngine, "dequantize", last_bit)
    report = validate(Request(original, ("structure",), kernels=True))
    assert {finding.message for finding in report.findings} == {
        f"1 of {4 * 16 * 256} decoded weights differ from ggml's"
    }


def test_the_engine(original, monkeypatch):
    """`auto` starts CUDA for many blocks only; `cuda` always, and says so where it cannot."""
    asked = []
    monkeypatch.setattr(discovery, "cuda_available", lambda: (asked.append(1), (True, ""))[1])
    assert validate(Request(original, ("blocks",), engine="auto")).blocks_engine == "cpu"
    assert not asked
    monkeypatch.setattr(validation, "AUTO_BYTES", 1)
    monkeypatch.setattr(facts, "cuda_gather", lambda device_index: facts.facts_of)
    assert validate(Request(original, ("blocks",), engine="auto")).blocks_engine == "cuda"
    assert validate(Request(original, ("structure",), engine="auto")).blocks_engine is None


def test_a_gpu_that_is_not_there(original):
    if not discovery.cuda_available()[0]:
        with pytest.raises(EnvironmentInvalid):
            validate(Request(original, ("blocks",), engine="cuda"))
