"""The machine of a run in words."""

from mmvq_cli.report.machine import bounds_in_words, machine_words
from tests.record.factory import Status, make_record


def test_speed_drift_clocks_and_troubles():
    clean = make_record(
        env__canary_gbps={"start": 4560.0, "mid": 4500.0}, env__clock_sm_mhz={"start": 1980, "min": 1755, "end": 1965}
    )
    hot = make_record(env__canary_gbps={"start": 4560.0}, env__throttle_bits=0x44, env__foreign_pids_n=2)
    assert machine_words([clean, hot, hot]) == [
        "canary 4560 GB/s (drift 1.3 %)",
        "clock 1755 to 1980 MHz",
        "2 rows throttled",
        "2 rows beside other processes",
    ]
    assert machine_words([make_record(env__canary_gbps={"start": 4559.0}, env__throttle_bits=0x5)]) == [
        "canary 4559 GB/s"
    ]
    assert machine_words([make_record(Status.WRONG_RESULT, env__canary_gbps=None)]) == []


def test_what_holds_the_cases():
    records = [make_record(work__bound=bound) for bound in ("mem", "compute", "mem", "launch")]
    assert bounds_in_words(records) == "What holds the 4 timed cases: memory holds 2, launch holds 1, compute holds 1."
    assert bounds_in_words([make_record()]) == ""
