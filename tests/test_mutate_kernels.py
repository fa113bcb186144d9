"""The faults that are put into kernels, and how what becomes of them is counted."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from mmvq_cli.resources import resource_root
from scripts import mutate_kernels
from scripts.kernel_mutants import (
    Equivalent,
    Line,
    Mutant,
    all_mutants,
    changes,
    choose,
    code_lines,
    equivalents,
    named,
)
from scripts.mutate_kernels import (
    BAR,
    KILLED,
    NOT_COMPILED,
    RESULT,
    SURVIVED,
    TIMEOUT,
    Outcome,
    report,
    score,
)
from tests.host_target.driver import find_compiler

ROOT = resource_root("kernels")
SOURCES = {str(path.relative_to(ROOT)): path.read_text(encoding="utf-8") for path in ROOT.rglob("*.cu*")}


def changed(text):
    """Every (kind, changed line) of a line that starts a statement."""
    line = Line(1, 0, text, True)
    return {(kind, text[:at] + new + text[at + len(old) :]) for kind, at, old, new in changes(line)}


@pytest.mark.parametrize(
    ("text", "kind", "result"),
    [
        ("sum += a * b;", "operator", "sum += a + b;"),
        ("sum += a * b;", "operator", "sum -= a * b;"),
        ("sum += a * b;", "dropped", ";"),
        ("if (i < n) x = y;", "bound", "if (i <= n) x = y;"),
        ("if (i < n) x = y;", "condition", "if (!(i < n)) x = y;"),
        ("const int k = min(a, 8);", "min/max", "const int k = (std::max)(a, 8);"),
        ("const int k = min(a, 8);", "constant", "const int k = min(a, 7);"),
        ("return word >> 4 & 0x0Fu;", "shift", "return word << 4 & 0x0Fu;"),
        ("return word >> 4 & 0x0Fu;", "mask", "return word >> 4 & 0xEu;"),
        ("float sum = 0.0f;", "constant", "float sum = 1.0f;"),
        ("total += bytes[i];", "index", "total += bytes[(i) ^ 1];"),
        ("low = bytes.lo;", "index", "low = bytes.hi;"),
        ("block_barrier();", "barrier", ";"),
        ("if (lane == 0) barrier_arrive(s.empty + stage);", "barrier", "if (lane == 0) ;"),
        ("codes = load_u8x8<2>(p);", "constant", "codes = load_u8x8<4>(p);"),
    ],
)
def test_a_line_is_changed(text, kind, result):
    assert (kind, result) in changed(text)


def test_what_is_no_fault_is_left_out():
    assert not any("float w[9]" in after for _, after in changed("float w[8] = {};"))  # only larger
    assert not any("u8x8<1>" in after for _, after in changed("codes = load_u8x8<2>(p);"))  # only slower


def test_code_is_what_the_host_compiles():
    text = "// a + b\n#ifdef MMVQ_HOST\nhost = 1;\n#else\ngpu = 1;\n#endif\n#if X\nboth = 1;  // 2\n#endif\n"
    assert [line.text for line in code_lines(text)] == ["host = 1;", "both = 1;"]
    assert not any("asm" in line.text for line in code_lines(SOURCES["ptx/copies.cuh"]))


def test_the_choice_depends_on_the_seed_alone_and_spreads():
    first, again, other = (choose(SOURCES, seed, 200) for seed in (0, 0, 1))
    assert first == again != other
    assert len({(mutant.file, mutant.line) for mutant in first}) == 200
    assert {mutant.kind for mutant in first} >= {"operator", "constant", "bound", "mask", "index", "dropped", "barrier"}


def test_an_edit_changes_few_mutants():
    text = SOURCES["combine.cu"]
    edited = SOURCES | {"combine.cu": "float first = 1.0f;\n" + text.replace("sum = begin", "sum = 1 + begin")}
    kept = {(mutant.file, mutant.before, mutant.after) for mutant in choose(SOURCES, 0, 100)}
    assert len(kept & {(mutant.file, mutant.before, mutant.after) for mutant in choose(edited, 0, 100)}) >= 97


def test_a_mutant_changes_its_file_in_one_place():
    for file, text in SOURCES.items():
        for mutants in all_mutants(file, text):
            for mutant in mutants:
                lines = zip(text.splitlines(), mutant.apply(text).splitlines(), strict=True)
                ((before, after),) = [(old, new) for old, new in lines if old != new]
                assert before.strip().startswith(mutant.before)
                assert after.strip().startswith(mutant.after)


def test_the_named_mutants_fit_the_kernels():
    mutants = named(SOURCES)
    assert len(mutants) >= 30
    assert len({mutant.kind for mutant in mutants}) == len(mutants)


def test_a_named_mutant_without_its_place_is_refused():
    with pytest.raises(ValueError, match=r"stands 0 times in grouped\.cu"):
        named(SOURCES | {"grouped.cu": ""})


def test_the_equivalents_stand_in_the_kernels():
    for row in equivalents():
        made = {(mutant.before, mutant.after) for line in all_mutants(row.file, SOURCES[row.file]) for mutant in line}
        assert (row.before, row.after) in made, row
        assert row.why


def test_every_file_has_its_tests():
    for file, text in SOURCES.items():
        for mutants in all_mutants(file, text):
            assert mutate_kernels.tests_of(mutants[0], text)


def mutant(after="b", file="combine.cu"):
    return Mutant(file, 0, "a", after, "operator", 1, "a", after)


def test_the_score_counts_kills_of_what_compiles_and_is_no_equivalent(monkeypatch):
    monkeypatch.setattr(mutate_kernels, "equivalents", lambda: [Equivalent("combine.cu", "a", "same", "because")])
    results = [KILLED, KILLED, TIMEOUT, SURVIVED, NOT_COMPILED]
    outcomes = [Outcome(mutant(f"b{number}"), result) for number, result in enumerate(results)]
    found = score([*outcomes, Outcome(mutant("same"), SURVIVED)])
    assert found.share == 3 / 4
    assert [survivor.after for survivor in found.survivors] == ["b3"]
    assert [why for _, why in found.excused] == ["because"]
    page = report(found, "the command")
    assert "**Score 75.0 %**" in page
    assert "| combine.cu | 2 | 1 | 1 | 1 | 1 |" in page
    assert "`the command`" in page


def test_an_equivalent_that_is_noticed_is_wrong(monkeypatch):
    monkeypatch.setattr(mutate_kernels, "equivalents", lambda: [Equivalent("combine.cu", "a", "b", "because")])
    assert score([Outcome(mutant(), KILLED)]).wrong_excuses == (mutant(),)


@pytest.mark.skipif(not RESULT.exists(), reason="no recorded run: python -m scripts.mutate_kernels")
def test_the_committed_result_meets_the_bar():
    page = RESULT.read_text(encoding="utf-8")
    assert float(re.search(r"Score ([\d.]+) %", page)[1]) >= 100 * BAR
    assert int(re.search(r"(\d+) mutants compile", page)[1]) >= 200 + 30


@pytest.mark.skipif(bool(find_compiler().missing), reason=find_compiler().missing)
def test_a_fault_is_killed_and_a_comment_survives():
    at = SOURCES["validate.cu"].index("report[1] = position;")
    mutants = [
        Mutant("validate.cu", at, "report[1] = position;", new, "named", 11, "report[1] = position;", new)
        for new in ("oops;", "*report = 9;", "report[1] = position; /* the same */")
    ]
    outcomes = mutate_kernels.try_all(mutants, Path(ROOT), processes=2)
    assert [outcome.result for outcome in outcomes] == [NOT_COMPILED, KILLED, SURVIVED]
    assert "test_validate_routing" in outcomes[1].by
