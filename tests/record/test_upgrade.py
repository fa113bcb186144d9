"""Records of older versions are read as records of today."""

import gzip
import json
from pathlib import Path

from mmvq_cli.record import SCHEMA, Record
from mmvq_cli.record.upgrade import upgraded

OLD = Path(__file__).parents[1] / "data" / "records" / "nvidia-h200-smoke.jsonl.gz"


def test_recorded_runs_of_the_first_schema_keep_everything():
    for line in gzip.decompress(OLD.read_bytes()).splitlines():
        old, new = json.loads(line), json.loads(Record.from_json(line).to_json())
        assert (old["schema"], new["schema"]) == ("mmvq.result/1", SCHEMA)
        assert new["timing"]["launch_overhead_ns"] == old["timing"].pop("cpu_launch_ns") > 0
        for group in ("ids", "axes", "work", "correctness"):
            assert {name: new[group][name] for name in old[group]} == old[group]
        assert {name: new["timing"][name] for name in old["timing"]} == old["timing"]


def test_a_record_without_times_is_raised_too_and_others_are_left_alone():
    assert upgraded({"schema": "mmvq.result/1", "timing": None}) == {"schema": SCHEMA, "timing": None}
    for fields in ({"schema": SCHEMA, "timing": {}}, {"schema": "other/1"}, {}):
        assert upgraded(dict(fields)) == fields
