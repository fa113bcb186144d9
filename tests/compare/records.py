"""Made runs: rows of given medians, sessions with noise."""

import numpy as np

from mmvq_cli.compare import Source
from mmvq_cli.record import Status, TimeStatistics
from tests.record.factory import make_record

__all__ = ["Status", "history", "make_record", "source", "timed"]


def timed(case="a", time_ns=50_000.0, run_id="run-1", noise=0.001, seed=0, canary_ns=10_000.0, **changes):
    """One row with 20 samples around a median."""
    samples = tuple((time_ns * np.exp(np.random.default_rng(seed).normal(0, noise, 20))).tolist())
    return make_record(
        ids__run_id=run_id,
        ids__row_id=f"row-{case}",
        ids__case_id=f"case-{case}",
        timing__samples_ns=samples,
        timing__gpu_ns=TimeStatistics.of(samples).model_dump(),
        work__canary_ns=canary_ns,
        **changes,
    )


def source(*records, name="source"):
    return Source(name, records)


def history(cases=("a", "b", "c"), sessions=12, noise=0.003):
    """Sessions whose speed varies together with their canary, and rows that vary a little by themselves."""
    rng = np.random.default_rng(5)
    records = []
    for index in range(sessions):
        speed = float(np.exp(rng.normal(0, 0.02)))
        for case in cases:
            own = float(np.exp(rng.normal(0, noise)))
            records.append(timed(case, 50_000 * speed * own, f"run-{index:02}", seed=index, canary_ns=10_000 * speed))
    return source(*records, name="main")
