"""What must have the same bits on the host and on every GPU: cases, and the sha256 of their inputs and results.

Both do the same IEEE operations in the same order, so they agree: all decoding, and all f32 and f64 sums of
`grouped.cu`, `combine.cu` and `oracle.cu`, whose order is fixed (a chain of fused multiply-adds, a lane's terms in
ascending order, a butterfly over the warp, a token's dispatches in ascending order). Nothing is contracted
(`-fmad=false`, `-ffp-contract=off`) and no subnormal is flushed.

They need not agree, and are no cases here: sums of the tensor cores (`stream.cu`), which the host rounds once and a GPU
in its own way; sums by atomics, whose order is that of arrival; the positions in which a token's dispatches are
collected, which are sorted here; the payload of a NaN.

    python -m tests.host_target.bits    # writes tests/data/host-bits.json
"""

from __future__ import annotations

import ctypes
import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from mmvq_cli.engine.cuda.source import format_defines
from mmvq_cli.engine.elements import narrow
from mmvq_cli.engine.routing_rules import routing_error
from mmvq_cli.model.synthetic import random_blocks
from mmvq_cli.op import CPU, FORMATS, Args, Descriptor, Dtype, Format, Plan, known_devices
from mmvq_cli.op.args import bind
from mmvq_cli.op.launches import format_defines as product_defines
from mmvq_cli.op.problem import Problem, bind_problem
from tests.host_target.driver import Array, HostLaunch, kernel_library, pointer_to, run_job, run_plan

COMMITTED = Path(__file__).parents[1] / "data" / "host-bits.json"


class Machine(Protocol):
    """Runs kernels on NumPy arrays."""

    def product(self, d: Descriptor, args: Args) -> dict[str, bytes]:
        """`output` and the parts of the workspace after the plain kernels of a plan."""

    def dequantize(self, format: Format, packed: np.ndarray, n_cols: int) -> bytes:
        """f32 weights."""

    def exact(self, d: Descriptor, args: Args) -> list[bytes]:
        """f64 values and magnitudes of each dispatch."""

    def validate(self, d: Descriptor, args: Args) -> str:
        """What is wrong with the routing, or nothing."""

    def fill(self, format: Format, n_bytes: int, seed: int) -> bytes:
        """Synthetic weights."""


class Host:
    """The host target."""

    def product(self, d: Descriptor, args: Args) -> dict[str, bytes]:
        return run_plan(Plan.select(d, known_devices()["h200"], "reference"), args)

    def dequantize(self, format: Format, packed: np.ndarray, n_cols: int) -> bytes:
        out = Array("out", None, 4 * n_cols * len(packed))
        numbers = (ctypes.c_int64(len(packed)), ctypes.c_int32(n_cols))
        arrays = [Array("weights", packed, packed.nbytes), out]
        return self._run("dequantize.cu", "dequantize", format_defines(format), arrays, (_at(0), _at(1), *numbers))[0]

    def exact(self, d: Descriptor, args: Args) -> list[bytes]:
        names = ("weights", "activations", "sorted_token_ids", "expert_offsets")
        arrays = [Array(name, getattr(args, name), getattr(args, name).nbytes) for name in names]
        arrays += [Array(name, None, 8 * d.m_total * d.n_rows_per_expert) for name in ("values", "magnitudes")]
        defines, arguments = dict(product_defines(d)), (_problem_with(d, args, names), _at(4), _at(5))
        found = self._run("oracle.cu", "oracle_dispatches", defines, arrays, arguments)
        return [(np.frombuffer(part) + 0.0).tobytes() for part in found]  # one zero, not two

    def validate(self, d: Descriptor, args: Args) -> str:
        zeros = np.zeros(max(d.m_tokens, 3), np.int32)
        arrays = [Array(name, getattr(args, name), getattr(args, name).nbytes) for name in _ROUTING]
        arrays += [Array(name, zeros, zeros.nbytes, writes=True) for name in ("token_counts", "report")]
        problem = _problem_with(d, args, (*_ROUTING, "token_counts"))
        report = self._run("validate.cu", "validate_routing", {}, arrays, (problem, _at(3)))[1]
        rule, position, value = (int(number) for number in np.frombuffer(report, np.int32)[:3])
        return routing_error(rule, position, value, d).message if rule else ""

    def fill(self, format: Format, n_bytes: int, seed: int) -> bytes:
        n_blocks = n_bytes // format.type_size
        pool = random_blocks(format, n_blocks, np.random.default_rng([seed, format.id]))
        numbers = (ctypes.c_int64(n_blocks), ctypes.c_int32(n_blocks), ctypes.c_int32(format.type_size))
        arrays = [Array("out", None, n_bytes), Array("pool", pool, pool.nbytes)]
        return self._run("fill.cu", "fill_blocks", {}, arrays, (_at(0), _at(1), *numbers, ctypes.c_uint64(seed)))[0]

    @staticmethod
    def _run(
        source: str, entry: str, defines: dict[str, Any], arrays: list[Array], arguments: tuple[Any, ...]
    ) -> list[bytes]:
        return run_job(arrays, [HostLaunch(kernel_library(source, defines), entry, 3, 64, arguments)])


_ROUTING = ("sorted_token_ids", "expert_offsets")


def _problem_with(d: Descriptor, args: Args, names: Sequence[str]) -> Problem:
    """The problem with the arrays of these names, in this order, and no others."""
    problem = bind_problem(d, bind(args, d, CPU), 0)
    for name in ("weights", "activations", "sorted_token_ids", "expert_offsets", "topk_weights", "output"):
        setattr(problem, name, 0)
    for index, name in enumerate(names):
        setattr(problem, name, pointer_to(index))
    return problem


def _at(index: int) -> ctypes.c_void_p:
    return ctypes.c_void_p(pointer_to(index))


@dataclass(frozen=True, slots=True)
class Case:
    """A name, the inputs, and how a machine gets results from them."""

    name: str
    inputs: tuple[Any, ...]
    run: Callable[[Machine], Sequence[bytes]]

    def digest_of_inputs(self) -> str:
        return _digest([value.tobytes() if isinstance(value, np.ndarray) else value.encode() for value in self.inputs])

    def digest(self, machine: Machine) -> str:
        return _digest(self.run(machine))


def _digest(parts: Sequence[bytes]) -> str:
    return hashlib.sha256(b"".join(parts)).hexdigest()[:32]


def _problem(format: Format, dtype: Dtype, top_k: int, n_tokens: int = 6, **modes: Any) -> tuple[Descriptor, Args]:
    """Four experts of 17 rows, the last without a dispatch; an old output when it counts."""
    n_cols = 37 if format.is_float else 3 * format.block_size
    d = Descriptor(
        n_experts=4,
        n_rows_per_expert=17,
        n_cols=n_cols,
        m_total=n_tokens * top_k,
        m_tokens=n_tokens,
        top_k=top_k,
        format=format,
        dtype=dtype,
        **modes,
    )
    rng = np.random.default_rng([format.id, dtype.itemsize, top_k])
    experts = rng.integers(0, d.n_experts - 1, d.m_total)
    order = np.argsort(experts, kind="stable")
    offsets = np.concatenate([[0], np.cumsum(np.bincount(experts, minlength=d.n_experts))])
    values = rng.standard_normal((d.activation_row_count, n_cols), dtype=np.float32)
    old = rng.standard_normal((d.output_row_count, d.n_rows_per_expert), dtype=np.float32)
    return d, Args(
        weights=random_blocks(format, d.weight_bytes // format.type_size, rng).reshape(-1),
        activations=narrow(values, dtype),
        sorted_token_ids=(order // top_k).astype(np.int32),
        expert_offsets=offsets.astype(np.int32),
        topk_weights=rng.standard_normal(d.m_total, dtype=np.float32),
        output=narrow(old, dtype),
    )


def _inputs(d: Descriptor, args: Args) -> tuple[Any, ...]:
    sizes = (d.n_experts, d.n_rows_per_expert, d.n_cols, d.m_total, d.m_tokens, d.top_k)
    return (repr(sizes), *(array for field in fields(Args) if (array := getattr(args, field.name)) is not None))


def _index(parts: dict[str, bytes], d: Descriptor) -> list[bytes]:
    """The dispatches of each token: how many, and which, in ascending order."""
    counts = np.frombuffer(parts["token_counts"], np.int32)
    slots = np.frombuffer(parts["token_dispatches"], np.int32).reshape(d.m_tokens, d.top_k)
    return [parts["token_counts"], *(np.sort(row[:count]).tobytes() for row, count in zip(slots, counts, strict=True))]


def _dequantize(format: Format) -> Case:
    n_rows, n_cols = 3, 37 if format.is_float else 2 * format.block_size
    packed = random_blocks(format, n_rows * n_cols // format.block_size, np.random.default_rng(format.id))
    packed = packed.reshape(n_rows, -1)
    return Case(f"dequantize-{format}", (packed,), lambda m: [m.dequantize(format, packed, n_cols)])


def _grouped(format: Format, dtype: Dtype) -> Case:
    d, args = _problem(format, dtype, top_k=2, output_rows="dispatch")
    return Case(f"grouped-{format}-{dtype}", _inputs(d, args), lambda m: [m.product(d, args)["output"]])


def _combine(dtype: Dtype, top_k: int, mode: str) -> list[Case]:
    d, args = _problem(FORMATS["Q8_0"], dtype, top_k, n_tokens=3, output_mode=mode)
    name = f"{dtype}-{mode}-{top_k}"
    return [
        Case(f"combine-{name}", _inputs(d, args), lambda m: [(p := m.product(d, args))["output"], p["partials"]]),
        Case(f"index-{name}", _inputs(d, args), lambda m: _index(m.product(d, args), d)),
    ]


def _exact(format: Format, dtype: Dtype) -> Case:
    d, args = _problem(format, dtype, top_k=1, output_rows="dispatch")
    args = replace(args, topk_weights=None)
    return Case(f"oracle-{format}-{dtype}", _inputs(d, args), lambda m: m.exact(d, args))


# What is wrong, the token ids, the offsets: three dispatches of three tokens on two experts, top_k = 1.
_ROUTINGS = {
    "legal": ([0, 1, 2], [0, 2, 3]),
    "token-outside": ([0, 3, 2], [0, 2, 3]),
    "negative-token": ([0, -1, 2], [0, 2, 3]),
    "offsets-fall": ([0, 1, 2], [0, 4, 3]),
    "first-offset": ([0, 1, 2], [1, 2, 3]),
    "last-offset": ([0, 1, 2], [0, 2, 2]),
    "too-many-of-a-token": ([1, 1, 2], [0, 2, 3]),
}


def _validate(name: str) -> Case:
    ids, offsets = (np.array(values, np.int32) for values in _ROUTINGS[name])
    d = Descriptor(n_experts=2, n_rows_per_expert=1, n_cols=32, m_total=3, m_tokens=3, output_rows="dispatch")
    zeros = np.zeros((3, 32), np.float32)
    args = Args(
        weights=np.zeros(d.weight_bytes, np.uint8),
        activations=zeros,
        sorted_token_ids=ids,
        expert_offsets=offsets,
        output=zeros[:, :1].copy(),
    )
    return Case(f"validate-{name}", (ids, offsets), lambda m: [m.validate(d, args).encode()])


def _fill(format: Format) -> Case:
    return Case(f"fill-{format}", (), lambda m: [m.fill(format, 50 * format.type_size, 7)])


def all_cases() -> list[Case]:
    """Every case, about 150."""
    return [
        *map(_dequantize, FORMATS.values()),
        *(_grouped(format, dtype) for format in FORMATS.values() for dtype in Dtype),
        *(case for dtype in Dtype for case in _combine(dtype, 4, "add")),
        *(case for dtype in Dtype for case in _combine(dtype, 300, "overwrite")),
        *(_exact(FORMATS[name], dtype) for name in ("Q4_K", "MXFP4", "F32") for dtype in Dtype),
        *map(_validate, _ROUTINGS),
        *(_fill(FORMATS[name]) for name in ("Q4_K", "F16")),
    ]


def committed() -> dict[str, dict[str, str]]:
    """The digests by name of case: `inputs`, `results`."""
    return json.loads(COMMITTED.read_text(encoding="utf-8"))


def main() -> None:
    """Compute every digest on the host and write the file."""
    digests = {case.name: {"inputs": case.digest_of_inputs(), "results": case.digest(Host())} for case in all_cases()}
    rows = ",\n".join(f"  {json.dumps(name)}: {json.dumps(row)}" for name, row in digests.items())
    COMMITTED.write_text(f"{{\n{rows}\n}}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
