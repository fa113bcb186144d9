"""Simulate the gate's rules on made noise: false alarms of identical builds, and power at a known slowdown.

The noise is a normal variation of ln(time) by session, process and launch, with spikes of 1 % of the launches by 50 %,
on rows of 12 µs read in ticks of 32 ns. Prints one line per rule and noise, with the upper 95 % bound of the suites
that raise a false alarm. Exit code 1 when the bar is missed: on `shared` noise at most 2 % of suites, power at least
90 % for the paired rule at 5 %.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mmvq_cli.compare.rule import REGRESSED, TIMER_TICK_NS, Thresholds, classify, threshold_of
from mmvq_cli.compare.statistics import binomial_upper, block_difference, t_quantile

TIME_NS, SAMPLES, ROWS, BLOCKS, SESSIONS = 12_000.0, 32, 40, 10, 10
SPIKE_SHARE, SPIKE = 0.01, 1.5
SEEDS = range(20)
Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Noise:
    """Standard deviations of ln(time): between sessions, processes, launches, and builds of the same source."""

    name: str
    session: float
    process: float
    launch: float
    layout: float = 0.0


NOISES = (
    Noise("quiet", 0.003, 0.003, 0.01),
    Noise("shared", 0.02, 0.01, 0.03),
    Noise("noisy", 0.04, 0.02, 0.05),
    Noise("shared, layout 1 %", 0.02, 0.01, 0.03, layout=0.01),
)


@dataclass(frozen=True, slots=True)
class Outcome:
    """Suites with a false alarm, suites simulated, and the share of slowed rows that were found."""

    rule: str
    noise: str
    alarms: int
    suites: int
    power: float

    @property
    def upper(self) -> float:
        """Upper 95 % bound of a suite's false alarm."""
        return binomial_upper(self.alarms, self.suites)


def paired(rng: np.random.Generator, noise: Noise, suites: int, slowdown: float) -> NDArray[np.bool_]:
    """Which rows [suites, ROWS] the paired rule calls slower in a screen of BLOCKS blocks."""
    same = np.zeros((suites, ROWS, BLOCKS, SAMPLES))
    layout = rng.normal(0, noise.layout, (suites, ROWS, 1, 1))
    base = _times(rng, noise, same)
    head = _times(rng, noise, same + layout + math.log1p(slowdown))
    x = block_difference(base, head)
    half = x.std(axis=-1, ddof=1) / math.sqrt(BLOCKS) * t_quantile(1 - Thresholds().alpha, BLOCKS - 1)
    return _slower(x.mean(axis=-1), half)


def confirmed(rng: np.random.Generator, noise: Noise, suites: int, slowdown: float) -> NDArray[np.bool_]:
    """The paired rule, and the same once more in fresh processes, which lay out their builds anew."""
    return paired(rng, noise, suites, slowdown) & paired(rng, noise, suites, slowdown)


def stored(rng: np.random.Generator, noise: Noise, suites: int, slowdown: float) -> NDArray[np.bool_]:
    """The baseline's rule: the last of SESSIONS + 1 sessions, each one process, relative to its canary."""
    shape = (suites, ROWS, SESSIONS + 1, SAMPLES)
    speed = rng.normal(0, noise.session, (suites, 1, SESSIONS + 1, 1))
    own = rng.normal(0, noise.session / 4, (suites, ROWS, SESSIONS + 1, 1))  # what the canary does not see
    change = np.zeros((SESSIONS + 1, 1))
    change[-1] = math.log1p(slowdown)
    times = _times(rng, noise, np.zeros(shape) + speed + own + change)
    canary = TIME_NS * np.exp(speed[..., 0] + rng.normal(0, noise.process / 4, (suites, 1, SESSIONS + 1)))
    ratios = np.log(np.median(times, axis=-1) / canary)
    history, last = ratios[..., :-1], ratios[..., -1]
    error = history.std(axis=-1, ddof=1) * math.sqrt(1 + 1 / SESSIONS)
    return _slower(last - history.mean(axis=-1), error * t_quantile(1 - 0.01 / ROWS, SESSIONS - 1))


Rule = Callable[[np.random.Generator, Noise, int, float], NDArray[np.bool_]]
RULES: dict[str, Rule] = {"stored": stored, "paired": paired, "paired, confirmed": confirmed}


def _times(rng: np.random.Generator, noise: Noise, log_factor: Array) -> Array:
    """Measured times [suites, rows, processes, samples] in whole ticks."""
    process = rng.normal(0, noise.process, (*log_factor.shape[:-1], 1))
    logs = log_factor + process + rng.normal(0, noise.launch, log_factor.shape)
    spikes = np.where(rng.random(log_factor.shape) < SPIKE_SHARE, SPIKE, 1.0)
    return np.asarray(np.round(TIME_NS * np.exp(logs) * spikes / TIMER_TICK_NS) * TIMER_TICK_NS)


def _slower(difference: Array, half: Array) -> NDArray[np.bool_]:
    limits = Thresholds()
    theta = threshold_of(limits.tau, TIME_NS)
    verdicts = classify(difference, half, theta, math.log1p(limits.tau_significant))
    return np.asarray((verdicts == REGRESSED) & (np.expm1(difference) * TIME_NS >= limits.floor_ns))


def simulate(rule: str, noise: Noise, suites: int, slowdown: float, seeds: Sequence[int] = SEEDS) -> Outcome:
    """Run `suites` suites of identical builds, and a tenth as many with every row slowed, over fixed seeds."""
    each = -(-suites // len(seeds))
    alarms, found = 0, []
    for seed in seeds:
        rng = np.random.default_rng([seed, sum(map(ord, rule + noise.name))])
        for part in _parts(each):
            alarms += int(RULES[rule](rng, noise, part, 0.0).any(axis=1).sum())
        found.append(RULES[rule](rng, noise, max(1, each // 10), slowdown).mean())
    return Outcome(rule, noise.name, alarms, each * len(seeds), float(np.mean(found)))


def _parts(total: int, largest: int = 100) -> Iterator[int]:
    yield from [largest] * (total // largest) + [total % largest] * (total % largest > 0)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table as Markdown; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--suites", type=int, default=4000, help="suites for each rule and noise (default: 4000)")
    parser.add_argument("--slowdown", type=float, default=0.05, help="the change to find (default: 0.05)")
    options = parser.parse_args(arguments)
    print(f"| rule | noise | suites with a false alarm | upper 95 % bound | power at {100 * options.slowdown:g} % |")
    print("|---|---|--:|--:|--:|")
    missed = False
    for rule in RULES:
        for noise in NOISES:
            outcome = simulate(rule, noise, options.suites, options.slowdown)
            print(
                f"| {rule} | {noise.name} | {outcome.alarms} of {outcome.suites} | {100 * outcome.upper:.2f} % "
                f"| {100 * outcome.power:.1f} % |",
                flush=True,
            )
            if noise.name == "shared" and rule == "paired, confirmed":
                missed = outcome.upper > 0.02 or outcome.power < 0.90
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
