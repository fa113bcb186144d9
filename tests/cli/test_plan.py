"""`mmvq plan`, without any GPU."""

import json
from pathlib import Path

import pytest

from mmvq_cli.cli.app import run
from mmvq_cli.op import known_devices

MODELS = Path(__file__).parents[1] / "data" / "models"
QWEN = str(MODELS / "qwen3moe-Q4_K_M.gguf")


def plans(capsys, *arguments):
    assert run(["plan", *arguments, "-o", "json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_kernel_rule_guarantee_launches_and_workspace_are_printed(capsys):
    assert (
        run(["plan", QWEN, "--tokens", "8", "-k", "down_exps/Q4_K", "--device", "H100", "--prefer", "reproducible"])
        == 0
    )
    out, err = capsys.readouterr()
    assert out.splitlines()[0].startswith("qwen3moe-Q4_K_M/blk.0.ffn_down_exps/Q4_K")
    for word in (
        "kernel ",
        "sm_90",
        "rule ",
        "guarantee ",
        "c = 128",
        "batch-invariant",
        "stream of stream.cu",
        "bytes",
    ):
        assert word in out
    assert err == ""


@pytest.mark.parametrize("device", known_devices())
def test_every_known_device_has_plans(capsys, device):
    (plan,) = plans(capsys, QWEN, "--tokens", "1", "-k", "gate", "--device", device)
    assert plan["sku"]["backend"] == ("cpu" if device == "cpu" else "cuda")
    assert plan["workspace_bytes"] == 0


def test_json_holds_what_a_program_needs(capsys):
    (plan,) = plans(capsys, "--preset", "qwen3-30b-a3b", "--tokens", "4", "--tensors", "down")
    assert plan["case"].startswith("qwen3-30b-a3b/down/")
    assert [launch["entry"] for launch in plan["launches"]][-1] == "combine"
    assert plan["workspace_bytes"] > 0
    assert plan["precision_guarantee"]["deterministic"] is True


def test_atomic_sums_are_said_to_be_not_deterministic(capsys):
    assert run(["plan", QWEN, "-k", "down", "--accumulate", "atomic"]) == 0
    assert "not deterministic" in capsys.readouterr().out


def test_what_cannot_be_planned_is_a_line_among_the_others(capsys):
    zoo = plans(capsys, str(MODELS / "format-zoo.gguf"), "--tokens", "1")
    (unsupported,) = (plan for plan in zoo if "unsupported" in plan)
    assert "Q1_0" in unsupported["unsupported"]
    assert len(zoo) == 24
    invalid = plans(capsys, "--preset", "gpt-oss-120b", "--formats", "Q4_K,Q8_0", "--tokens", "1", "--tensors", "gate")
    assert ["invalid" in plan for plan in invalid] == [True, False]
    assert run(["plan", "--preset", "gpt-oss-120b", "--formats", "Q4_K", "--tokens", "1", "--tensors", "gate"]) == 0
    assert "INVALID: n_cols is 2880" in capsys.readouterr().out
