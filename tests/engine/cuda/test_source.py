from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from mmvq_cli.engine.cuda import source
from mmvq_cli.engine.cuda.source import format_defines, render
from mmvq_cli.errors import EnvironmentInvalid
from mmvq_cli.op.formats import FORMATS


@pytest.fixture
def kernels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty kernels/ folder in place of the real one."""
    monkeypatch.setattr(source, "resource_root", lambda name: tmp_path)
    return tmp_path


def test_inlines_once_with_line_directives(kernels):
    (kernels / "a.cu").write_text('#include "b.cuh"\nint a;\n  #  include "b.cuh"\n#include <cstdint>\n')
    (kernels / "b.cuh").write_text("int b;\n")
    assert render("a.cu", {"TWO": 2, "ONE": "x"}).text == (
        "#define ONE x\n"
        "#define TWO 2\n"
        '#line 1 "kernels/a.cu"\n'
        '#line 1 "kernels/b.cuh"\n'
        "int b;\n"
        '#line 2 "kernels/a.cu"\n'
        "int a;\n"
        '#line 4 "kernels/a.cu"\n'
        "#include <cstdint>\n"
    )


def test_include_paths_name_defines(kernels):
    (kernels / "a.cu").write_text('#include "formats/FAMILY.cuh"\n')
    (kernels / "formats").mkdir()
    (kernels / "formats" / "iq9.cuh").write_text("struct Nine;\n")
    assert "struct Nine;" in render("a.cu", {"FAMILY": "iq9"}).text


def test_a_missing_file_names_who_needs_it(kernels):
    (kernels / "a.cu").write_text('int a;\n#include "gone.cuh"\n')
    with pytest.raises(EnvironmentInvalid, match=r"kernels/gone\.cuh, needed by kernels/a\.cu\(2\)") as caught:
        render("a.cu", {})
    assert "reinstall" in caught.value.hint


def test_sha_follows_every_byte(kernels):
    (kernels / "a.cu").write_text('#include "b.cuh"\n')
    (kernels / "b.cuh").write_text("int b;\n")
    before = render("a.cu", {"N": 1})
    assert before.sha256 == hashlib.sha256(before.text.encode()).hexdigest()
    assert before == render("a.cu", {"N": 1})
    assert before.sha256 != render("a.cu", {"N": 2}).sha256
    (kernels / "b.cuh").write_text("int c;\n")
    assert before.sha256 != render("a.cu", {"N": 1}).sha256


@pytest.mark.parametrize("format", FORMATS.values(), ids=str)
def test_only_the_family_of_the_format_is_compiled(format):
    text = render("dequantize.cu", format_defines(format)).text
    families = {f.family for f in FORMATS.values() if f'"kernels/formats/{f.family}.cuh"' in text}
    assert families == {format.family}
    assert f"struct Format<{format.id}>" in text
    assert '#include "' not in text
