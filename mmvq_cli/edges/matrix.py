"""The matrices that `mmvq check` runs without a model: every format x dtype x edge."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import product
from typing import Any

from mmvq_cli.edges.case import Edge, EdgeCase
from mmvq_cli.edges.pairwise import Choice, cover_pairs
from mmvq_cli.errors import UsageError
from mmvq_cli.op import FORMATS, Accumulate, Dtype, Format, OutputMode, Preference, Rows, find_format
from mmvq_cli.routing import RoutingSpec
from mmvq_cli.suite import Suite, WeightSource

MATRICES = {
    "quick": "every format x dtype x named edge, and a pairwise cover of small sizes; for any engine",
    "full": "as quick with sizes of released models, many dispatches and tensors beyond 4 GiB; for a GPU",
    "sanitizer": "some 300 tiny cases that reach every kernel of the operation; for compute-sanitizer",
}

# One format of each family that published MoE models use: what depends on offsets alone needs no other.
_HUGE_FORMATS = ("Q4_K", "Q8_0", "MXFP4", "F16")
_HUGE_TENSOR_BYTES = 2**32 + 2**27


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """Sizes of a pairwise cover: columns as the block size divides them, `odd_columns` for plain floats besides."""

    columns: tuple[int, ...]
    odd_columns: tuple[int, ...]
    rows: tuple[int, ...]
    experts: tuple[int, ...]
    tokens: tuple[int, ...]

    def columns_of(self, format: Format) -> tuple[int, ...]:
        """The columns that a row of the format can have."""
        odd = self.odd_columns if format.is_float else ()
        return odd + tuple(n for n in self.columns if n % format.block_size == 0)


QUICK = Grid(columns=(96, 256, 288), odd_columns=(37,), rows=(1, 50), experts=(1, 8), tokens=(1, 5))
FULL = Grid(
    columns=(32, 96, 160, 256, 288, 704, 1408, 2880, 7168),
    odd_columns=(1, 37),
    rows=(1, 50, 137, 512),
    experts=(1, 8, 257),
    tokens=(1, 5, 40),
)


def matrix_suite(
    matrix: str,
    formats: Sequence[str] = (),
    dtypes: Sequence[Dtype] = tuple(Dtype),
    preference: Preference | None = None,
) -> Suite:
    """The cases of one of `MATRICES`, for some formats (all) and dtypes; `preference` instead of each case's own.

    Raises `UsageError` for an unknown matrix, `Unsupported` for a format without a kernel.
    """
    if matrix not in MATRICES:
        raise UsageError(f"there is no matrix {matrix!r}", f"known: {', '.join(MATRICES)}")
    chosen = [find_format(name) for name in formats] or list(FORMATS.values())
    cases = {"quick": _quick, "full": _full, "sanitizer": _sanitizer}[matrix](chosen, tuple(dtypes))
    if preference is not None:
        cases = (replace(case, preference=preference) for case in cases)
    return Suite(f"check-{matrix}", MATRICES[matrix], tuple(cases))


def _quick(formats: Sequence[Format], dtypes: tuple[Dtype, ...]) -> Iterator[EdgeCase]:
    for format in formats:
        for dtype in dtypes:
            yield from _named(format, dtype)
        for choice in _cover(QUICK, QUICK.columns_of(format), dtypes):
            yield _covering(format, choice)


def _full(formats: Sequence[Format], dtypes: tuple[Dtype, ...]) -> Iterator[EdgeCase]:
    for format, dtype in product(formats, dtypes):
        yield from _named(format, dtype)
        for choice in _cover(FULL, FULL.columns_of(format), (dtype,)):
            yield _covering(format, choice)
        if format.name in _HUGE_FORMATS:
            yield from _huge(format, dtype)


@cache
def _cover(grid: Grid, columns: tuple[int, ...], dtypes: tuple[Dtype, ...]) -> tuple[Choice, ...]:
    return cover_pairs(cover_axes(grid, columns, dtypes), is_possible)


def cover_axes(grid: Grid, columns: tuple[int, ...], dtypes: tuple[Dtype, ...]) -> dict[str, tuple[Any, ...]]:
    """Everything that a problem varies in, with the values to try."""
    return {
        "columns": columns,
        "routing": ("uniform", "last", "hollow", "repeated", "gaps", "lone"),
        "rows": grid.rows,
        "experts": grid.experts,
        "tokens": grid.tokens,
        "dtype": dtypes,
        "top_k": (1, 8),
        "activation_rows": tuple(Rows),
        "output_rows": tuple(Rows),
        "output_mode": tuple(OutputMode),
        "accumulate": tuple(Accumulate),
        "is_weighted": (False, True),
    }


def is_possible(choice: Choice) -> bool:
    """Whether the values go together: atomic sums add, hollow ends need three experts, a repetition two slots."""
    if choice.get("accumulate") == Accumulate.ATOMIC and choice.get("output_mode") == OutputMode.OVERWRITE:
        return False
    if choice.get("routing") == "hollow" and choice.get("experts") == 1:
        return False
    return not (choice.get("routing") == "repeated" and choice.get("top_k") == 1)


def _covering(format: Format, choice: Choice) -> EdgeCase:
    c = choice
    words = [
        f"e{c['experts']}k{c['top_k']}-{c['rows']}x{c['columns']}-t{c['tokens']}-{c['routing']}",
        f"{c['activation_rows']}.{c['output_rows']}-{c['output_mode']}",
        *(["atomic"] if c["accumulate"] == Accumulate.ATOMIC else []),
        *(["weighted"] if c["is_weighted"] else []),
    ]
    edge = Edge(
        name="-".join(words),
        activation_rows=c["activation_rows"],
        output_rows=c["output_rows"],
        output_mode=c["output_mode"],
        is_weighted=c["is_weighted"],
    )
    return _case(
        format,
        c["dtype"],
        edge,
        columns=c["columns"],
        rows=c["rows"],
        experts=c["experts"],
        tokens=c["tokens"],
        top_k=c["top_k"],
        routing=c["routing"],
        accumulate=c["accumulate"],
    )


def _case(
    format: Format,
    dtype: Dtype,
    edge: Edge,
    *,
    columns: int | None = None,
    rows: int = 17,
    experts: int = 4,
    tokens: int = 6,
    top_k: int = 2,
    routing: str = "uniform",
    accumulate: Accumulate = Accumulate.ORDERED,
) -> EdgeCase:
    """A case of a small size, or of the sizes given."""
    cols = _small_columns(format) if columns is None else columns
    return EdgeCase(
        source=WeightSource("check", edge.name, "edge", format.name, experts, rows, cols, top_k),
        n_tokens=tokens,
        top_k=top_k,
        dtype=dtype,
        routing=RoutingSpec(routing),
        seed=0,
        cache="cold",
        accumulate=accumulate,
        preference=Preference.AUTO,
        edge=edge,
    )


def _small_columns(format: Format) -> int:
    """An odd number of blocks, and of weights where the format allows: 37, 96, 192 or 256."""
    if format.is_float:
        return 37
    return format.block_size * (1 if format.block_size >= 256 else 3)


_MANY_EXPERTS = 24  # of which a case's 12 dispatches make tiles of one or two


def _named(format: Format, dtype: Dtype) -> Iterator[EdgeCase]:
    """The adversarial cases that have a name."""
    dispatch, add = Rows.DISPATCH, OutputMode.ADD
    # Only a power-of-two scale spans so much that its rows need activations of their own.
    start = "small_start" if any(field.kind == "e8m0" for field in format.scales) else "ordinary"
    yield _case(format, dtype, Edge(name="no-dispatch"), routing="none")
    yield _case(format, dtype, Edge(name="no-columns"), columns=0)
    edges = (
        Edge(name="nonfinite", activations="nonfinite", is_weighted=True),
        Edge(name="large", activations="large", output_rows=dispatch),
        Edge(name="subnormal", activations="subnormal", weights="unit", output_rows=dispatch),
        Edge(name="special-scales", activations=start, weights="special", output_rows=dispatch),
        Edge(name="zero-weights", weights="zero", is_weighted=True),
    )
    for edge in edges:
        yield _case(format, dtype, edge)
        if format.digit_tiles and dtype is not Dtype.F32:  # narrow tiles have another arithmetic
            yield _case(format, dtype, replace(edge, name=f"{edge.name}-narrow"), experts=_MANY_EXPERTS)
    yield _case(format, dtype, Edge(name="one-row-added", output_mode=add, is_weighted=True), rows=1)
    atomic = Edge(name="atomic-sum", output_mode=add, is_weighted=True)
    yield _case(format, dtype, atomic, top_k=8, routing="repeated", accumulate=Accumulate.ATOMIC)


def _huge(format: Format, dtype: Dtype) -> Iterator[EdgeCase]:
    """More dispatches than a grid's y has blocks, wide sums, tensors beyond 4 GiB with their last expert touched."""
    to_dispatch = Edge(name="70000-dispatches", output_rows=Rows.DISPATCH)
    yield _case(format, dtype, to_dispatch, rows=8, experts=8, tokens=70_000, top_k=1)
    summed = Edge(name="80000-dispatches-summed", is_weighted=True)
    yield _case(format, dtype, summed, rows=8, experts=8, tokens=10_000, top_k=8)
    yield _case(format, dtype, Edge(name="1030-rows-summed", is_weighted=True), rows=1030, top_k=8)
    crowded = Edge(name="long-rows-crowded", is_weighted=True)
    yield _case(format, dtype, crowded, columns=14336, rows=33, experts=2, tokens=40)
    expert_bytes = 2048 * format.row_bytes(7168)
    for routing in ("last", "uniform"):
        edge = Edge(name=f"beyond-4gib-{routing}", output_rows=Rows.DISPATCH)
        experts = -(-_HUGE_TENSOR_BYTES // expert_bytes)
        yield _case(format, dtype, edge, columns=7168, rows=2048, experts=experts, tokens=8, routing=routing)


# Between them these take every kernel of the operation.
_SANITIZED = (
    (Edge(name="summed", is_weighted=True), "gaps", 2, Accumulate.ORDERED),
    (Edge(name="stored", output_rows=Rows.DISPATCH), "hollow", 1, Accumulate.ORDERED),
    (Edge(name="cleared"), "lone", 1, Accumulate.ORDERED),
    (Edge(name="atomic", output_mode=OutputMode.ADD), "repeated", 2, Accumulate.ATOMIC),
    (Edge(name="added", activation_rows=Rows.DISPATCH, output_mode=OutputMode.ADD), "last", 2, Accumulate.ORDERED),
)
# The fewest dispatches per expert.
_SANITIZED_FEW = (4, 3)  # experts, tokens
_SANITIZED_NARROW = (Edge(name="narrow", output_rows=Rows.DISPATCH), "hollow", 1, Accumulate.ORDERED)
# Floats of a row that streams, with some left over; and of one that leaves tiles of crowds no room for more columns.
_VECTORS, _LONG_VECTORS = 40, 264
_SANITIZED_CROWDS = ((4, 6), (1, 12), (4, 6), (1, 40), (4, 9))  # experts, tokens
# Sums that are too long or too wide for one block of the kernels around the product; one format is enough for them.
_SANITIZED_SUMS = {"8400-dispatches-summed": (1, 4200), "600-rows-summed": (600, 3)}  # name -> rows, tokens
_SANITIZED_SUMS_FORMAT = "Q8_0"
# Crowds whose rows and activations stream side by side: tokens of one expert, and blocks of 256 weights in a row.
_SANITIZED_WIDE = ((12, 112), (25, 3), (70, 2))


def _sanitizer(formats: Sequence[Format], dtypes: tuple[Dtype, ...]) -> Iterator[EdgeCase]:
    """Some modes for each format and dtype, in turn, so that each dtype meets all of them; and the large sums.

    The first takes the batch-invariant kernel, with tiles of every width in turn, the second the plain one, a third,
    where a format has one, that of narrow tiles, or, of floats, of wide ones; the last that of crowds.
    """
    turn = 0
    columns = {Preference.REPRODUCIBLE: _VECTORS, Preference.AUTO: _LONG_VECTORS}
    for format, dtype in product(formats, dtypes):
        has_third = format.is_float or (format.digit_tiles and dtype is not Dtype.F32)
        third = (Preference.AUTO,) if has_third else ()
        for preference in (Preference.REPRODUCIBLE, Preference.REFERENCE, *third):
            edge, routing, top_k, accumulate = _SANITIZED[turn % len(_SANITIZED)]
            experts, tokens = _SANITIZED_CROWDS[turn // 2 % len(_SANITIZED_CROWDS)]
            if preference is not Preference.REPRODUCIBLE:
                experts, tokens = _SANITIZED_CROWDS[0]
            if preference is Preference.AUTO:
                edge, routing, top_k, accumulate = _SANITIZED_NARROW
                experts, tokens = _SANITIZED_CROWDS[1] if format.is_float else _SANITIZED_FEW
            if experts == 1:
                routing, top_k = "uniform", 1
            case = _case(
                format,
                dtype,
                edge,
                routing=routing,
                top_k=top_k,
                accumulate=accumulate,
                experts=experts,
                tokens=tokens,
                columns=columns.get(preference) if format.is_float else None,
            )
            yield replace(case, preference=preference)
            turn += 1
        if format.name == _SANITIZED_SUMS_FORMAT:
            for name, (rows, tokens) in _SANITIZED_SUMS.items():
                yield _case(format, dtype, Edge(name=name, is_weighted=True), rows=rows, tokens=tokens)
        # Of F32 only rows that are too long for others have tiles as wide as any.
        tokens, chunks = _SANITIZED_WIDE[0 if format.name == "F32" else turn % len(_SANITIZED_WIDE)]
        edge = Edge(name="wide", output_rows=Rows.DISPATCH)
        case = _case(format, dtype, edge, columns=256 * chunks, rows=24, experts=1, tokens=tokens, top_k=1)
        yield replace(case, preference=Preference.AUTO)
