"""scripts/compile_kernels.py: what it prints, and the exit code for a spill and for a source that does not compile."""

from __future__ import annotations

import json

import pytest

from mmvq_cli.engine.cuda import Resources, variants
from mmvq_cli.engine.cuda.variants import Compiled
from mmvq_cli.errors import BuildError
from scripts import compile_kernels


def compiled(name="grouped.cu Q4_K f32", spill_bytes=0, waits=False):
    return Compiled(name, "sm_90", 4096, "a" * 64, (Resources("grouped", 96, 0, 0, spill_bytes),), waits)


@pytest.fixture
def run(monkeypatch, capsys):
    """Run the script over outcomes made up here."""

    def run(*outcomes, arguments=("--arch", "sm_90")):
        monkeypatch.setattr(compile_kernels, "outcomes", lambda work, jobs: iter(outcomes))
        monkeypatch.setattr(compile_kernels, "nvrtc_version", lambda: "13.5")
        code = compile_kernels.main(arguments)
        return code, *capsys.readouterr()

    return run


def test_all_well(run):
    code, out, err = run(compiled())
    assert code == 0
    assert "| grouped.cu Q4_K f32 | grouped | sm_90 | 96 | 0 | 0 | 0 | 4096 |" in out
    assert "1 compiled, 0 failed, 0 spill" in err


def test_a_spill_is_an_error_unless_it_is_a_listed_exception(run, monkeypatch):
    code, _, err = run(compiled(spill_bytes=16))
    assert code == 3
    assert "grouped.cu Q4_K f32 spills 16 bytes on sm_90" in err
    monkeypatch.setitem(variants.ALLOWED_SPILL_BYTES, ("grouped.cu Q4_K f32", "sm_90"), 16)
    assert run(compiled(spill_bytes=16))[0] == 0
    assert run(compiled(spill_bytes=20))[0] == 3


def test_products_that_are_waited_for_one_by_one_are_an_error(run):
    code, _, err = run(compiled(waits=True))
    assert code == 3
    assert "grouped.cu Q4_K f32 waits for its products one by one on sm_90" in err


def test_equal_failures_are_said_once_and_the_rest_is_still_shown(run):
    failure = BuildError("kernels/grouped.cu does not compile", log="long")
    code, out, err = run(failure, failure, compiled())
    assert code == 4
    assert err.count("error:") == 1
    assert "(2 sources)" in err
    assert "grouped.cu Q4_K f32" in out


def test_json_has_every_field(run):
    _, out, _ = run(compiled(), arguments=("--arch", "sm_90", "-o", "json"))
    document = json.loads(out)
    assert document["nvrtc"] == "13.5"
    assert document["compiled"][0]["kernels"][0]["registers"] == 96


def test_a_misspelled_architecture_is_a_usage_error(run):
    code, _, err = run(arguments=("--arch", "90"))
    assert code == 2
    assert "spell it like sm_90" in err
