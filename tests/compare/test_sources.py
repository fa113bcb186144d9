"""Files, folders, baselines and run names."""

import gzip

import pytest

from mmvq_cli.compare import BaselineStore, open_source, project_baselines, user_baselines
from mmvq_cli.compare.sources import latest_run
from mmvq_cli.errors import NothingMatched, OpenError, UsageError
from tests.compare.records import timed


@pytest.fixture
def results(tmp_path):
    folder = tmp_path / "results"
    folder.mkdir()
    for run_id in ("20260101T000000Z-a", "20260102T000000Z-a"):
        lines = "".join(timed(c, run_id=run_id).to_json() + "\n" for c in "ab")
        (folder / f"{run_id}.jsonl").write_text(lines)
    return folder


@pytest.fixture
def store(tmp_path):
    return BaselineStore((tmp_path / "project", tmp_path / "user"))


def test_a_file_a_folder_and_the_beginning_of_a_run(results, store, tmp_path):
    packed = tmp_path / "x.jsonl.gz"
    packed.write_bytes(gzip.compress((results / "20260101T000000Z-a.jsonl").read_bytes()))
    assert len(open_source(str(packed), store, results).records) == 2
    assert list(open_source(str(results), store, results).sessions) == ["20260101T000000Z-a", "20260102T000000Z-a"]
    assert list(open_source("20260102", store, results).sessions) == ["20260102T000000Z-a"]
    assert latest_run(results).name == "20260102T000000Z-a.jsonl"


def test_what_names_nothing_or_too_much_is_refused(results, store, tmp_path):
    with pytest.raises(OpenError, match="begins 2 runs"):
        open_source("2026", store, results)
    with pytest.raises(OpenError, match="no file, folder, baseline or run"):
        open_source("nothing", store, results)
    (tmp_path / "empty").mkdir()
    with pytest.raises(NothingMatched):
        open_source(str(tmp_path / "empty"), store, results)
    with pytest.raises(OpenError, match="no records"):
        latest_run(tmp_path / "empty")


def test_a_baseline_collects_sessions(results, store):
    for run in ("20260101", "20260102", "20260101"):
        store.save("main", open_source(run, store, results).records)
    source = open_source("main", store, results)
    assert len(source.sessions) == 2
    assert len(source.records) == 4
    assert store.names() == {"main": store.folders[0] / "main"}
    store.remove("main")
    assert store.find("main") is None


def test_the_project_hides_the_users_baseline_of_the_same_name(results, store):
    records = open_source("20260101", store, results).records
    BaselineStore(store.folders[::-1]).save("main", records)
    assert store.require("main").parent == store.folders[1]
    (store.folders[0] / "main").mkdir(parents=True)
    assert store.require("main").parent == store.folders[0]


@pytest.mark.parametrize("name", ["../x", "", ".hidden", "a/b"])
def test_a_name_stays_in_its_folder(store, name):
    with pytest.raises(UsageError, match="cannot be the name"):
        store.save(name, [timed()])


def test_a_run_id_cannot_leave_the_folder(store):
    folder = store.save("main", [timed(run_id="../../evil")])
    assert [path.parent for path in folder.rglob("*.jsonl")] == [folder]


def test_an_unknown_baseline_names_the_known_ones(store):
    store.save("main", [timed()])
    with pytest.raises(OpenError, match=r"no baseline 'mian' \(known: main\)"):
        store.require("mian")


def test_where_baselines_live(tmp_path, monkeypatch):
    (tmp_path / ".mmvq" / "baselines").mkdir(parents=True)
    (tmp_path / "below").mkdir()
    assert project_baselines(tmp_path / "below") == (tmp_path / ".mmvq" / "baselines").resolve()
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert user_baselines() == tmp_path / "mmvq" / "baselines"
