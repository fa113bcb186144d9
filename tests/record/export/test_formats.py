"""Other tools' formats against their readers' demands: nvbench 1.0.0, SQLite, github-action-benchmark's README."""

import json
import sqlite3

import pytest

from mmvq_cli.record.export import github_action_json, llama_sql, nvbench_json
from tests.compare.records import Status, make_record, timed

RECORDS = [
    timed("a"),
    timed("b", 80_000),
    make_record(Status.WRONG_RESULT, ids__row_id="w", ids__case_id="w", correctness__reason="it's wrong"),
]


def test_nvbench_reads_times_in_seconds_and_skips_what_has_none():
    root = json.loads(nvbench_json(RECORDS))
    assert root["meta"]["version"]["json"]["string"] == "1.0.0"
    (bench,) = root["benchmarks"]
    assert bench["devices"] == [device["id"] for device in root["devices"]]
    assert [axis["name"] for axis in bench["axes"]] == ["case"]
    first, _, wrong = bench["states"]
    # What nvbench-compare does with a state.
    summaries = {s["tag"]: next(v for v in s["data"] if v["name"] == "value") for s in first["summaries"]}
    mean = summaries["nv/cold/time/gpu/mean"]
    assert mean["type"] == "float64"
    assert float(mean["value"]) == pytest.approx(50e-6, rel=0.01)
    assert float(summaries["nv/cold/time/gpu/stdev/relative"]["value"]) == RECORDS[0].timing.gpu_ns.cv
    assert first["axis_values"][0]["value"] == "case-a"
    assert (wrong["is_skipped"], wrong["skip_reason"]) == (True, "it's wrong")
    assert len({state["name"] for state in bench["states"]}) == 3


def test_llama_sql_runs_and_answers_the_queries_of_its_comparison():
    db = sqlite3.connect(":memory:")
    db.executescript(llama_sql(RECORDS))
    names = [row[1] for row in db.execute("PRAGMA table_info(test_backend_ops)")]
    assert " ".join(names) == (
        "test_time build_commit backend_name op_name op_params test_mode supported passed error_message time_us "
        "flops bandwidth_gb_s memory_kb n_runs device_description backend_reg_name"
    )
    perf = db.execute(
        "SELECT AVG(time_us), AVG(flops) FROM test_backend_ops WHERE test_mode = 'perf' GROUP BY op_params"
    ).fetchall()
    assert len(perf) == 1  # both are the same problem
    assert perf[0][0] == pytest.approx(65, rel=0.01)
    wrong = db.execute("SELECT passed, error_message, time_us FROM test_backend_ops WHERE test_mode='test'").fetchall()
    assert wrong == [(0, "it's wrong", 0.0)]


def test_two_runs_fill_one_database():
    db = sqlite3.connect(":memory:")
    db.executescript(llama_sql(RECORDS))
    db.executescript(llama_sql(RECORDS))
    assert db.execute("SELECT COUNT(*) FROM test_backend_ops").fetchone() == (6,)


def test_github_action_entries_are_what_its_tool_demands():
    entries = json.loads(github_action_json(RECORDS))
    assert [entry["name"] for entry in entries] == ["case-a", "case-b"]
    for entry in entries:
        assert set(entry) <= {"name", "unit", "value", "range", "extra"}
        assert isinstance(entry["value"], float)
        assert entry["unit"] == "ns"
        assert entry["range"].startswith("± ")
