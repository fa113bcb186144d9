"""The gate's own test: known changes are put into recorded samples, and each must have its exit code."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from mmvq_cli.compare.config import GateConfig
from mmvq_cli.compare.gate import gate_baseline
from mmvq_cli.compare.sources import Source
from mmvq_cli.errors import ExitCode, NothingMatched
from mmvq_cli.record import Record, Status, TimeStatistics

SESSION_NOISE = 0.003  # standard deviation of a made session's speed, and of each row in it
_SESSIONS = 12


@dataclass(frozen=True, slots=True)
class Trial:
    """One change, the exit code that it must have, and the one it had."""

    change: str
    expected: ExitCode
    got: ExitCode

    @property
    def passed(self) -> bool:
        """Whether the gate did what it must."""
        return self.got is self.expected


def self_test(source: Source, config: GateConfig, inject: float, seed: int = 0) -> tuple[Trial, ...]:
    """Make a history from one recorded run, put changes into one more session, and gate it.

    `inject` is the slowdown put in; regressions, invalid and missing rows fail, whatever the settings say.

    Raises `NothingMatched` when the run has no times.
    """
    timed = [record for record in source.latest.values() if record.timing and record.work and record.work.canary_ns]
    if not timed:
        raise NothingMatched(f"{source.name} has no timed rows", "name a run of `mmvq bench`")
    config = replace(config, fail_on=GateConfig().fail_on)
    rng = np.random.default_rng(seed)
    history = Source("history", tuple(r for i in range(_SESSIONS) for r in session(timed, f"history-{i:02}", rng)))

    def gate(change: str, records: Iterable[Record], expected: ExitCode, settings: GateConfig = config) -> Trial:
        return Trial(change, expected, gate_baseline(history, Source("head", tuple(records)), settings).exit_code)

    head = list(session(timed, "head", rng))
    slow = [slowed(record, inject) for record in head]
    trials = [
        gate("nothing", head, ExitCode.OK),
        gate(f"{100 * inject:g} % in every row", slow, ExitCode.REGRESSION),
        gate("a wrong result", [failed(head[0]), *head[1:]], ExitCode.WRONG),
        gate("another device", [_moved(record) for record in head], ExitCode.ENVIRONMENT),
    ]
    if len(head) > 1:
        slowest = max(range(len(head)), key=lambda i: _median(head[i]))
        one = [slow[i] if i == slowest else record for i, record in enumerate(head)]
        # The geometric mean would see it too: this is about the row's own verdict.
        by_row = replace(config, thresholds=replace(config.thresholds, tau_suite=1e6))
        trials.append(gate(f"{100 * inject:g} % in one row", one, ExitCode.REGRESSION, by_row))
        trials.append(gate("a missing row", head[1:], ExitCode.NOTHING_MATCHED))
    return tuple(trials)


def session(records: Sequence[Record], run_id: str, rng: np.random.Generator) -> Iterable[Record]:
    """One more session like the recorded one: samples are drawn again, and speeds vary by SESSION_NOISE."""
    speed = rng.normal(0, SESSION_NOISE)
    for record in records:
        assert record.timing
        assert record.work
        assert record.work.canary_ns
        drawn = rng.choice(record.timing.samples_ns, len(record.timing.samples_ns))
        samples = drawn * np.exp(speed + rng.normal(0, SESSION_NOISE))
        canary_ns = record.work.canary_ns * float(np.exp(speed))
        ids = record.ids.model_copy(update={"run_id": run_id})
        work = record.work.model_copy(update={"canary_ns": canary_ns})
        yield _with_samples(record.model_copy(update={"ids": ids, "work": work}), samples.tolist())


def slowed(record: Record, share: float) -> Record:
    """The same record with every sample longer by `share`, as another build would give it."""
    assert record.timing
    kernel = record.ids.kernel.model_copy(update={"cubin_sha256": None})
    ids = record.ids.model_copy(update={"kernel": kernel})
    return _with_samples(
        record.model_copy(update={"ids": ids}), [sample * (1 + share) for sample in record.timing.samples_ns]
    )


def failed(record: Record) -> Record:
    """The same record as a wrong result: without times."""
    correctness = record.correctness.model_copy(update={"status": Status.WRONG_RESULT, "reason": "made so"})
    return record.model_copy(update={"correctness": correctness, "timing": None, "work": None})


def _moved(record: Record) -> Record:
    device = record.env.device.model_copy(update={"name": "another device"})
    return record.model_copy(update={"env": record.env.model_copy(update={"device": device})})


def _with_samples(record: Record, samples_ns: Sequence[float]) -> Record:
    assert record.timing
    samples = tuple(samples_ns)
    timing = record.timing.model_copy(update={"gpu_ns": TimeStatistics.of(samples), "samples_ns": samples})
    return record.model_copy(update={"timing": timing})


def _median(record: Record) -> float:
    return record.timing.gpu_ns.median if record.timing else 0.0
