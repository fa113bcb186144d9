"""What to run, as values: weight sources, the axes to sweep, and the cases that they span.

A case's id is readable, stable and its filter: `MODEL/TENSOR/Q4_K-e8k2-256x256-t4-uniform-f16`. Values come from, in
rising precedence: the defaults below, a suite's TOML, the command line.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmvq_cli.engine.workload import random_activations
from mmvq_cli.errors import NothingMatched, OpenError, UsageError
from mmvq_cli.model import ExpertTensor, Model, Preset, find_preset, open_model
from mmvq_cli.op import Accumulate, Descriptor, Dtype, Format, OutputMode, Preference, Rows, find_format
from mmvq_cli.resources import resource_root
from mmvq_cli.routing import Routing, RoutingSpec, draw, parse_routing

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

ROLES = ("gate", "up", "down", "gate_up")


@dataclass(frozen=True, slots=True)
class WeightSource:
    """Where a case's weights come from: a tensor of a file, or random valid blocks of a preset's shape.

    weights: [n_experts, rows, cols] in the format called `format_name`; `outside` names what the model applies beside
    the blocks and this operation does not (biases, scales).
    """

    model: str
    name: str
    role: str
    format_name: str
    n_experts: int
    rows: int
    cols: int
    top_k: int
    tensor: ExpertTensor | None = None
    outside: tuple[str, ...] = ()

    @property
    def format(self) -> Format:
        """The format; raises `Unsupported` with the reason when no kernel handles it."""
        return self.tensor.format if self.tensor else find_format(self.format_name)


@dataclass(frozen=True, slots=True, kw_only=True)
class Axes:
    """What to sweep; every field has a value.

    `layers` is `distinct` (one layer of each shape and format), `all`, or ids; `top_k` 0 means the model's own.
    """

    tokens: tuple[int, ...] = (1, 8, 64)
    dtypes: tuple[Dtype, ...] = (Dtype.F16,)
    routings: tuple[RoutingSpec, ...] = (RoutingSpec("uniform"),)
    roles: tuple[str, ...] = ROLES
    layers: str = "distinct"
    top_k: int = 0
    seed: int = 0
    cache: str = "cold"
    accumulate: Accumulate = Accumulate.ORDERED
    preference: Preference = Preference.AUTO

    def override(self, **given: Any) -> Axes:
        """The same axes with the values that are not None replaced."""
        return replace(self, **{name: value for name, value in given.items() if value is not None})


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One row of a run: weights x tokens x dtype x routing, with its seed.

    The properties and methods are what the run loop asks; a special case (`mmvq_cli.edges`) answers them otherwise.
    """

    source: WeightSource
    n_tokens: int
    top_k: int
    dtype: Dtype
    routing: RoutingSpec
    seed: int
    cache: str
    accumulate: Accumulate
    preference: Preference

    @property
    def id(self) -> str:
        """The readable name, also what `-k` matches."""
        s = self.source
        shape = f"{s.format_name}-e{s.n_experts}k{self.top_k}-{s.rows}x{s.cols}-t{self.n_tokens}"
        modes = [str(self.routing), str(self.dtype)]
        if self.accumulate is not Accumulate.ORDERED:
            modes.append(str(self.accumulate))
        if self.cache != "cold":
            modes.append(self.cache)
        if self.preference is not Preference.AUTO:
            modes.append(str(self.preference))
        if self.seed:
            modes.append(f"seed{self.seed}")
        return f"{s.model}/{s.name}/{shape}-{'-'.join(modes)}"

    @property
    def is_down(self) -> bool:
        """Whether this is the way out of the experts, where rows are weighted and summed per token."""
        return self.source.role == "down"

    @property
    def activation_rows(self) -> Rows:
        """Gate and up read token rows, down reads dispatch rows, as in a real layer."""
        return Rows.DISPATCH if self.is_down else Rows.TOKEN

    @property
    def output_rows(self) -> Rows:
        """Gate and up write dispatch rows, down writes token rows."""
        return Rows.TOKEN if self.is_down else Rows.DISPATCH

    @property
    def output_mode(self) -> OutputMode:
        """Every output row is written anew."""
        return OutputMode.OVERWRITE

    @property
    def accumulation(self) -> Accumulate:
        """How a token's dispatches are summed; only the way out sums."""
        return self.accumulate if self.is_down else Accumulate.ORDERED

    @property
    def is_weighted(self) -> bool:
        """Whether each dispatch counts with its router weight."""
        return self.is_down

    @property
    def m_total(self) -> int:
        """Dispatches of each draw: all slots, for the synthetic routings have no gaps."""
        return self.n_tokens * self.top_k

    @property
    def descriptor(self) -> Descriptor:
        """The problem.

        Raises `Unsupported` when no kernel handles the format.
        """
        return Descriptor(
            n_experts=self.source.n_experts,
            n_rows_per_expert=self.source.rows,
            n_cols=self.source.cols,
            m_total=self.m_total,
            m_tokens=self.n_tokens,
            top_k=self.top_k,
            format=self.source.format,
            dtype=self.dtype,
            activation_rows=self.activation_rows,
            output_rows=self.output_rows,
            output_mode=self.output_mode,
            accumulate=self.accumulation,
        )

    def draw_routing(self, index: int) -> Routing:
        """Draw `index` of the routing."""
        return draw(self.routing, self.source.n_experts, self.top_k, self.n_tokens, self.seed, index)

    def draw_activations(self, index: int) -> NDArray[Any]:
        """Draw `index` of the activations, [token or dispatch rows, cols] in storage form."""
        rows = self.n_tokens if self.activation_rows is Rows.TOKEN else self.m_total
        return random_activations(rows, self.source.cols, self.dtype, (self.seed, index))

    def own_weights(self) -> NDArray[np.uint8] | None:
        """Packed bytes of all experts that the case itself makes; None when they come from its source."""
        return None


@dataclass(frozen=True, slots=True)
class Suite:
    """A named list of cases."""

    name: str
    description: str
    cases: tuple[Case, ...]

    def matching(self, pattern: str | None) -> Suite:
        """The cases whose id matches the regular expression.

        Raises `UsageError` for a bad pattern, `NothingMatched` when none is left.
        """
        try:
            wanted = re.compile(pattern or "")
        except re.error as error:
            raise UsageError(
                f"-k {pattern!r} is not a regular expression: {error}", "quote it, escape + . ( )"
            ) from None
        cases = tuple(case for case in self.cases if wanted.search(case.id))
        if not cases:
            chosen = f" out of {len(self.cases)} matches -k {pattern!r}" if self.cases else " is selected"
            raise NothingMatched(f"no case{chosen}", "--list shows the ids")
        return replace(self, cases=cases)


def expand(sources: Iterable[WeightSource], axes: Axes) -> tuple[Case, ...]:
    """All combinations, in the order tensor, dtype, routing, tokens."""
    return tuple(
        Case(
            source=source,
            n_tokens=n_tokens,
            top_k=axes.top_k or source.top_k,
            dtype=dtype,
            routing=routing,
            seed=axes.seed,
            cache=axes.cache,
            accumulate=axes.accumulate,
            preference=axes.preference,
        )
        for source in sources
        for dtype in axes.dtypes
        for routing in axes.routings
        for n_tokens in axes.tokens
    )


def model_suite(path: Path, axes: Axes) -> Suite:
    """The cases of a GGUF file or split set.

    Raises `OpenError`, `ModelError`, and `NothingMatched` when the file has no expert tensor.
    """
    model = open_model(path)
    if not model.expert_tensors:
        raise NothingMatched(f"{path} has no expert tensors", "mmvq benches mixture-of-experts models")
    return Suite(path.stem, f"expert tensors of {path.name}", expand(_model_sources(model, path.stem, axes), axes))


def preset_suite(name: str, axes: Axes, formats: Sequence[str] = ()) -> Suite:
    """The cases of a released model's shapes with random valid blocks, optionally in other formats."""
    preset = find_preset(name)
    return Suite(preset.name, preset.title, expand(_preset_sources(preset, axes, formats), axes))


def _model_sources(model: Model, label: str, axes: Axes) -> list[WeightSource]:
    wanted = _layer_filter(axes.layers)
    seen: set[tuple[Any, ...]] = set()
    sources = []
    for tensor in model.expert_tensors:
        shape = (tensor.role, tensor.type_id, tensor.n_experts, tensor.rows, tensor.cols)
        if tensor.role not in axes.roles or (wanted is None and axes.layers == "distinct" and shape in seen):
            continue
        if wanted is not None and tensor.layer not in wanted:
            continue
        seen.add(shape)
        sources.append(
            WeightSource(
                model=label,
                name=tensor.name.removesuffix(".weight"),
                role=tensor.role,
                format_name=tensor.format_name,
                n_experts=tensor.n_experts,
                rows=tensor.rows,
                cols=tensor.cols,
                top_k=_top_k(model, tensor),
                tensor=tensor,
                outside=tuple(
                    outside.tensor.name
                    for outside in model.outside_tensors(tensor.layer)
                    if outside.tensor.name.startswith(f"blk.{tensor.layer}.ffn_{tensor.role}_exps.")
                ),
            )
        )
    return sources


def _top_k(model: Model, tensor: ExpertTensor) -> int:
    """Experts per token of the tensor's layer; 1 for a file without that key (a bare tensor collection)."""
    return (model.top_k_of(tensor.layer) if tensor.layer < len(model.top_ks) else model.top_k) or 1


def _layer_filter(layers: str) -> set[int] | None:
    """The layer numbers of `0,3,8..11`; None for `all` and `distinct`."""
    if layers in ("all", "distinct"):
        return None
    numbers: set[int] = set()
    for part in layers.split(","):
        match = re.fullmatch(r"(\d+)(?:\.\.(\d+))?", part.strip())
        if not match:
            raise UsageError(f"--layers {layers!r} is not understood at {part!r}", "write all, distinct, or 0,3,8..11")
        first, last = int(match[1]), int(match[2] or match[1])
        numbers.update(range(first, last + 1))
    return numbers


def _preset_sources(preset: Preset, axes: Axes, formats: Sequence[str]) -> list[WeightSource]:
    sources = []
    for role, (rows, cols) in preset.shapes.items():
        if role not in axes.roles:
            continue
        names = dict.fromkeys(name.strip().upper() for name in formats) or (preset.formats[role].name,)
        sources += [
            WeightSource(preset.name, role, role, name, preset.n_experts, rows, cols, preset.top_k) for name in names
        ]
    return sources


def load_suite(name: str, given: dict[str, Any]) -> Suite:
    """The suite called `name` in configs/suites, or the TOML file at that path; `given` axes win over the file's.

    Raises `UsageError` for an unknown suite or a key that means nothing.
    """
    path = Path(name) if name.endswith(".toml") else resource_root("configs") / "suites" / f"{name}.toml"
    if not path.is_file():
        raise UsageError(f"there is no suite {name!r}", f"known: {', '.join(known_suites())}, or a path to a .toml")
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is not TOML: {error}", "configs/suites/smoke.toml is an example") from None
    except OSError as error:
        raise OpenError(f"cannot read {path}: {error.strerror}", "check the path and its permissions") from None
    unknown = sorted(set(table) - {"case", "description"})
    entries = table.get("case", [])
    if unknown or not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise UsageError(
            f"{path} has {f'the unknown key {unknown[0]!r}' if unknown else 'a case that is no table'}",
            "a suite is a description and [[case]] tables",
        )
    cases = (case for entry in entries for case in _entry_cases(entry, path, given))
    # Entries may overlap, above all when the command line narrows their axes.
    return Suite(path.stem, table.get("description", ""), tuple({case.id: case for case in cases}.values()))


def known_suites() -> tuple[str, ...]:
    """Names of the packaged suites."""
    return tuple(sorted(path.stem for path in (resource_root("configs") / "suites").glob("*.toml")))


def _entry_cases(entry: dict[str, Any], path: Path, given: dict[str, Any]) -> tuple[Case, ...]:
    values = dict(entry)
    model, preset = values.pop("model", None), values.pop("preset", None)
    formats = tuple(filter(None, _text(values.pop("formats", "")).split(",")))
    if (model is None) == (preset is None):
        raise UsageError(f"{path}: a [[case]] needs either model or preset", "name one of them")
    axes = Axes().override(**parse_axes(values, str(path))).override(**given)
    if preset is not None:
        return preset_suite(_text(preset), axes, formats).cases
    return model_suite(path.parent / _text(model), axes).cases


def parse_counts(text: str, what: str) -> tuple[int, ...]:
    """Read `1,2,4..64`: numbers, and ranges that double from the first to the last.

    Raises `UsageError` for anything else.
    """
    counts: list[int] = []
    for part in str(text).split(","):
        match = re.fullmatch(r"(\d+)(?:\.\.(\d+))?", part.strip())
        if not match or int(match[1]) < 1:
            raise UsageError(f"--{what} {text!r} is not understood at {part!r}", "write numbers and ranges: 1,2,4..64")
        count, last = int(match[1]), int(match[2] or match[1])
        if count > last:
            raise UsageError(f"--{what} {text!r}: the range {part} runs backwards", f"write {last}..{count}")
        while count <= last:
            counts.append(count)
            count *= 2
    return tuple(dict.fromkeys(counts))


def parse_dtypes(text: str) -> tuple[Dtype, ...]:
    """Read `f32,f16,bf16`; raises `UsageError`."""
    return tuple(Dtype(name) for name in _choices(text, "dtype", tuple(Dtype)))


def parse_roles(text: str) -> tuple[str, ...]:
    """Read `gate,up,down`; raises `UsageError`."""
    return _choices(text, "tensors", ROLES)


def _choices(text: str, what: str, allowed: tuple[str, ...]) -> tuple[str, ...]:
    names = tuple(part.strip().lower() for part in text.split(","))
    for name in names:
        if name not in allowed:
            raise UsageError(
                f"--{what} {text!r}: {name!r} is not one of {', '.join(allowed)}", f"e.g. --{what} {allowed[0]}"
            )
    return tuple(dict.fromkeys(names))


def _choice(text: str, what: str, allowed: tuple[str, ...]) -> str:
    if text not in allowed:
        raise UsageError(f"--{what} {text!r} is not known", f"use one of {', '.join(allowed)}")
    return text


def _count(value: Any, what: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise UsageError(f"--{what} {value!r} is not a whole number from 0", f"e.g. --{what} 1")
    return value


def _layers(text: str) -> str:
    _layer_filter(text)
    return text


def _text(value: Any) -> str:
    """A TOML list is the same as its items with commas."""
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


_AXIS_PARSERS: dict[str, Callable[[Any], Any]] = {
    "tokens": lambda value: parse_counts(_text(value), "tokens"),
    "dtypes": lambda value: parse_dtypes(_text(value)),
    "routings": lambda value: tuple(dict.fromkeys(parse_routing(part) for part in _text(value).split(","))),
    "roles": lambda value: parse_roles(_text(value)),
    "layers": lambda value: _layers(_text(value)),
    "top_k": lambda value: _count(value, "top-k"),
    "seed": lambda value: _count(value, "seed"),
    "cache": lambda value: _choice(_text(value), "cache", ("cold", "hot")),
    "accumulate": lambda value: Accumulate(_choice(_text(value), "accumulate", tuple(Accumulate))),
    "preference": lambda value: Preference(_choice(_text(value), "prefer", tuple(Preference))),
}


def parse_axes(values: dict[str, Any], where: str) -> dict[str, Any]:
    """Turn an entry's written values into axes, `"1,2,4..64"` into (1, 2, 4, ...).

    Raises `UsageError` naming an unknown key or a bad value.
    """
    unknown = sorted(set(values) - set(_AXIS_PARSERS))
    if unknown:
        raise UsageError(f"{where} has the unknown key {unknown[0]!r}", f"known: {', '.join(sorted(_AXIS_PARSERS))}")
    return {key: _AXIS_PARSERS[key](value) for key, value in values.items()}
