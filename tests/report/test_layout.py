from mmvq_cli.record import Status
from mmvq_cli.report.layout import lay_out
from tests.record.factory import make_record


def headers(layout):
    return [column.header for column in layout.columns]


def test_what_is_constant_goes_to_the_title():
    layout = lay_out([make_record(), make_record(axes__n_tokens=8)])
    for part in ("mmvq 0.1.0", "driver 580.1", "canary 4210 GB/s", "NVIDIA H200", "qwen3-30b-a3b", "768×2048"):
        assert part in layout.title
    for part in ("128 experts", "top-k 8", "routing uniform", "seed 7", "cold cache", "0.up", "f32"):
        assert part in layout.title
    assert headers(layout)[:3] == ["format", "tokens", "uniq"]
    assert [block.title for block in layout.blocks] == [""]


def test_conditions_that_differ_head_blocks_and_keys_that_differ_are_columns():
    records = [
        make_record(axes__rows_m=rows, axes__dtype=dtype, axes__routing=routing)
        for rows in (768, 1024)
        for dtype in ("f32", "f16")
        for routing in ("uniform", "zipf:1.0")
    ]
    layout = lay_out(records)
    assert [block.title for block in layout.blocks] == [
        "768×2048 · routing uniform",
        "768×2048 · routing zipf:1.0",
        "1024×2048 · routing uniform",
        "1024×2048 · routing zipf:1.0",
    ]
    assert [len(block.rows) for block in layout.blocks] == [2] * 4
    assert "dtype" in headers(layout)
    assert "f32" not in layout.title


def test_modes_are_named_only_when_they_are_not_the_default():
    assert "atomic" not in lay_out([make_record()]).title
    assert "atomic" in lay_out([make_record(axes__accumulate="atomic")]).title


def test_columns_without_any_value_are_not_there():
    only_checked = make_record(
        timing=None, work__gbps_unique=None, work__sol_pct_measured=None, work__ns_per_token=None
    )
    assert headers(lay_out([only_checked]))[-2:] == ["correct", "NMSE"]


def test_minor_columns_give_way_first_and_are_named():
    full = lay_out([make_record()])
    natural = sum(full.widths) + len(full.widths) - 1
    assert lay_out([make_record()], natural).columns == full.columns
    narrow = lay_out([make_record()], natural - 1)
    assert set(headers(full)) - set(headers(narrow)) == {"alone µs"}
    assert narrow.notes == ("left out for want of width: alone µs",)
    tiny = lay_out([make_record()], 30)
    assert min(tiny.widths) >= 1
    assert "correct" in headers(tiny)
    assert "time µs" in headers(tiny)
    assert "launch µs" not in headers(tiny)


def test_a_very_long_name_is_cut_rather_than_the_numbers():
    records = [make_record(axes__tensor_name="x" * 200), make_record(axes__tensor_name="y")]
    layout = lay_out(records, 100)
    assert sum(layout.widths) + len(layout.widths) - 1 == 100
    assert layout.widths[headers(layout).index("time µs")] == len("time µs")


def test_reasons_are_told_once_with_the_number_of_their_cases():
    records = [
        make_record(Status.UNSUPPORTED, ids__case_id=f"case-{number}", correctness__reason="no\n kernel")
        for number in range(3)
    ]
    records.append(make_record(Status.OUT_OF_MEMORY, ids__case_id="big", correctness__reason="too large"))
    records.append(make_record(Status.BUILD_ERROR, ids__case_id="long", correctness__reason="word " * 500))
    notes = lay_out(records).notes
    assert notes[:2] == (
        "case-0 and 2 more: UNSUPPORTED, no kernel",
        "big: OUT_OF_MEMORY, too large (needs 1.50 GiB)",
    )
    assert len(notes[2]) < 400
