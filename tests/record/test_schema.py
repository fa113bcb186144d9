import json
import math
import pickle
import re

import numpy as np
import pytest
from pydantic import ValidationError

from mmvq_cli.errors import OpenError
from mmvq_cli.record import SCHEMA, Record, Status, finite, make_row_id
from tests.record.factory import make_record


def test_a_line_reads_back_equal_and_unrounded():
    record = make_record(timing__ci95_rel=1 / 3)
    line = record.to_json()
    assert "\n" not in line
    assert json.loads(line)["schema"] == SCHEMA
    assert Record.from_json(line) == record
    assert Record.from_json(line).timing.ci95_rel == 1 / 3


def test_numpy_scalars_become_plain_numbers():
    record = make_record(axes__n_tokens=np.int64(4), correctness__max_abs=np.float32(0.5))
    assert json.loads(record.to_json())["axes"]["n_tokens"] == 4
    assert json.loads(record.to_json())["correctness"]["max_abs"] == 0.5


@pytest.mark.parametrize("status", [status for status in Status if status is not Status.PASSED])
def test_no_time_without_a_right_result(status):
    timing = make_record().timing
    with pytest.raises(ValidationError, match="has no times"):
        make_record(status, timing=timing)
    assert make_record(status).timing is None


@pytest.mark.parametrize("field", ["gbps_unique", "sol_pct_measured", "sol_pct_datasheet", "ns_per_token"])
def test_no_speed_without_a_right_result(field):
    with pytest.raises(ValidationError, match=field):
        make_record(Status.WRONG_RESULT, **{f"work__{field}": 0.0})


@pytest.mark.parametrize("schema", ["mmvq.result/9", None, "other/1"])
def test_another_schema_is_refused_by_name(schema):
    data = json.loads(make_record().to_json()) | {"schema": schema}
    with pytest.raises(OpenError, match=re.escape(repr(schema))) as caught:
        Record.from_json(json.dumps(data))
    assert SCHEMA in caught.value.message


def test_a_broken_field_is_named_by_its_path():
    data = json.loads(make_record().to_json())
    data["axes"]["rows_m"] = "many"
    with pytest.raises(OpenError, match=r"axes\.rows_m"):
        Record.from_json(json.dumps(data))


@pytest.mark.parametrize("line", ["", "[1]", '{"schema": '])
def test_what_is_no_object_is_a_value_error(line):
    with pytest.raises(ValueError, match=r"Expecting|JSON object"):
        Record.from_json(line)


def test_an_unchecked_copy_of_a_group_is_checked_by_the_record():
    record = make_record()
    groups = {name: value for name, value in record if name != "schema_name"}
    assert Record(**groups) == record
    broken = record.work.model_copy(update={"gbps_unique": math.nan})
    with pytest.raises(ValidationError, match="finite"):
        Record(**groups | {"work": broken})
    failed = record.correctness.model_copy(update={"status": Status.WRONG_RESULT, "reason": "so"})
    with pytest.raises(ValidationError, match="has no times"):
        Record(**groups | {"correctness": failed})


def test_a_record_survives_the_way_from_a_worker():
    record = make_record()
    assert pickle.loads(pickle.dumps(record)) == record
    assert Record.model_validate(record) == record


def row_id(record):
    return make_row_id(record.ids.kernel, record.axes, record.protocol)


def test_row_id_names_what_was_asked_for():
    base = row_id(make_record())
    realised = {
        "axes__unique_experts": [9],
        "axes__routing_statistics": None,
        "protocol__samples_n": 9,
        "protocol__stop_reason": "budget",
        "ids__kernel__version": "0.2.0",
        "ids__kernel__source_sha256": "ab",
        "env__driver": "590",
    }
    asked = {
        "axes__n_tokens": 2,
        "axes__routing_seed": 8,
        "axes__dtype": "bf16",
        "axes__tensor_name": "blk.1.ffn_up_exps.weight",
        "protocol__cache": "hot",
        "protocol__timer": "event",
        "protocol__draws_n": 32,
        "ids__kernel__name": "other",
        "ids__kernel__plugin": "mine.so",
    }
    assert {row_id(make_record(**{path: value})) for path, value in realised.items()} == {base}
    assert len({base} | {row_id(make_record(**{path: value})) for path, value in asked.items()}) == len(asked) + 1
    assert base == "d21ee834ed4e20da", "row ids must not change: baselines are matched by them"


def test_finite_turns_nan_and_infinity_into_null():
    assert [finite(value) for value in (1.5, None, math.nan, -math.inf)] == [1.5, None, None, None]
