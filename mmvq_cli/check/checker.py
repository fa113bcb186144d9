"""The correctness of one plan on one draw: verdict, poison, guards, untouched inputs, determinism, batch invariance."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmvq_cli.check.guards import GuardedOutput, checksum
from mmvq_cli.check.verdict import Verdict, judge
from mmvq_cli.engine.base import Engine, Reference
from mmvq_cli.engine.elements import narrow, widen
from mmvq_cli.engine.workload import Draw, Workload, token_alone
from mmvq_cli.op import Descriptor, Plan, Rows

_REPEATS = 2  # launches after the first that must give the same bits


@dataclass(frozen=True, slots=True)
class Check:
    """What was found; `failures` are sentences, empty when the result is right.

    `bitwise_repeat` and `batch_invariant` are None where the plan does not promise them or they were not looked at.
    """

    verdict: Verdict
    n_unwritten: int
    guard_bytes_damaged: int
    inputs_intact: bool
    bitwise_repeat: bool | None
    batch_invariant: bool | None
    failures: tuple[str, ...]

    @property
    def passed(self) -> bool:
        """Whether nothing is wrong."""
        return not self.failures


class Checker:
    """Checks a plan on a workload's draw; keeps the exact answer, so that a second look after timing is cheap."""

    def __init__(self, engine: Engine, plan: Plan, workload: Workload, draw: Draw) -> None:
        """Validate the routing and compute the exact answer.

        Raises `InvalidProblem` for an illegal routing.
        """
        self._engine, self._plan, self._workload, self._draw = engine, plan, workload, draw
        d = plan.descriptor
        self._output = GuardedOutput.allocate(engine, (d.output_row_count, d.n_rows_per_expert), d.dtype)
        self._workspace = engine.xp.empty(plan.workspace_size(), dtype=np.uint8)
        self._old = _old_output(d) if d.adds else None
        args = workload.args(draw, self._output.array)
        engine.validate_routing(d, args)
        self._reference = _with_old(engine.reference(d, args), self._old, d)

    def check(self) -> Check:
        """Run and judge; determinism and batch invariance where the plan promises them."""
        before = self._input_checksums()
        bits = self._run()
        verdict = self._judge(bits)
        unwritten, damaged = self._output.unwritten(bits), self._output.damaged()
        guarantee = self._plan.precision_guarantee
        repeats = all(_same_bits(bits, self._run()) for _ in range(_REPEATS)) if guarantee.deterministic else None
        invariant = self._is_batch_invariant(bits) if guarantee.batch_invariant and self._old is None else None
        intact = before == self._input_checksums()
        failures = _failures(verdict, unwritten, damaged, intact, repeats, invariant)
        return Check(verdict, unwritten, damaged, intact, repeats, invariant, failures)

    def check_again(self) -> Verdict:
        """Run once more and judge, for a look after timing."""
        return self._judge(self._run())

    def _run(self) -> NDArray[Any]:
        """Poison (or preset the old values), run, wait, and return the output in storage form on the host."""
        self._output.poison()
        if self._old is not None:
            self._output.array[...] = self._engine.upload(self._old)
        self._plan.run(self._workload.args(self._draw, self._output.array), self._workspace)
        self._engine.synchronize()
        return self._engine.download(self._output.array)

    def _judge(self, bits: NDArray[Any]) -> Verdict:
        d, dispatch = self._plan.descriptor, self._draw.dispatch
        return judge(
            widen(bits, d.dtype),
            self._reference,
            d,
            self._plan.precision_guarantee,
            dispatch.sorted_token_ids,
            dispatch.expert_offsets,
        )

    def _input_checksums(self) -> list[int]:
        """Checksums of the touched experts' weights and of the small inputs."""
        draw, size = self._draw, self._plan.descriptor.expert_bytes
        weights = self._workload.weights[0]
        touched = [checksum(weights[e * size : (e + 1) * size]) for e in draw.touched_experts]
        small = (draw.activations, draw.sorted_token_ids, draw.expert_offsets, draw.topk_weights)
        return touched + [checksum(array) for array in small if array is not None]

    def _is_batch_invariant(self, bits: NDArray[Any]) -> bool:
        """Whether the first and the last routed token have the same bits alone."""
        tokens = np.unique(self._draw.dispatch.sorted_token_ids)
        return all(self._same_alone(bits, int(token)) for token in {*tokens[:1], *tokens[-1:]})

    def _same_alone(self, bits: NDArray[Any], token: int) -> bool:
        engine = self._engine
        single, draw = token_alone(engine, self._workload, self._draw, token)
        plan = Plan.select(single, self._plan.device, self._plan.preference)
        shape = (single.output_row_count, single.n_rows_per_expert)
        output = GuardedOutput.allocate(engine, shape, single.dtype)
        plan.run(self._workload.args(draw, output.array), engine.xp.empty(plan.workspace_size(), dtype=np.uint8))
        engine.synchronize()
        is_token = self._plan.descriptor.output_rows is Rows.TOKEN
        rows = [token] if is_token else np.flatnonzero(self._draw.dispatch.sorted_token_ids == token)
        return _same_bits(engine.download(output.array), bits[rows])


def _old_output(d: Descriptor) -> NDArray[Any]:
    """Values that are there before an adding run."""
    rng = np.random.default_rng([d.m_tokens, d.n_rows_per_expert])
    return narrow(rng.standard_normal((d.output_row_count, d.n_rows_per_expert), dtype=np.float32), d.dtype)


def _with_old(reference: Reference, old: NDArray[Any] | None, d: Descriptor) -> Reference:
    """Add the old output as one more exact term of each sum."""
    if old is None:
        return reference
    values = widen(old, d.dtype).astype(np.float64)
    return Reference(reference.values + values, reference.magnitude + np.abs(values))


def _same_bits(left: NDArray[Any], right: NDArray[Any]) -> bool:
    return left.tobytes() == right.tobytes()


def _failures(
    verdict: Verdict, unwritten: int, damaged: int, intact: bool, repeats: bool | None, invariant: bool | None
) -> tuple[str, ...]:
    sentences = (
        (
            not verdict.passed,
            f"{verdict.n_wrong} elements beyond their error bound, the worst at {verdict.worst_index}",
        ),
        (unwritten > 0, f"{unwritten} output elements were not written"),
        (damaged > 0, f"{damaged} bytes beside the output were overwritten"),
        (not intact, "an input array changed"),
        (repeats is False, "repeated launches gave different bits"),
        (invariant is False, "a token alone gave other bits than in the batch"),
    )
    return tuple(sentence for failed, sentence in sentences if failed)
