"""Which weights of each row a launch multiplies."""

from __future__ import annotations

from dataclasses import dataclass

from mmvq_cli.op.descriptor import Descriptor


@dataclass(frozen=True, slots=True)
class Part:
    """The part of each row that a launch multiplies: from weight `first` of `row_cols` on."""

    first: int
    row_cols: int

    @classmethod
    def whole(cls, d: Descriptor) -> Part:
        """All of it."""
        return cls(0, d.n_cols)
