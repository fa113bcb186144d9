"""Looks among records: written, read back, and joined to the records of their run."""

import pytest

from mmvq_cli.errors import OpenError
from mmvq_cli.record import Look, RecordStore, Status, read_looks, read_records, with_looks
from tests.record.factory import make_record

STATE = {"sm_mhz": 1980, "temp_c": 61.0, "foreign_pids_n": 0, "ecc": True}


def look(point, gb_s=4550.0, state=None):
    return Look(run_id="run", point=point, time_utc="2026-01-01T00:00:00Z", canary_gbps=gb_s, state=state)


def timed(row, start=4500.0):
    return make_record(ids__row_id=row, env__canary_gbps={"start": start})


def readings(record):
    return record.env.canary_gbps and tuple(record.env.canary_gbps.model_dump().values())


@pytest.fixture
def store(tmp_path):
    return RecordStore(tmp_path, "run")


def test_a_look_is_read_back(store):
    store.append(look("start", state=STATE))
    store.append(timed("a"))
    store.append(look("end", None))
    assert read_looks(store.path) == [look("start", state=STATE), look("end", None)]
    assert [r.ids.row_id for r in read_records(store.path)] == ["a"]


def test_records_get_the_readings_of_their_run_whenever_these_were_taken(store):
    for line in (look("start", 4560.0), timed("a"), look("mid", 4550.0), timed("b"), look("end", 4540.0)):
        store.append(line)
    assert [readings(r) for r in read_records(store.path)] == [(4560.0, 4550.0, 4540.0)] * 2


def test_an_interrupted_run_has_the_readings_that_it_has(store):
    for line in (look("start", 4560.0), timed("a"), look("mid", None), timed("b")):
        store.append(line)
    assert [readings(r) for r in read_records(store.path)] == [(4560.0, None, None)] * 2


def test_a_resumed_run_starts_again(store):
    lines = (look("start", 4560.0), timed("a"), look("start", 4400.0), timed("b"), look("end", 4390.0))
    for line in lines:
        store.append(line)
    assert [readings(r) for r in read_records(store.path)] == [(4560.0, None, None), (4400.0, None, 4390.0)]


def test_records_without_looks_or_times_stay_as_they_are():
    record, wrong = timed("a"), make_record(Status.WRONG_RESULT)
    assert with_looks([record], []) == [record]
    assert with_looks([wrong], [look("start")]) == [wrong]


def test_a_look_with_a_wrong_field_is_an_error_that_names_it(store):
    store.append(look("start"))
    store.path.write_bytes(store.path.read_bytes().replace(b'"start"', b'"never"'))
    with pytest.raises(OpenError, match="line 1: point"):
        list(read_records(store.path))
