"""Synthetic traces: routings with a known shape, from exactly balanced to as skewed and sticky as measured models.

Experts of a token are the top-k of log popularity + Gumbel noise, which is drawing without replacement (Plackett-Luce).
That flattens heavy weights: look at the realised statistics, not at the parameter.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import ceil
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from mmvq_cli.errors import UsageError
from mmvq_cli.routing.trace.trace import DECODE, Progress, Trace, silent

# Generator -> (parameters with their defaults, what it is).
GENERATORS: dict[str, tuple[dict[str, float], str]] = {
    "balanced": ({}, "round robin over the experts, stride ceil(E / k)"),
    "uniform": ({}, "k distinct experts, all equally likely"),
    "lognormal": ({"sigma": 0.6}, "popularities are quantiles of a log-normal"),
    "zipf": ({"s": 0.6}, "popularity of rank r is r^-s"),
    "dirichlet": ({"alpha": 2.0}, "popularities are Dirichlet(alpha), CV about 1 / sqrt(alpha)"),
    "power_law": ({"alpha": 1.01}, "loads have density x^-alpha on [1, 0.8 T]: no Zipf exponent"),
    "imbalanced-experts": ({"ratio": 0.5}, "balanced but for that share, which goes to the first k experts"),
    "imbalanced-ranks": ({"ratio": 0.5, "ep": 8.0}, "balanced but for that share, which goes to the first of ep ranks"),
    "hot": ({"experts": 1.0, "fraction": 0.5}, "so many experts hold that share of the popularity"),
    "marginal": ({}, "popularities are the counts of a file"),
    "hier": (
        {"sigma": 0.65, "alpha_req": 0.5, "rho": 0.15},
        "per layer log-normal, per request Dirichlet around it, per slot kept from the token before with rho",
    ),
}


@dataclass(frozen=True, slots=True)
class Preset:
    """Sizes and `hier` parameters that land near a measured model."""

    n_experts: int
    top_k: int
    sigma: float
    alpha_req: float
    rho: float


# Fitted to measurements of the models; docs/traces.md has target and outcome of each.
PRESETS = {
    "gpt-oss": Preset(32, 4, 0.65, 0.5, 0.15),
    "deepseek-v2-lite": Preset(64, 6, 0.22, 1.5, 0.15),
    "mixtral-mid": Preset(8, 2, 0.2, float("inf"), 0.17),
    "qwen3-30b": Preset(128, 8, 0.6, 0.2, 0.17),
}
_CHUNK_TOKENS = 1 << 14
_TINY = 1e-300


@dataclass(frozen=True, slots=True, kw_only=True)
class Synthesis:
    """What to generate; `popularity` [layers, experts] is for `marginal`.

    With `n_group` groups, each token keeps to the `topk_group` groups whose two best scores sum highest.
    """

    generator: str
    n_experts: int
    top_k: int
    n_layers: int = 1
    n_requests: int = 64
    request_tokens: int = 128
    seed: int = 0
    parameters: Mapping[str, float] = field(default_factory=dict)
    n_group: int = 1
    topk_group: int = 1
    popularity: NDArray[np.float64] | None = None

    @property
    def n_tokens(self) -> int:
        """Tokens in all."""
        return self.n_requests * self.request_tokens


def preset_synthesis(
    name: str, *, n_layers: int = 4, n_requests: int = 64, request_tokens: int = 128, seed: int = 0
) -> Synthesis:
    """The synthetic twin of a measured model; raises `UsageError` for an unknown one."""
    if name not in PRESETS:
        raise UsageError(f"there is no trace preset {name!r}", f"known: {', '.join(PRESETS)}")
    preset = PRESETS[name]
    return Synthesis(
        generator="hier",
        n_experts=preset.n_experts,
        top_k=preset.top_k,
        n_layers=n_layers,
        n_requests=n_requests,
        request_tokens=request_tokens,
        seed=seed,
        parameters={"sigma": preset.sigma, "alpha_req": preset.alpha_req, "rho": preset.rho},
    )


def synthesize(plan: Synthesis, progress: Progress = silent) -> Trace:
    """Generate the trace: a pure function of the plan. Raises `UsageError` for a plan that cannot be."""
    parameters = _checked(plan)
    ids = np.empty((plan.n_layers, plan.n_tokens, plan.top_k), np.int16)
    for layer in range(plan.n_layers):
        rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence([plan.seed, layer])))
        if plan.generator == "balanced":
            ids[layer] = _balanced(plan)
        elif plan.generator == "hier":
            ids[layer] = _hierarchical(plan, parameters, rng)
        else:
            popularity = _popularity(plan, parameters, layer, rng)
            ids[layer] = _independent(plan, np.log(np.maximum(popularity, _TINY)), rng)
        progress(layer + 1, plan.n_layers)
    facts = {"name": plan.generator, "params": {k: _finite(v) for k, v in parameters.items()}, "seed": plan.seed}
    if plan.n_group > 1:
        facts |= {"n_group": plan.n_group, "topk_group": plan.topk_group}
    metadata = {"generator": json.dumps(facts, sort_keys=True), "slot_order": "rank"}
    if plan.generator == "marginal":
        metadata["provenance"] = "counts-derived"
    return Trace(
        n_experts=plan.n_experts,
        top_k=plan.top_k,
        layer_index=np.arange(plan.n_layers, dtype=np.int32),
        topk_ids=ids,
        request_offsets=np.arange(plan.n_requests + 1, dtype=np.int64) * plan.request_tokens,
        phase=np.full(plan.n_tokens, DECODE, np.uint8),
        metadata=metadata,
    )


def _checked(plan: Synthesis) -> dict[str, float]:
    """The parameters with defaults; raises `UsageError`."""
    if plan.generator not in GENERATORS:
        raise UsageError(f"there is no generator {plan.generator!r}", f"known: {', '.join(GENERATORS)}")
    defaults = GENERATORS[plan.generator][0]
    unknown = sorted(set(plan.parameters) - set(defaults))
    if unknown:
        raise UsageError(f"{plan.generator} has no parameter {unknown[0]!r}", f"it has {', '.join(defaults) or 'none'}")
    parameters = {**defaults, **plan.parameters}
    if not 1 <= plan.top_k <= plan.n_experts <= 2**15:
        raise UsageError(f"top-k {plan.top_k} of {plan.n_experts} experts", "top-k is 1 to the experts, at most 32768")
    if min(plan.n_layers, plan.n_requests, plan.request_tokens) < 1:
        raise UsageError("layers, requests and tokens per request are at least 1", "e.g. --requests 64 --length 128")
    for name, value in parameters.items():
        top = 1.0 if name in ("ratio", "fraction", "rho") else float("inf")
        least = 0.0 if name in ("ratio", "rho", "fraction", "sigma", "s") else _TINY
        if not least <= value <= top:
            raise UsageError(f"{plan.generator}: {name} is {value}", f"{name} is from {least:g} to {top:g}")
    if plan.generator == "hot" and parameters["experts"] > plan.n_experts:
        raise UsageError(f"hot: {parameters['experts']:g} experts of {plan.n_experts}", "choose fewer")
    n_open = plan.topk_group * (plan.n_experts // max(1, plan.n_group))
    if (
        plan.n_group < 1
        or plan.n_experts % plan.n_group
        or not 1 <= plan.topk_group <= plan.n_group
        or n_open < plan.top_k
    ):
        raise UsageError(
            f"{plan.n_experts} experts in {plan.n_group} groups, {plan.topk_group} of them open, for top-{plan.top_k}",
            "groups are equal, and the open ones hold at least top-k experts",
        )
    return parameters


def _balanced(plan: Synthesis) -> NDArray[np.int16]:
    """Send token t to experts t + j * stride, wrapped round; the stride is ceil(E / k), or less where that repeats."""
    stride = ceil(plan.n_experts / plan.top_k)
    if stride * (plan.top_k - 1) >= plan.n_experts:
        stride = plan.n_experts // plan.top_k
    tokens = np.arange(plan.n_tokens)[:, None]
    return ((tokens + stride * np.arange(plan.top_k)) % plan.n_experts).astype(np.int16)


def _independent(plan: Synthesis, log_popularity: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.int16]:
    """Draw each token on its own, [tokens, top_k]."""
    ids = np.empty((plan.n_tokens, plan.top_k), np.int16)
    for start in range(0, plan.n_tokens, _CHUNK_TOKENS):
        n = min(_CHUNK_TOKENS, plan.n_tokens - start)
        keys = log_popularity + rng.gumbel(size=(n, plan.n_experts))
        ids[start : start + n] = _top(_grouped(keys, plan), plan.top_k)
    return ids


def _hierarchical(plan: Synthesis, parameters: dict[str, float], rng: np.random.Generator) -> NDArray[np.int16]:
    """Draw the tokens of all requests side by side, time step after time step; [tokens, top_k] by request."""
    e, k, r = plan.n_experts, plan.top_k, plan.n_requests
    p = np.exp(parameters["sigma"] * rng.standard_normal(e))
    p /= p.sum()
    if np.isinf(parameters["alpha_req"]):
        log_q = np.broadcast_to(np.log(p), (r, e))
    else:
        log_q = _log_gamma_variates(parameters["alpha_req"] * e * p, r, rng)
    ids = np.empty((r, plan.request_tokens, k), np.int16)
    for step in range(plan.request_tokens):
        keys = _grouped(log_q + rng.gumbel(size=(r, e)), plan)
        if step:
            before = ids[:, step - 1].astype(np.int64)
            kept = rng.random((r, k)) < parameters["rho"]
            values = np.take_along_axis(keys, before, axis=1)
            np.put_along_axis(keys, before, np.where(kept, values + 1e6, values), axis=1)
        ids[:, step] = _top(keys, k)
    return ids.reshape(-1, k)


def _log_gamma_variates(shape: NDArray[np.float64], rows: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Logarithms of Gamma(shape) variates, [rows, len(shape)]: small shapes underflow any other way."""
    boosted = np.log(rng.standard_gamma(shape + 1, (rows, len(shape))))
    uniform = 1 - rng.random((rows, len(shape)))
    variates: NDArray[np.float64] = boosted + np.log(uniform) / shape
    return variates


def _grouped(keys: NDArray[np.float64], plan: Synthesis) -> NDArray[np.float64]:
    """Close the groups that are not among the best of a token."""
    if plan.topk_group >= plan.n_group:
        return keys
    groups = keys.reshape(len(keys), plan.n_group, -1)
    scores = 1 / (1 + np.exp(-np.clip(groups, -80, 80)))
    best = np.sort(scores, axis=2)[:, :, -2:].sum(axis=2)
    closed = np.argsort(-best, axis=1, kind="stable")[:, plan.topk_group :]
    groups = groups.copy()
    np.put_along_axis(groups, closed[:, :, None], -1e9, axis=1)
    return groups.reshape(keys.shape)


def _top(keys: NDArray[np.float64], k: int) -> NDArray[np.int64]:
    """The k largest of each row, largest first."""
    part = np.argpartition(-keys, k - 1, axis=1)[:, :k]
    order = np.argsort(-np.take_along_axis(keys, part, axis=1), axis=1, kind="stable")
    return np.take_along_axis(part, order, axis=1)


def _popularity(
    plan: Synthesis, parameters: dict[str, float], layer: int, rng: np.random.Generator
) -> NDArray[np.float64]:
    """Relative popularity of each expert, float64 [experts]; its order is the layer's own where it has no meaning."""
    n = plan.n_experts
    if plan.generator == "marginal":
        if plan.popularity is None or plan.popularity.shape[1] != n:
            raise UsageError("marginal needs the counts of a trace", "give --counts FILE")
        counts: NDArray[np.float64] = plan.popularity[layer % len(plan.popularity)]
        return counts
    if plan.generator.startswith("imbalanced"):
        return _imbalanced(plan, parameters)
    by_rank: Callable[[], NDArray[np.float64]] = {
        "uniform": lambda: np.ones(n),
        "lognormal": lambda: np.exp(parameters["sigma"] * _normal_quantiles(n)),
        "zipf": lambda: np.arange(1, n + 1) ** -parameters["s"],
        "dirichlet": lambda: np.exp(_log_gamma_variates(np.full(n, parameters["alpha"]), 1, rng)[0]),
        "power_law": lambda: _power_law(parameters["alpha"], n, plan.n_tokens, rng),
        "hot": lambda: _hot(int(parameters["experts"]), parameters["fraction"], n),
    }[plan.generator]
    return rng.permutation(by_rank())


def _normal_quantiles(n: int) -> NDArray[np.float64]:
    return np.array([NormalDist().inv_cdf((rank + 0.5) / n) for rank in range(n)])


def _power_law(alpha: float, n: int, n_tokens: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Loads with density x^-alpha on [1, 0.8 tokens], by inverting their distribution."""
    u, most, exponent = rng.random(n), max(2.0, 0.8 * n_tokens), 1 - alpha
    if abs(exponent) < 1e-9:
        exponent = 1e-9  # its limit, exp(u * log(most)), to nine digits
    loads: NDArray[np.float64] = ((most**exponent - 1) * u + 1) ** (1 / exponent)
    return loads


def _hot(hot: int, fraction: float, n: int) -> NDArray[np.float64]:
    popularity = np.full(n, (1 - fraction) / max(1, n - hot))
    popularity[:hot] = fraction / hot if hot < n else 1.0
    return popularity


def _imbalanced(plan: Synthesis, parameters: dict[str, float]) -> NDArray[np.float64]:
    n, ratio = plan.n_experts, parameters["ratio"]
    target = plan.top_k if plan.generator == "imbalanced-experts" else max(1, n // int(parameters["ep"]))
    popularity = np.full(n, (1 - ratio) / n)
    popularity[:target] += ratio / target
    return popularity


def _finite(value: float) -> float | str:
    """JSON has no infinity."""
    return "inf" if np.isinf(value) else value
