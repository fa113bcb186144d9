"""`mmvq trace`, from a recording to a bench that replays it."""

import hashlib
import json

import numpy as np
import pytest
from safetensors.numpy import load_file

from mmvq_cli.cli.app import run
from mmvq_cli.resources import resource_root
from mmvq_cli.routing import draw, parse_routing
from mmvq_cli.routing.trace import read_trace


@pytest.fixture
def recording(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    keys = np.random.default_rng(0).random((64, 1, 8))
    np.savez("r.npz", topk_ids=np.argsort(keys, axis=2)[:, :, :2], request_offsets=np.arange(0, 65, 4), n_experts=8)
    assert run(["trace", "import", "r.npz", "-o", "r.moetrace.safetensors", "-q"]) == 0
    return tmp_path / "r.moetrace.safetensors"


def test_stats_as_a_table_and_as_json(recording, capsys):
    assert run(["trace", "stats", recording.name, "--ep", "2", "--lru"]) == 0
    text = capsys.readouterr().out
    assert "measured" in text
    assert "uniform" in text
    assert "█" in text
    assert run(["trace", "stats", recording.name, "-o", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["n_requests"] == 16


def test_convert_and_export(recording, capsys):
    assert run(["trace", "convert", recording.name, "-o", "back.npz"]) == 0
    assert np.array_equal(np.load("back.npz")["topk_ids"], np.load("r.npz")["topk_ids"])
    assert run(["trace", "convert", recording.name, "--counts", "-o", "c.moetrace.safetensors"]) == 0
    assert read_trace(recording.parent / "c.moetrace.safetensors").provenance == "counts-derived"
    assert run(["trace", "export", recording.name, "--to", "sglang", "-o", "load.json"]) == 0
    table = json.loads((recording.parent / "load.json").read_text())["logical_count"]
    assert np.sum(table) == 128
    assert run(["trace", "import", "load.json", "-o", "again.moetrace.safetensors"]) == 0
    assert run(["trace", "export", recording.name, "--to", "eplb", "-o", "load.npy"]) == 0
    assert np.load("load.npy").tolist() == table
    assert "wrote" in capsys.readouterr().err


def test_logits_for_kernels_without_ids_reproduce_the_routing(recording):
    assert run(["trace", "export", recording.name, "--to", "flashinfer", "--tokens", "8", "-o", "l.safetensors"]) == 0
    logits = load_file("l.safetensors")["routing_logits"]
    routing = draw(parse_routing(f"trace:{recording.name}"), 8, 2, 8, seed=0)
    assert np.array_equal(np.argsort(-logits, axis=1)[:, :2], routing.ids)
    chosen = np.exp(np.take_along_axis(logits, routing.ids.astype(int), axis=1))
    assert chosen / chosen.sum(axis=1, keepdims=True) == pytest.approx(routing.weights, abs=1e-3)


def test_synth_and_its_errors(recording, capsys):
    target = ["-o", "s.moetrace.safetensors", "-q"]
    assert run(["trace", "synth", "hier", "--preset", "gpt-oss", "--requests", "4", "--length", "8", *target]) == 0
    assert (
        run(["trace", "synth", "zipf", "--set", "s=1", "--experts", "16", "--top-k", "4", "--groups", "4/2", *target])
        == 0
    )
    assert run(["trace", "convert", recording.name, "--counts", "-o", "c.moetrace.safetensors", "-q"]) == 0
    assert run(["trace", "synth", "marginal", "--counts", "c.moetrace.safetensors", *target]) == 0
    assert run(["trace", "synth", "zipf", *target]) == 2
    assert run(["trace", "synth", "zipf", "--preset", "gpt-oss", *target]) == 2
    assert run(["trace", "synth", "zipf", "--set", "s", "--experts", "8", "--top-k", "2", *target]) == 2
    assert run(["trace", "import", "none.npz", *target]) == 4
    assert run(["trace", "import", "r.npz", "-o", "x.npz"]) == 2
    assert "hint: end it in .moetrace.safetensors" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["import", "stats", "convert", "export", "synth", "record-script"])
def test_every_subcommand_has_examples_first_and_exit_codes_last(command, capsys):
    assert run(["trace", command, "--help"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert text.index("Examples") < text.index("Options")
    assert text.endswith("130 interrupted")


@pytest.mark.parametrize("kind", ["hf", "llama-cpp"])
def test_recorder_scripts_are_python(kind, capsys):
    assert run(["trace", "record-script", kind]) == 0
    compile(capsys.readouterr().out, kind, "exec")


def test_bench_replays_a_trace_and_the_record_has_its_hash(recording, capsys):
    model = ["--preset", "mixtral-8x7b"]
    assert run(["bench", *model, "--routing", f"trace:{recording.name}", "--tokens", "4", "--list"]) == 0
    assert f"trace:{recording.name}" in capsys.readouterr().out
    assert run(["bench", *model, "--routing", f"trace:{recording.name}", "--tokens", "99", "--list"]) == 2
    assert run(["bench", *model, "--compose", "chunk", "--list"]) == 2
    capsys.readouterr()
    tiny = str(resource_root("configs") / "models" / "tiny-moe.gguf")
    arguments = ["--routing", f"trace:{recording.name}", "--compose", "chunk", "--tokens", "4", "--trace-layer", "0"]
    assert run(
        ["bench", tiny, *arguments, "--engine", "cpu", "--tensors", "gate", "--samples", "3", "-q", "-o", "jsonl"]
    ) in (0, 5)
    axes = json.loads(capsys.readouterr().out.splitlines()[0])["axes"]
    assert axes["trace_sha256"] == hashlib.sha256(recording.read_bytes()).hexdigest()
    assert axes["routing_provenance"] == "measured"
    assert axes["routing_statistics"]["m_total"] == 8
