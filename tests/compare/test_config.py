"""Gate settings: presets, files, the command line, and what is refused."""

import pytest

from mmvq_cli.compare import PRESETS, TAU, FailOn, GateConfig, Growth, load_config, share
from mmvq_cli.errors import OpenError, UsageError


def test_the_default_preset_is_the_built_in_one():
    assert load_config() == GateConfig()
    assert load_config().thresholds.tau == TAU == 0.03


@pytest.mark.parametrize("preset", PRESETS)
def test_a_dumped_config_is_read_back(preset, tmp_path):
    config = load_config(preset, thresholds=[r"Q6_K.*-t1-=5%", 'quo"ted\\.=4%'])
    path = tmp_path / "gate.toml"
    path.write_text(config.to_toml())
    assert load_config(path=path) == config


def test_presets_are_ordered():
    strict, default, permissive = (load_config(p) for p in PRESETS)
    assert strict.thresholds.tau < default.thresholds.tau < permissive.thresholds.tau
    assert permissive.fail_on < default.fail_on < strict.fail_on


def test_the_command_line_wins_over_the_file_over_the_preset(tmp_path):
    path = tmp_path / "gate.toml"
    path.write_text('tau = "7%"\nfloor_ns = 50\n[rows]\n"Q6" = 0.2\n[static]\nregisters = "10%"\n')
    config = load_config("strict", path, ["4%", "Q6_K=0.1"], "correctness,missing")
    assert config.thresholds.tau == 0.04
    assert config.thresholds.floor_ns == 50
    assert config.thresholds.tau_suite == 0.005
    assert config.limits_of("x/Q6_K").tau == 0.1
    assert config.limits_of("x/Q6").tau == 0.2
    assert config.limits_of("x/Q4_K").tau == 0.04
    assert config.fail_on == {FailOn.MISSING}
    assert config.static["registers"] == Growth(share=0.1)


@pytest.mark.parametrize(("text", "value"), [("3%", 0.03), ("0.03", 0.03), (0.5, 0.5), (" 10 % ", 0.1), (0, 0)])
def test_shares(text, value):
    assert share(text) == pytest.approx(value)


@pytest.mark.parametrize("text", ["-1%", "a", "", "2000%", "nan"])
def test_no_shares(text):
    with pytest.raises(UsageError, match="is not a share"):
        share(text)


@pytest.mark.parametrize(
    ("toml", "words"),
    [
        ("tua = 1", "unknown setting 'tua'"),
        ("[static]\nregs = 1", "unknown metric 'regs'"),
        ("[static]\nregisters = -1", "registers is -1"),
        ("floor_ns = true", "floor_ns is True"),
        ('fail_on = ["sometimes"]', "sometimes"),
        ('[rows]\n"(" = 0.1', "not a regular expression"),
        ("tau = ", "is not TOML"),
    ],
)
def test_a_file_that_means_nothing_is_refused(tmp_path, toml, words):
    path = tmp_path / "gate.toml"
    path.write_text(toml)
    with pytest.raises(UsageError, match=words.replace("(", r"\(")):
        load_config(path=path)


def test_what_is_not_there_is_refused(tmp_path):
    with pytest.raises(OpenError, match="cannot read"):
        load_config(path=tmp_path / "none.toml")
    with pytest.raises(UsageError, match="no gate preset"):
        load_config("lax")
