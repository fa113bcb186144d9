"""One self-contained text per kernel: includes inlined, defines in front, named by its sha256.

Compilers cache by source text, so headers that they would fetch themselves could change unnoticed; here every byte
that reaches the compiler is in `Source.text`. `#line` directives keep error messages at the real file and line.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from mmvq_cli.engine.cuda.codebooks import codebook_source
from mmvq_cli.errors import EnvironmentInvalid
from mmvq_cli.op.formats import Format
from mmvq_cli.resources import resource_root

_INCLUDE = re.compile(r'\s*#\s*include\s+"([^"]+)"')
_CODEBOOKS = "codebooks.generated"


@dataclass(frozen=True, slots=True)
class Source:
    """A complete translation unit and the sha256 (hex) of its UTF-8 text."""

    text: str
    sha256: str


def format_defines(format: Format) -> dict[str, int | str]:
    """Name the defines that choose the weight format in `kernels/format.cuh`."""
    return {
        "MMVQ_FORMAT": format.id,
        "MMVQ_FAMILY": format.family,
        "MMVQ_BLOCK_SIZE": format.block_size,
        "MMVQ_TYPE_SIZE": format.type_size,
    }


def render(entry_file: str, defines: Mapping[str, int | str]) -> Source:
    """Inline `entry_file` (a path below kernels/) and what it includes; each file once, `defines` sorted in front.

    In an include path the name of a define stands for its value, and `codebooks.generated` for the tables of
    MMVQ_FAMILY. Raises `EnvironmentInvalid` when a file is missing.
    """
    head = [f"#define {name} {value}" for name, value in sorted(defines.items())]
    inliner = _Inliner(resource_root("kernels"), defines)
    text = "\n".join([*head, *inliner.lines(entry_file, included_by="the entry point")]) + "\n"
    return Source(text, hashlib.sha256(text.encode()).hexdigest())


@dataclass
class _Inliner:
    root: Path
    defines: Mapping[str, int | str]
    seen: set[str] = field(default_factory=set)

    def lines(self, name: str, included_by: str) -> Iterator[str]:
        """Yield the lines of one file with its includes in place; nothing when it was there before."""
        if name in self.seen:
            return
        self.seen.add(name)
        yield f'#line 1 "kernels/{name}"'
        for number, line in enumerate(self._read(name, included_by).splitlines(), start=1):
            if match := _INCLUDE.match(line):
                yield from self.lines(self._resolve(match[1]), included_by=f"kernels/{name}({number})")
                yield f'#line {number + 1} "kernels/{name}"'
            else:
                yield line

    def _resolve(self, path: str) -> str:
        return re.sub(r"\w+", lambda word: str(self.defines.get(word[0], word[0])), path)

    def _read(self, name: str, included_by: str) -> str:
        if name == _CODEBOOKS:
            return codebook_source(str(self.defines["MMVQ_FAMILY"]))
        try:
            return (self.root / name).read_text(encoding="utf-8")
        except OSError as error:
            raise EnvironmentInvalid(
                f"kernels/{name}, needed by {included_by}, cannot be read: {error.strerror}",
                "reinstall: pip install --force-reinstall . in a complete checkout",
            ) from error
