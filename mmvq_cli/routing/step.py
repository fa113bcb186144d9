"""`Routing`: which experts the tokens of one step go to, and the sorted form that the operation takes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mmvq_cli.errors import InvalidProblem
from mmvq_cli.routing.statistics import RoutingStatistics, count_statistics

_MOST_DISPATCHES = 2**31 - 1


@dataclass(frozen=True, slots=True, eq=False)
class Dispatch:
    """A routing sorted by expert, then token, then slot: the index arrays of the operation.

    sorted_token_ids int32 [m_total], expert_offsets int32 [n_experts + 1] (expert e owns the positions from
    expert_offsets[e] up to expert_offsets[e + 1]), topk_weights float32 [m_total].
    """

    sorted_token_ids: NDArray[np.int32]
    expert_offsets: NDArray[np.int32]
    topk_weights: NDArray[np.float32]

    @property
    def m_total(self) -> int:
        """Dispatches in all."""
        return len(self.sorted_token_ids)


@dataclass(frozen=True, slots=True, eq=False)
class Routing:
    """The experts of one step: ids int32 [n_tokens, top_k] with weights float32 of the same shape.

    An id of -1 means "no dispatch"; an expert may repeat within a token (two dispatches). `source` says where the
    routing comes from and `seed` which draw it is. Raises `InvalidProblem` for arrays that break these rules.
    """

    ids: NDArray[np.int32]
    weights: NDArray[np.float32]
    n_experts: int
    source: str
    seed: int

    def __post_init__(self) -> None:
        if self.n_experts <= 0:
            raise InvalidProblem(f"n_experts is {self.n_experts}, it must be positive", "give the number of experts")
        if self.ids.ndim != 2 or self.ids.dtype != np.int32:
            raise InvalidProblem(
                f"ids are {self.ids.dtype} {list(self.ids.shape)}, they must be int32 [n_tokens, top_k]",
                "convert them with ids.astype('int32')",
            )
        if self.weights.shape != self.ids.shape or self.weights.dtype != np.float32:
            raise InvalidProblem(
                f"weights are {self.weights.dtype} {list(self.weights.shape)}, they must be float32 "
                f"{list(self.ids.shape)} like the ids",
                "convert them with weights.astype('float32')",
            )
        if self.ids.size > _MOST_DISPATCHES:
            raise InvalidProblem(
                f"{self.ids.size} dispatches are too many, positions are int32 (at most {_MOST_DISPATCHES})",
                "split the step",
            )
        outside = (self.ids < -1) | (self.ids >= self.n_experts)
        if outside.any():
            token, slot = np.argwhere(outside)[0]
            raise InvalidProblem(
                f"token {token} slot {slot} goes to expert {self.ids[token, slot]}, ids are 0..{self.n_experts - 1}, "
                "or -1 for no dispatch",
                "check that ids and n_experts come from the same model",
            )

    @property
    def n_tokens(self) -> int:
        """Tokens of the step."""
        return int(self.ids.shape[0])

    @property
    def top_k(self) -> int:
        """Slots per token."""
        return int(self.ids.shape[1])

    def dispatch(self) -> Dispatch:
        """Sort the dispatches by expert, then token, then slot; slots of -1 disappear."""
        slots = np.flatnonzero(self.ids >= 0)
        experts = self.ids.reshape(-1)[slots]
        # 16-bit keys make numpy's stable sort a radix sort, eight times as fast.
        keys = experts.astype(np.uint16) if self.n_experts <= 2**16 else experts
        order = slots[np.argsort(keys, kind="stable")]
        offsets = np.zeros(self.n_experts + 1, dtype=np.int32)
        np.cumsum(np.bincount(experts, minlength=self.n_experts), out=offsets[1:])
        return Dispatch((order // self.top_k).astype(np.int32), offsets, self.weights.reshape(-1)[order])

    def statistics(self) -> RoutingStatistics:
        """Count what the experts really get."""
        dispatches = np.bincount(self.ids[self.ids >= 0], minlength=self.n_experts)
        return count_statistics(dispatches, self.n_tokens)
