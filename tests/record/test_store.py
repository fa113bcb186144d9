import fcntl
import gzip
import os
import subprocess
import sys
import threading
import warnings
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mmvq_cli.errors import OpenError
from mmvq_cli.record import (
    RecordStore,
    Status,
    TruncatedRecordWarning,
    completed_row_ids,
    last_per_row,
    latest_run_id,
    new_run_id,
    read_records,
    write_whole,
)
from tests.record.factory import make_record


def record_of(row, status=Status.PASSED):
    return make_record(status, ids__row_id=row)


@pytest.fixture
def store(tmp_path):
    return RecordStore(tmp_path / "new" / "folder", "run")


def test_what_is_appended_is_read_back_in_order(store):
    records = [record_of("a"), record_of("b", Status.WRONG_RESULT), record_of("c", Status.SKIPPED)]
    for count, record in enumerate(records, 1):
        store.append(record)
        assert list(read_records(store.path)) == records[:count]


def test_every_append_reaches_the_disk(store, monkeypatch):
    sizes = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: sizes.append(os.fstat(descriptor).st_size))
    store.append(record_of("a"))
    store.append(record_of("b"))
    assert sizes == [store.path.stat().st_size // 2, store.path.stat().st_size]


def test_compressed_files_are_read(store, tmp_path):
    store.append(record_of("a"))
    packed = tmp_path / "run.jsonl.gz"
    packed.write_bytes(gzip.compress(store.path.read_bytes()))
    assert list(read_records(packed)) == [record_of("a")]
    packed.write_bytes(packed.read_bytes()[:-200])
    with pytest.raises(OpenError, match="cannot read"):
        list(read_records(packed))


LINE = make_record(ids__row_id="b").to_json().encode()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30, deadline=None)
@given(kept=st.integers(1, len(LINE) - 1))
def test_an_interrupted_line_is_reported_and_replaced(tmp_path, kept):
    store = RecordStore(tmp_path, "run")
    store.path.write_bytes(make_record(ids__row_id="a").to_json().encode() + b"\n" + LINE[:kept])
    with pytest.warns(TruncatedRecordWarning, match="line 2 is incomplete"):
        assert [record.ids.row_id for record in read_records(store.path)] == ["a"]
    store.append(record_of("c"))
    assert [record.ids.row_id for record in read_records(store.path)] == ["a", "c"]


def test_a_file_with_nothing_but_an_interrupted_line(store):
    store.path.parent.mkdir(parents=True)
    store.path.write_bytes(b"x" * 200_000)
    store.append(record_of("a"))
    assert list(read_records(store.path)) == [record_of("a")]


def test_a_complete_last_line_without_line_end_is_kept(store):
    store.path.parent.mkdir(parents=True)
    store.path.write_bytes(LINE)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(list(read_records(store.path))) == 1
        store.append(record_of("c"))
        assert [record.ids.row_id for record in read_records(store.path)] == ["b", "c"]


def test_a_broken_line_in_the_middle_is_an_error_with_its_number(store):
    store.append(record_of("a"))
    store.path.write_bytes(store.path.read_bytes() + b"{broken\n" + LINE + b"\n")
    with pytest.raises(OpenError, match="line 2 is not JSON"):
        list(read_records(store.path))


def test_an_unknown_schema_is_an_error_that_names_it(store):
    store.append(record_of("a"))
    store.path.write_bytes(store.path.read_bytes().replace(b"mmvq.result/2", b"mmvq.result/9"))
    with pytest.raises(OpenError, match=r"line 1: schema is 'mmvq\.result/9'"):
        list(read_records(store.path))


def test_a_missing_file_is_an_error(tmp_path):
    with pytest.raises(OpenError, match="No such file"):
        list(read_records(tmp_path / "none.jsonl"))


def test_a_folder_that_cannot_be_written_is_an_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OpenError, match="cannot write"):
        RecordStore(tmp_path / "file", "run").append(record_of("a"))


def test_resume_leaves_out_rows_with_a_final_verdict(store):
    for status in Status:
        store.append(record_of(status.value, status))
    assert completed_row_ids(store.path) == {"PASSED", "WRONG_RESULT", "UNSUPPORTED"}
    store.append(record_of("TIMEOUT"))
    assert "TIMEOUT" in completed_row_ids(store.path)


def test_the_last_record_of_a_row_counts():
    records = [record_of("a", Status.TIMEOUT), record_of("b"), record_of("a")]
    assert last_per_row(records) == [records[2], records[1]]


def test_run_ids_name_time_device_suite_and_commit(tmp_path):
    moment = datetime(2026, 1, 2, 3, 4, 5, tzinfo=timezone(timedelta(hours=1)))
    run_id = new_run_id("NVIDIA H200", "Smoke/suite", "abc1234", moment)
    assert run_id == "20260102T020405Z-nvidia-h200-smoke-suite-abc1234"
    assert abs(datetime.strptime(new_run_id("a", "b", "c")[:16], "%Y%m%dT%H%M%S%z") - datetime.now(UTC)).seconds < 5


def test_the_latest_run_of_the_same_kind_is_found(tmp_path):
    assert latest_run_id(tmp_path, "H200", "smoke", "abc") is None
    for name in (
        "20260101T000000Z-h200-smoke-abc",
        "20260102T000000Z-h200-smoke-abc",
        "20260103T000000Z-h200-smoke-abd",
    ):
        (tmp_path / f"{name}.jsonl").write_text("")
    (tmp_path / "20260109T000000Z-big-h200-smoke-abc.jsonl").write_text("")
    assert latest_run_id(tmp_path, "H200", "smoke", "abc") == "20260102T000000Z-h200-smoke-abc"


def test_a_whole_file_is_replaced_at_once(tmp_path, monkeypatch):
    path = tmp_path / "sub" / "table.md"
    write_whole(path, "old")
    write_whole(path, "new\r\n")
    assert path.read_bytes() == b"new\r\n"
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(OpenError, match="No space left"):
        write_whole(path, "newer")
    assert path.read_bytes() == b"new\r\n"
    assert [entry.name for entry in path.parent.iterdir()] == ["table.md"]


WRITER = """
import sys
from pathlib import Path
from mmvq_cli.record import RecordStore
from tests.record.factory import make_record
store = RecordStore(Path(sys.argv[1]), "run")
for i in range(25):
    store.append(make_record(ids__row_id=f"{sys.argv[2]}-{i}", correctness__reason="x" * 20_000))
"""


def test_concurrent_writers_do_not_corrupt_a_file(tmp_path):
    root = Path(__file__).parents[2]
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path), name], cwd=root) for name in ("a", "b", "c")
    ]
    assert [writer.wait(60) for writer in writers] == [0, 0, 0]
    rows = [record.ids.row_id for record in read_records(tmp_path / "run.jsonl")]
    assert sorted(rows) == sorted(f"{name}-{i}" for name in "abc" for i in range(25))
    assert [row for row in rows if row[0] == "a"] == [f"a-{i}" for i in range(25)]


def test_a_writer_waits_for_the_line_of_another(store):
    """Half a line of another writer must not be cut off while it is written."""
    store.append(record_of("a"))
    with store.path.open("a+b") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        thread = threading.Thread(target=store.append, args=(record_of("c"),))
        thread.start()
        other.write(LINE[:100])
        other.flush()
        thread.join(0.3)
        assert thread.is_alive()
        other.write(LINE[100:] + b"\n")
    thread.join()
    assert [record.ids.row_id for record in read_records(store.path)] == ["a", "b", "c"]
