"""Faults to put into the kernels: a seeded choice over all their lines, and a named list.

Left out are lines that the host does not compile (the GPU's halves of `ptx/`), comments, preprocessor lines, launch
bounds and static assertions: a run on the host cannot show what they say.
"""

from __future__ import annotations

import random
import re
import tomllib
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

LIST = Path(__file__).with_name("kernel_mutants.toml")


@dataclass(frozen=True, slots=True)
class Mutant:
    """One fault: `old`, at `offset` of the text of `kernels/<file>`, becomes `new`.

    `line` is its number, `before` and `after` that line without indentation; `kind` is a class of faults or a name.
    """

    file: str
    offset: int
    old: str
    new: str
    kind: str
    line: int
    before: str
    after: str

    def apply(self, text: str) -> str:
        """Put it into the file's text."""
        assert text.startswith(self.old, self.offset)
        return text[: self.offset] + self.new + text[self.offset + len(self.old) :]


@dataclass(frozen=True, slots=True)
class Equivalent:
    """A change that nothing can notice, as `Mutant` has it, and why."""

    file: str
    before: str
    after: str
    why: str


@dataclass(frozen=True, slots=True)
class Line:
    """A line of code: its number, the offset of its first character that is no blank, and its text from there."""

    number: int
    offset: int
    text: str
    starts_statement: bool


# What a token turns into; binary operators stand between blanks, and template brackets do not.
_OPERATORS = {
    "+": "-", "-": "+", "*": "+", "/": "*", "%": "/", "&": "|", "|": "&", "^": "|", "&&": "||", "||": "&&",
    "+=": "-=", "-=": "+=", "*=": "+=", "/=": "-=", "^=": "|=", "|=": "^=",
}  # fmt: skip
_BOUNDS = {"<": "<=", "<=": "<", ">": ">=", ">=": ">", "==": "!=", "!=": "=="}
_SHIFTS = {"<<": ">>", ">>": "<<"}
_PARTS = {"lo": "hi", "hi": "lo", "x": "y", "y": "x", "z": "w", "w": "z"}
_TOKEN = re.compile(r"(?<= )(?:&&|\|\||<<|>>|[-+*/^|!=<>]=|[-+*/%&|^<>])(?= )")
_NUMBER = re.compile(r"(?<![\w.])(0x[0-9A-Fa-f]+|\d+)(?=u?(?:ll)?\b)(?!\w*\.)")
_FLOAT = re.compile(r"(?<![\w.])\d+\.\d+(?=f\b)")
_ALIGNMENT = re.compile(r"(?:(?<=load_u8x4<)|(?<=load_u8x8<)|(?<=load_halves<))\d+")
_PART = re.compile(r"(?<=\w\.)(?:lo|hi|x|y|z|w)\b")
_INDEX = re.compile(r"(?<=[\w)]\[)[^\[\]]+(?=\])")
_CONDITION = re.compile(r"^(?:} else )?if \((.*?)\)(?= [^-+*/%&|^<>=?]| \{|$)")
_STATEMENT = re.compile(
    r"^(?:(?:if \(.*?\)|else) )?((?:[\w.]+(?:\[.*?\])*|\+\+\w+) (?:[-+*/|^]?=) .*;|continue;|break;)$"
)
_CALL = re.compile(r"^(?:(?:if \(.*?\)|else) )?([\w.:]+(?:<[^;]*?>)?\([^;{]*\);)$")
_BODY = re.compile(r"^DEVICE void .*\{ (.+;) \}$")
_DECLARATION = re.compile(r"^(?:static |constexpr |const |SHARED )*[\w:]+(?:<.*?>)?[*&]? (?:const )?\w+\[")
# Checked by the compiler (fields and sizes of blocks, fields of arguments), checks themselves, or ignored by the host.
_LEFT_OUT = re.compile(
    r"static_assert|assert\(|using |template|KERNEL_|#|extern |struct |static constexpr int block_size"
    r"|(?:const )?(?:u?int\d+_t|float|void)\*? \w+(?:, \w+)*(?:\[\d+\])?;"
)
_PARAMETER = re.compile(r"\(&\w+\)\[\w+\]")
_OPEN = re.compile(r"(?:^|[;{}:)]|else)$")


def code_lines(text: str) -> Iterator[Line]:
    """Yield the lines that the host compiles and that can be changed."""
    branches: list[str] = []
    offset, before = 0, ""
    for number, line in enumerate(text.splitlines(keepends=True), start=1):
        code = line.split("//")[0].strip()
        if code.startswith("#if"):
            branches.append("host" if code == "#ifdef MMVQ_HOST" else "any")
        elif code == "#else":
            branches[-1] = {"host": "gpu", "any": "any"}[branches[-1]]
        elif code == "#endif":
            branches.pop()
        elif code and "gpu" not in branches and not _LEFT_OUT.match(code):
            indentation = len(line) - len(line.lstrip())
            yield Line(number, offset + indentation, code, bool(_OPEN.search(before)))
        if code and not code.startswith("#"):
            before = code
        offset += len(line)


def changes(line: Line) -> Iterator[tuple[str, int, str, str]]:
    """Yield kind, position in the line, old and new text of every change of one line."""
    text = _PARAMETER.sub(lambda match: "_" * len(match[0]), line.text)
    if "scale_group" in text:  # a smaller group is right too
        if (at := text.find("= 16;")) >= 0:
            yield "constant", at + 2, "16", "32"
        return
    declared = _DECLARATION.match(text) and not text.startswith("return")
    for match in _TOKEN.finditer(text):
        for kind, table in (("operator", _OPERATORS), ("bound", _BOUNDS), ("shift", _SHIFTS)):
            if match[0] in table:
                yield kind, match.start(), match[0], table[match[0]]
    alignments = {match.start() for match in _ALIGNMENT.finditer(text)}
    for match in _NUMBER.finditer(text):
        value = int(match[0], 0)
        if match.start() in alignments:  # less is as good on the host: only more is a fault
            if value < 4 or text.startswith("8<", match.start() - 2):
                yield "constant", match.start(), match[0], str(2 * value)
        elif match[0].startswith("0x"):
            yield "mask", match.start(), match[0], f"0x{value ^ (value & -value or 1):X}"
        else:
            if value:
                yield "constant", match.start(), match[0], str(value - 1)
            if not (declared and text[match.start() - 1] == "["):  # a larger array is no fault
                yield "constant", match.start(), match[0], str(value + 1)
    for match in _FLOAT.finditer(text):
        yield "constant", match.start(), match[0], str(float(match[0]) + 1)
    for match in re.finditer(r"(?<![\w.])min(?=\()", text):
        yield "min/max", match.start(), "min", "(std::max)"
    for match in re.finditer(r"\b(?:true|false)\b", text):
        yield "condition", match.start(), match[0], {"true": "false", "false": "true"}[match[0]]
    for match in _PART.finditer(text):
        yield "index", match.start(), match[0], _PARTS[match[0]]
    if not declared:
        for match in _INDEX.finditer(text):
            yield "index", match.start(), match[0], f"({match[0]}) ^ 1"
    condition = _CONDITION.match(text)
    if condition and condition[1].count("(") == condition[1].count(")"):
        yield "condition", condition.start(1), condition[1], f"!({condition[1]})"
    statement = _BODY.match(text)
    if line.starts_statement:
        statement = statement or _STATEMENT.match(text) or _CALL.match(text)
    if statement:
        kind = "barrier" if re.search(r"barrier|_wait|_commit|copy_", statement[1]) else "dropped"
        yield kind, statement.start(1), statement[1], ";"


def all_mutants(file: str, text: str) -> Iterator[list[Mutant]]:
    """Yield, for each line that can be changed, all its mutants."""
    for line in code_lines(text):
        mutants = []
        for kind, at, old, new in changes(line):
            after = line.text[:at] + new + line.text[at + len(old) :]
            mutants.append(Mutant(file, line.offset + at, old, new, kind, line.number, line.text, after))
        if mutants:
            yield mutants


def choose(sources: Mapping[str, str], seed: int, count: int) -> list[Mutant]:
    """Choose `count` mutants: lines at random without repetition, of each a class of faults, then one of the class.

    `sources` are texts by name below `kernels/`. The draw of a line depends on the seed and its text, not on the other
    lines, so that an edit changes a few mutants only. A second mutant of a line comes when every line has one.
    """
    drawn: list[tuple[int, float, Mutant]] = []
    for file, text in sorted(sources.items()):
        seen: Counter[str] = Counter()
        for mutants in all_mutants(file, text):
            line = mutants[0].before
            rng = random.Random(f"{seed} {file} {line} {seen[line]}")
            seen[line] += 1
            for number in range(len(mutants)):
                kind = rng.choice(sorted({mutant.kind for mutant in mutants}))
                mutant = rng.choice([mutant for mutant in mutants if mutant.kind == kind])
                mutants.remove(mutant)
                drawn.append((number, rng.random(), mutant))
    chosen = [mutant for _, _, mutant in sorted(drawn, key=lambda row: row[:2])[:count]]
    return sorted(chosen, key=lambda mutant: (mutant.file, mutant.offset))


def named(sources: Mapping[str, str]) -> list[Mutant]:
    """Read the named mutants.

    Raises `ValueError` for one whose old text does not stand exactly once in its file.
    """
    mutants = []
    for row in tomllib.loads(LIST.read_text(encoding="utf-8"))["mutant"]:
        text = sources.get(row["file"], "")
        if text.count(row["old"]) != 1:
            raise ValueError(f"{row['name']}: {row['old']!r} stands {text.count(row['old'])} times in {row['file']}")
        offset = text.index(row["old"])
        line = text.count("\n", 0, offset) + 1
        before, after = (" ".join(row[key].split()) for key in ("old", "new"))
        mutants.append(Mutant(row["file"], offset, row["old"], row["new"], row["name"], line, before, after))
    return mutants


def equivalents() -> list[Equivalent]:
    """Read the changes that count as equivalent."""
    rows = tomllib.loads(LIST.read_text(encoding="utf-8")).get("equivalent", [])
    return [Equivalent(**row) for row in rows]


_STRUCT = re.compile(r"struct Format<(\d+)>")


def format_at(text: str, offset: int) -> int | None:
    """Find the type number of the format whose struct a place of a file belongs to; None before the first."""
    found = [int(match[1]) for match in _STRUCT.finditer(text, 0, text.index("\n", offset))]
    return found[-1] if found else None
