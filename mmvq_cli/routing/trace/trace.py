"""`Trace`: a recorded sequence of routings, or the counts that are left of one, with its provenance."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmvq_cli.errors import ModelError
from mmvq_cli.routing.origin import Provenance

# Called with (layers done, layers in all) by whatever takes long.
Progress = Callable[[int, int], None]

_HINT = "the trace is damaged or its writer is wrong: docs/traces.md has the rules"
_CHUNK_TOKENS = 1 << 17
PREFILL, DECODE, VERIFY, UNKNOWN_PHASE = 0, 1, 2, 255


def silent(done: int, total: int) -> None:
    """Show nothing."""


@dataclass(frozen=True, slots=True, eq=False)
class Trace:
    """Recorded routing: `topk_ids` int16 [layers, tokens, top_k], or `expert_counts` int64 [steps, layers, experts].

    An id of -1 is "no route". layer_index int32 [layers] is the model's number of each layer. Tokens are ordered by
    request (`request_offsets` int64 [requests + 1]) or by forward pass (`step_offsets` int64 [steps + 1], with
    `request_id` int32 [tokens]). Optional, per token: topk_weights [layers, tokens, top_k], router_logits
    [layers, tokens, experts], phase uint8, token_ids and positions int32. `metadata` are the format's string pairs.
    """

    n_experts: int
    top_k: int
    layer_index: NDArray[np.int32]
    topk_ids: NDArray[np.int16] | None = None
    expert_counts: NDArray[np.int64] | None = None
    topk_weights: NDArray[Any] | None = None
    router_logits: NDArray[Any] | None = None
    request_offsets: NDArray[np.int64] | None = None
    step_offsets: NDArray[np.int64] | None = None
    request_id: NDArray[np.int32] | None = None
    phase: NDArray[np.uint8] | None = None
    token_ids: NDArray[np.int32] | None = None
    positions: NDArray[np.int32] | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)

    @property
    def kind(self) -> str:
        """`topk` or `counts`."""
        return "topk" if self.topk_ids is not None else "counts"

    @property
    def n_layers(self) -> int:
        """Layers with experts."""
        return len(self.layer_index)

    @property
    def n_tokens(self) -> int:
        """Tokens; 0 for counts."""
        return 0 if self.topk_ids is None else int(self.topk_ids.shape[1])

    @property
    def n_requests(self) -> int:
        """Requests; 0 when they are not known."""
        if self.request_offsets is not None:
            return len(self.request_offsets) - 1
        return 0 if self.request_id is None else len(np.unique(self.request_id))

    @property
    def batching(self) -> str:
        """What the order of the tokens means: `requests`, `recorded` (forward passes) or `none`."""
        if self.step_offsets is not None:
            return "recorded"
        return "requests" if self.request_offsets is not None else "none"

    @property
    def provenance(self) -> Provenance:
        """`synthetic`, `counts-derived` or `measured`."""
        if self.kind == "counts" or self.metadata.get("provenance") == "counts-derived":
            return "counts-derived"
        return "synthetic" if "generator" in self.metadata else "measured"

    @property
    def ids(self) -> NDArray[np.int16]:
        """The ids; raises `ModelError` for a trace of counts."""
        if self.topk_ids is None:
            raise _error("the trace holds counts only, no ids", "expand it with `mmvq trace synth marginal --counts`")
        return self.topk_ids

    def counts(self, layer: int) -> NDArray[np.int64]:
        """Dispatches of each expert in the layer at position `layer`, int64 [experts]."""
        if self.expert_counts is not None:
            total: NDArray[np.int64] = self.expert_counts[:, layer].sum(axis=0)
            return total
        return count_ids(self.ids[layer], self.n_experts)

    def validate(self, where: str, progress: Progress = silent) -> None:
        """Check every array against the others; raises `ModelError` naming `where`, the array and the place."""
        try:
            self._check_sizes()
            self._check_offsets()
            if self.topk_ids is not None:
                for layer, ids in enumerate(self.topk_ids):
                    _check_ids(ids, self.n_experts, f"topk_ids[{layer}]")
                    progress(layer + 1, self.n_layers)
            self._check_values()
        except ModelError as error:
            raise ModelError(f"{where}: {error.message}", error.hint) from None

    def _check_sizes(self) -> None:
        if not 1 <= self.n_experts <= 2**15 or not 0 <= self.top_k <= self.n_experts:
            raise _error(
                f"{self.n_experts} experts with top-k {self.top_k}: experts are 1 to 32768, top-k at most them"
            )
        if (self.topk_ids is None) == (self.expert_counts is None):
            raise _error("a trace has either topk_ids or expert_counts")
        if len(np.unique(self.layer_index)) != self.n_layers or not self.n_layers or (self.layer_index < 0).any():
            raise _error("layer_index must name at least one layer, each once, none negative")
        n_layers, n_tokens = self.n_layers, self.n_tokens
        wanted = {
            "topk_ids": (n_layers, n_tokens, self.top_k),
            "topk_weights": (n_layers, n_tokens, self.top_k),
            "router_logits": (n_layers, n_tokens, self.n_experts),
            "request_id": (n_tokens,),
            "phase": (n_tokens,),
            "token_ids": (n_tokens,),
            "positions": (n_tokens,),
        }
        if self.expert_counts is not None:
            wanted["expert_counts"] = (self.expert_counts.shape[0], n_layers, self.n_experts)
        for name, shape in wanted.items():
            array = getattr(self, name)
            if array is not None and array.shape != shape:
                raise _error(f"{name} is {list(array.shape)}, it must be {list(shape)}")

    def _check_offsets(self) -> None:
        for name in ("request_offsets", "step_offsets"):
            offsets = getattr(self, name)
            if offsets is None:
                continue
            if offsets.ndim != 1 or len(offsets) < 1 or offsets[0] != 0 or offsets[-1] != self.n_tokens:
                raise _error(f"{name} must run from 0 to the {self.n_tokens} tokens")
            falling = np.flatnonzero(offsets[1:] < offsets[:-1])
            if len(falling):
                raise _error(f"{name}[{falling[0] + 1}] is {offsets[falling[0] + 1]}, less than the one before")

    def _check_values(self) -> None:
        counts = self.expert_counts
        if counts is not None and counts.size and counts.min() < 0:
            step, layer, expert = np.argwhere(counts < 0)[0]
            raise _error(f"expert_counts[{step}, {layer}, {expert}] is negative")
        for name in ("topk_weights", "router_logits"):
            array = getattr(self, name)
            for layer in range(0 if array is None or array.dtype == np.uint16 else self.n_layers):
                finite = np.isfinite(array[layer])
                if not finite.all():
                    token, slot = np.argwhere(~finite)[0]
                    raise _error(f"{name}[{layer}, {token}, {slot}] is {array[layer, token, slot]}, not finite")


def count_ids(ids: NDArray[np.integer[Any]], n_experts: int) -> NDArray[np.int64]:
    """Count the dispatches of each expert in ids [..., top_k], -1 left out; int64 [n_experts], in bounded memory."""
    flat = ids.reshape(-1)
    counts = np.zeros(n_experts + 1, np.int64)
    for start in range(0, len(flat), 1 << 20):
        # -1 becomes 0, so that bincount takes it, and is cut off at the end
        counts += np.bincount(flat[start : start + (1 << 20)].astype(np.int64) + 1, minlength=n_experts + 1)
    return counts[1:]


def find_repeat(ids: NDArray[np.integer[Any]]) -> int | None:
    """The first row of ids [tokens, top_k] that names an expert twice, -1 aside; None when all are distinct."""
    top_k = ids.shape[1]
    repeats = np.zeros(len(ids), bool)
    for slot in range(1, top_k):
        for other in range(slot):
            repeats |= (ids[:, slot] == ids[:, other]) & (ids[:, slot] >= 0)
    rows = np.flatnonzero(repeats)
    return int(rows[0]) if len(rows) else None


def _check_ids(ids: NDArray[np.int16], n_experts: int, name: str) -> None:
    for start in range(0, len(ids), _CHUNK_TOKENS):
        chunk = np.ascontiguousarray(ids[start : start + _CHUNK_TOKENS].T).T  # slots contiguous: 3 times as fast
        if chunk.size and (chunk.min() < -1 or chunk.max() >= n_experts):
            token, slot = np.argwhere((chunk < -1) | (chunk >= n_experts))[0]
            seen = f"{name}[{start + token}, {slot}] is {chunk[token, slot]}"
            raise _error(f"{seen}, ids are 0..{n_experts - 1}, or -1 for no route")
        row = find_repeat(chunk)
        if row is not None:
            raise _error(f"{name}[{start + row}] is {chunk[row].tolist()}: an expert is there twice")


def _error(message: str, hint: str = _HINT) -> ModelError:
    return ModelError(message, hint)
