"""`mmvq inspect` through its own small app."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from mmvq_cli.cli.inspect import inspect
from mmvq_cli.errors import ModelError

DATA = Path(__file__).parents[1] / "data"
MODELS = sorted((DATA / "models").glob("*.gguf"))


@pytest.fixture(scope="module")
def run():
    app = typer.Typer()
    app.command()(inspect)
    return lambda *args: CliRunner().invoke(app, [str(arg) for arg in args])


@pytest.mark.parametrize("output", ["table", "md", "json"])
@pytest.mark.parametrize("model", MODELS, ids=lambda path: path.stem)
def test_every_fixture(run, model, output):
    result = run(model, "-o", output)
    assert result.exit_code == 0, result.output
    assert max(map(len, result.stdout.splitlines())) <= 100 or output != "table"
    for role in ("up", "down") if "zoo" not in model.name else ("up",):
        assert role in result.stdout
    assert ("UNSUPPORTED" in result.stdout or output == "json") == ("zoo" in model.name or output == "json")


def test_table(run):
    lines = run(DATA / "models" / "gptoss288-Q4_K_M.gguf").stdout.splitlines()
    assert "gpt-oss: 2 layers, 2 with experts, 8 experts, top-k 2" in lines
    rows = [" ".join(line.split()) for line in lines if line.strip().startswith("blk.")]
    assert "blk.0-1 gate Q5_0 8 x 288 x 288 0.435 0.870 5.50 yes" in rows
    assert "blk.1 down Q8_0 8 x 288 x 288 0.672 0.672 8.50 yes" in rows
    assert "blk.0-1 expert bias ffn_up_exps.bias F32 288 x 8 18.00" in rows
    assert "note: expert biases lie outside the blocks: bench does not apply them" in lines


def test_json_has_bytes_and_reasons(run):
    summary = json.loads(run(DATA / "models" / "format-zoo.gguf", "-o", "json").stdout)
    assert (summary["architecture"], summary["n_layers"], summary["n_experts"]) == ("qwen3moe", 24, 4)
    reasons = {row["format"]: row["unsupported"] for row in summary["experts"]}
    assert "Q1_0 has no kernel: gguf-py has no dequantizer" in reasons.pop("Q1_0")
    assert set(reasons.values()) == {None}


def test_warning_is_shown(run, tmp_path):
    model = tmp_path / "x.gguf"
    model.write_bytes((DATA / "models" / "llama-Q3_K_M.gguf").read_bytes() + bytes(100))
    text = " ".join(run(model).stdout.split())
    assert "100 bytes follow the last tensor" in text


def test_malformed_file(run):
    assert isinstance(run(DATA / "hostile" / "43_dup_tensor.gguf").exception, ModelError)


def write_sparse(path, n_bytes):
    """Write a file of Mixtral's kind: a header, and `n_bytes` or more of data that are holes."""
    from gguf import GGMLQuantizationType, GGUFWriter

    writer = GGUFWriter(path, "llama")
    writer.add_block_count(32)
    writer.add_expert_count(64)
    writer.add_expert_used_count(8)
    writer.add_array("tokenizer.ggml.tokens", [f"token{i}" for i in range(32_000)])
    per_tensor = 64 * 4096 * 14336 // 256 * 144
    layers = min(32, -(-n_bytes // (3 * per_tensor)))
    for layer in range(layers):
        for name, shape in (("gate", (64, 14336, 4096)), ("up", (64, 14336, 4096)), ("down", (64, 4096, 14336))):
            bytes_shape = (*shape[:2], shape[2] // 256 * 144)
            writer.add_tensor_info(
                f"blk.{layer}.ffn_{name}_exps.weight", bytes_shape, np.dtype(np.uint8), per_tensor,
                GGMLQuantizationType.Q4_K,
            )  # fmt: skip
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()
    with path.open("r+b") as file:
        start = -(-file.seek(0, 2) // 32) * 32
        file.truncate(start + 3 * layers * per_tensor)


def seconds(*arguments):
    """The shortest of three runs of a whole process: the others may have shared the core."""
    times = []
    for _ in range(3):
        start = time.perf_counter()
        subprocess.run([sys.executable, *arguments], check=True, capture_output=True)
        times.append(time.perf_counter() - start)
    return min(times)


SMALL = DATA / "models" / "llama-Q3_K_M.gguf"
APP = "import typer, mmvq_cli.cli.inspect as m; a = typer.Typer(); a.command()(m.inspect); a()"


def test_process_time(tmp_path):
    assert seconds("-c", APP, str(SMALL)) < 0.9  # the bar is 0.5 s, on an idle machine
    sparse = tmp_path / "sparse.gguf"
    write_sparse(sparse, 100 * 10**9)
    assert sparse.stat().st_size > 100 * 10**9
    assert seconds("-c", APP, str(sparse)) < 1.0


def test_heavy_packages_are_not_imported():
    code = (
        "import sys, pathlib; from mmvq_cli.model import open_model, summarize; "
        f"summarize(open_model(pathlib.Path({str(SMALL)!r}))); print(*sys.modules)"
    )
    modules = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()
    assert not {"numpy", "gguf", "pandas", "cupy", "rich"} & set(modules)
