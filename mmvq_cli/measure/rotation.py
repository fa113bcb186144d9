"""Cold weights, planned and proven: which copy of the weights each launch of a replayed sequence reads.

A weight that is read again while the L2 cache still holds it costs no memory traffic, so a loop over one tensor
measures the cache. Launches therefore walk over several copies of the weights. The proof is the reuse distance: the
least number of distinct weight bytes touched between two uses of the same expert of the same copy, over the endlessly
repeated sequence.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mmvq_cli.errors import UsageError

COLD_DISTANCE_X_L2 = 3.0
FLUSH_X_L2 = 2.0
MAX_LAUNCHES = 4096


class CacheMode(StrEnum):
    """Where the weights come from.

    Memory, because launches walk over copies (`cold`) or because the cache is flushed before each launch
    (`cold-flush`); or the L2 cache, as far as they fit (`hot`).
    """

    COLD = "cold"
    FLUSH = "cold-flush"
    HOT = "hot"


class Step(NamedTuple):
    """One launch: the copy of the weights it reads and the routing draw it uses."""

    copy: int
    draw: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Weights:
    """What a rotation moves: `n_experts` of `expert_bytes` each, on a device with `l2_bytes` of last-level cache."""

    n_experts: int
    expert_bytes: int
    l2_bytes: int

    @property
    def copy_bytes(self) -> int:
        """Bytes of one copy of all experts."""
        return self.n_experts * self.expert_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Rotation:
    """The launches of one sample, to be replayed in this order without end.

    `reuse_distance_x_l2` is the simulated distance in units of the L2 size, 0 when hot and what the flush reads when
    flushed. `limited_by` says why it is below the goal: `memory` (no room for more copies), `launches` (the sequence
    touches too little), or None. `touched_bytes` is the mean over the launches of the distinct weight bytes that one
    launch reads.
    """

    mode: CacheMode
    n_copies: int
    sequence: tuple[Step, ...]
    reuse_distance_x_l2: float
    touched_bytes: int
    limited_by: str | None = None

    @property
    def launches_per_sample(self) -> int:
        """Launches in one turn of the sequence."""
        return len(self.sequence)


def hot_rotation(draw: ArrayLike, weights: Weights, launches_per_sample: int) -> Rotation:
    """Repeat one draw (the touched expert ids) over one copy."""
    (experts,) = _distinct([draw], weights)
    return Rotation(
        mode=CacheMode.HOT,
        n_copies=1,
        sequence=(Step(0, 0),) * launches_per_sample,
        reuse_distance_x_l2=0.0,
        touched_bytes=experts.size * weights.expert_bytes,
    )


def flush_rotation(draws: Sequence[ArrayLike], weights: Weights) -> Rotation:
    """Use each draw once over one copy; before each launch the caller reads `FLUSH_X_L2` times the cache."""
    sizes = [ids.size * weights.expert_bytes for ids in _distinct(draws, weights)]
    return Rotation(
        mode=CacheMode.FLUSH,
        n_copies=1,
        sequence=tuple(Step(0, draw) for draw in range(len(sizes))),
        reuse_distance_x_l2=FLUSH_X_L2,
        touched_bytes=round(sum(sizes) / len(sizes)),
    )


def cold_rotation(draws: Sequence[ArrayLike], weights: Weights, memory_bytes: int, min_launches: int = 32) -> Rotation:
    """Plan a sequence with a reuse distance of at least `COLD_DISTANCE_X_L2`, in as few copies as that takes.

    draws: the expert ids that each draw touches, used in turn; memory_bytes: room for all copies together, the first
    one included (which is always there). The sequence has at least `min_launches` launches, uses every draw equally
    often, and grows up to `MAX_LAUNCHES` when the draws touch little. Raises `UsageError` for sizes that make no sense.
    """
    experts = _distinct(draws, weights)
    n_launches = _launches_needed(experts, weights, min_launches)
    max_copies = max(1, min(memory_bytes // weights.copy_bytes, n_launches))
    goal_bytes = COLD_DISTANCE_X_L2 * weights.l2_bytes
    attempts: list[tuple[int, int, tuple[Step, ...]]] = []
    for n_copies in _candidates(experts, weights, max_copies):
        sequence = _assign_copies(experts, n_launches, n_copies, weights.n_experts)
        attempts.append((reuse_distance(sequence, draws, weights), n_copies, sequence))
        if attempts[-1][0] >= goal_bytes:
            break
    distance_bytes, n_copies, sequence = max(attempts, key=lambda attempt: attempt[0])
    used_bytes = [experts[step.draw].size * weights.expert_bytes for step in sequence]
    shortfall = "memory" if max_copies < n_launches else "launches"
    return Rotation(
        mode=CacheMode.COLD,
        n_copies=n_copies,
        sequence=sequence,
        reuse_distance_x_l2=distance_bytes / weights.l2_bytes,
        touched_bytes=round(sum(used_bytes) / n_launches),
        limited_by=shortfall if distance_bytes < goal_bytes else None,
    )


def reuse_distance(sequence: Sequence[Step], draws: Sequence[ArrayLike], weights: Weights) -> int:
    """Distinct weight bytes touched between two uses of the same (copy, expert), the least over the cyclic sequence.

    Exact but for the two launches at the ends, whose own bytes are not counted: the order within a launch is unknown.
    """
    experts = _distinct(draws, weights)
    items = [experts[step.draw] + step.copy * weights.n_experts for step in sequence]
    n = len(items)
    n_items = (1 + max(step.copy for step in sequence)) * weights.n_experts
    next_use = np.full(n_items, 2 * n, dtype=np.int64)  # of each (copy, expert), over two turns, walking backwards
    distance = n_items
    for i in reversed(range(2 * n)):
        used = items[i % n]
        if i < n and used.size:
            again = next_use[used].min()
            distance = min(distance, int(np.count_nonzero(next_use < again)))
        next_use[used] = i
    return distance * weights.expert_bytes


def _distinct(draws: Sequence[ArrayLike], weights: Weights) -> list[NDArray[np.int64]]:
    """Sort the distinct expert ids of each draw."""
    if weights.n_experts <= 0 or weights.expert_bytes <= 0 or weights.l2_bytes <= 0:
        raise UsageError(
            f"cannot rotate {weights.n_experts} experts of {weights.expert_bytes} bytes past an L2 of "
            f"{weights.l2_bytes} bytes: all three must be positive",
            "pass the device's last-level cache and a tensor that is not empty",
        )
    experts = [np.unique(np.asarray(draw, dtype=np.int64)) for draw in draws]
    if not any(ids.size for ids in experts):
        raise UsageError(f"none of the {len(draws)} draws touches an expert", "time a routing that has a dispatch")
    for ids in experts:
        if ids.size and not 0 <= ids[0] <= ids[-1] < weights.n_experts:
            raise UsageError(
                f"a draw touches experts {ids[0]}..{ids[-1]}, there are {weights.n_experts}", "pass valid expert ids"
            )
    return experts


def _launches_needed(experts: list[NDArray[np.int64]], weights: Weights, min_launches: int) -> int:
    """Whole turns of the draws: enough that, each launch on a copy of its own, one turn outlasts the goal."""
    sizes = [ids.size * weights.expert_bytes for ids in experts]
    # The launches between a use and the next one of the same item are all others of the turn.
    bytes_needed = COLD_DISTANCE_X_L2 * weights.l2_bytes + max(sizes)
    turns = max(-(-min_launches // len(experts)), int(-(-bytes_needed // sum(sizes))), 1)
    return min(turns, max(1, MAX_LAUNCHES // len(experts))) * len(experts)


def _candidates(experts: list[NDArray[np.int64]], weights: Weights, max_copies: int) -> Iterator[int]:
    """Numbers of copies worth a try, from the least that could hold enough distinct bytes, up by an eighth."""
    touched_bytes = np.unique(np.concatenate(experts)).size * weights.expert_bytes
    n_copies = min(max_copies, max(1, int(COLD_DISTANCE_X_L2 * weights.l2_bytes // touched_bytes)))
    while n_copies < max_copies:
        yield n_copies
        n_copies += max(1, n_copies // 8)
    yield max_copies


def _assign_copies(
    experts: list[NDArray[np.int64]], n_launches: int, n_copies: int, n_experts: int
) -> tuple[Step, ...]:
    """Give each launch the copy in which its experts rest longest, looking back and, over the turn's end, ahead."""
    never = 2 * n_launches
    last_use = np.full((n_copies, n_experts), -never, dtype=np.int64)
    first_use = np.full((n_copies, n_experts), never, dtype=np.int64)
    steps = []
    for i in range(n_launches):
        draw = i % len(experts)
        ids = experts[draw]
        since = i - last_use[:, ids].max(axis=1, initial=-never)
        until = first_use[:, ids].min(axis=1, initial=never) + n_launches - i
        copy = int(np.minimum(since, until).argmax())
        last_use[copy, ids] = i
        first_use[copy, ids] = np.minimum(first_use[copy, ids], i)
        steps.append(Step(copy, draw))
    return tuple(steps)
