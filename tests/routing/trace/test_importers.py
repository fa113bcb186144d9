"""Every importer on a small recording of its kind, with the traps of each source."""

import base64
import contextlib
import json

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mmvq_cli.errors import MmvqError, ModelError, OpenError, Unsupported, UsageError
from mmvq_cli.routing.trace import ImportOptions, detect, import_trace
from scripts.fuzz_traces import (
    imatrix_bytes,
    npy_bytes,
    npz_bytes,
    read_sample,
    routing_ids,
    samples,
    source_of,
    torch_bytes,
)

SAMPLES = samples()
IDS = routing_ids()
COUNTS = np.stack([np.bincount(IDS[:, layer].ravel(), minlength=8) for layer in range(3)])


def save(folder, name, data):
    path = folder / name
    path.write_bytes(data if isinstance(data, bytes) else json.dumps(data).encode())
    return path


@pytest.mark.parametrize("name", SAMPLES)
def test_a_recording_is_read_exactly(name, tmp_path):
    file, data, options = SAMPLES[name]
    trace = read_sample(name, save(tmp_path, file, data), options)
    assert (trace.n_experts, trace.n_layers) == (8, 3)
    if name == "hf-logits":
        return
    if trace.kind == "counts":
        assert np.array_equal(trace.expert_counts[0], COUNTS)
        assert trace.provenance == "counts-derived"
    else:
        assert np.array_equal(trace.ids, IDS.transpose(1, 0, 2))
        assert trace.provenance == "measured"


@pytest.mark.parametrize("name", [n for n in SAMPLES if n not in ("neutral", "trtllm", "vllm-npy", "eplb-npy")])
def test_the_source_is_detected(name, tmp_path):
    file, data, _ = SAMPLES[name]
    assert detect(save(tmp_path, file, data)) == source_of(name)


@pytest.mark.parametrize("name", SAMPLES)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(end=st.floats(0, 0.999))
def test_a_truncated_recording_is_an_error_in_words(name, tmp_path, end):
    file, data, options = SAMPLES[name]
    path = save(tmp_path, file, data[: int(end * len(data))])
    if source_of(name) == "table":  # whole lines are still a table
        with contextlib.suppress(MmvqError):
            read_sample(name, path, options)
        return
    with pytest.raises(MmvqError) as caught:
        read_sample(name, path, options)
    assert caught.value.hint


def test_warm_up_rows_are_dropped_and_counted(tmp_path):
    warm = np.concatenate([np.tile(IDS[:1], (200, 1, 1)), IDS])
    path = save(tmp_path, "x.npz", npz_bytes(topk_ids=warm, request_offsets=np.array([0, 200, 240])))
    trace = import_trace(path)
    assert (trace.n_tokens, trace.n_requests) == (40 - 1, 1)  # the first real row repeats the dummy
    assert trace.metadata["dropped_warmup_tokens"] == "201"
    assert import_trace(path, options=ImportOptions(keep_warmup=True)).n_tokens == 240


def test_dense_layers_of_zeros_are_dropped_and_layers_keep_their_numbers(tmp_path):
    ids = np.concatenate([np.zeros((40, 2, 2), int), IDS], axis=1)
    trace = import_trace(save(tmp_path, "x.npz", npz_bytes(topk_ids=ids)))
    assert trace.layer_index.tolist() == [2, 3, 4]
    assert trace.metadata["dropped_dense_layers"] == "2"


def test_a_top_1_layer_of_zeros_must_be_named(tmp_path):
    ids = IDS[:, :, :1].copy()
    ids[:, 0] = 0
    path = save(tmp_path, "x.npz", npz_bytes(topk_ids=ids))
    with pytest.raises(UsageError, match="layer 0 goes to expert 0 only"):
        import_trace(path)
    assert import_trace(path, options=ImportOptions(moe_layers=(1, 2))).n_layers == 2


def test_repeated_experts_and_ids_out_of_range_name_their_place(tmp_path):
    ids = np.concatenate([IDS, IDS[:, :, :1]], axis=2)
    with pytest.raises(ModelError, match=r"topk_ids\[0, 0\]|topk_ids\[0\]\[0\].*twice"):
        import_trace(save(tmp_path, "x.npz", npz_bytes(topk_ids=ids)))
    with pytest.raises(ModelError, match=r"topk_ids\[\d\]\[\d+, \d\] is 7, ids are 0..5"):
        import_trace(save(tmp_path, "x.npz", npz_bytes(topk_ids=IDS)), options=ImportOptions(n_experts=6))


def test_vllm_prefix_cached_positions_and_the_prompt_of_its_second_generation(tmp_path):
    prompt = IDS[:5].copy()
    prompt[:2] = -1
    response = {"prompt_routed_experts": prompt.tolist(), "choices": [{"routed_experts": IDS[5:].tolist()}]}
    trace = import_trace(save(tmp_path, "r.json", response))
    assert trace.n_tokens == 38
    assert trace.metadata["dropped_unrouted_tokens"] == "2"
    assert trace.phase.tolist() == [0] * 3 + [1] * 35


def test_vllm_requests_are_kept_apart_and_more_rows_than_tokens_are_refused(tmp_path):
    def response(ids, total):
        encoded = base64.b64encode(npy_bytes(ids.astype(np.uint8))).decode()
        return {"choices": [{"routed_experts": encoded}], "usage": {"prompt_tokens": 4, "total_tokens": total}}

    lines = "\n".join(json.dumps(response(part, len(part) + 1)) for part in (IDS[:10], IDS[10:]))
    trace = import_trace(save(tmp_path, "r.jsonl", lines.encode()))
    assert trace.request_offsets.tolist() == [0, 10, 40]
    with pytest.raises(ModelError, match="40 rows for 39 tokens"):
        import_trace(save(tmp_path, "r.json", response(IDS, 39)))


def test_sglang_responses_need_their_sizes(tmp_path):
    file, data, _ = SAMPLES["sglang-request"]
    path = save(tmp_path, file, data)
    with pytest.raises(UsageError, match="top-k"):
        import_trace(path)
    with pytest.raises(ModelError, match="bytes are not"):
        import_trace(path, options=ImportOptions(top_k=7))


def test_sglang_physical_ids_become_logical_and_replicas_are_summed(tmp_path):
    table = np.array([[0, 1, 2, 0]], np.int32)
    padded = np.full((1, 3, 8), -1, np.int32)
    padded[0, :, :2] = [[3, 1], [2, 3], [0, 2]]
    dump = {
        "records": [{"forward_pass_id": 4, "rank": 0, "topk_ids_of_layer": padded}],
        "last_physical_to_logical_map": table,
    }
    trace = import_trace(save(tmp_path, "r.pt", torch_bytes(dump)))
    assert trace.ids[0].tolist() == [[0, 1], [2, 0], [0, 2]]
    assert trace.batching == "recorded"
    counts = {"forward_pass_id": 4, "rank": 0, "global_physical_count": np.array([[5, 1, 2, 7]], np.int32)}
    dump = {"records": [counts, {**counts, "rank": 1}], "last_physical_to_logical_map": table}
    assert import_trace(save(tmp_path, "r.pt", torch_bytes(dump))).expert_counts.tolist() == [[[24, 2, 4]]]


def test_sglang_unused_rows_of_the_circular_buffer_are_dropped(tmp_path):
    counts = np.zeros((4, 3, 8), np.int32)
    counts[1] = COUNTS
    trace = import_trace(save(tmp_path, "r.pt", torch_bytes({"logical_count": counts})))
    assert trace.metadata["dropped_empty_steps"] == "3"


def test_imatrix_gives_top_k_and_refuses_what_does_not_add_up(tmp_path):
    trace = import_trace(save(tmp_path, "i.gguf", imatrix_bytes(COUNTS, 40)))
    assert trace.top_k == 2
    with pytest.raises(ModelError, match="x the tokens"):
        import_trace(save(tmp_path, "i.gguf", imatrix_bytes(COUNTS, 33)))
    with pytest.raises(Unsupported, match="no count per expert"):
        import_trace(save(tmp_path, "i.dat", b"\0" * 64))


def test_float32_counts_beyond_2_to_24_are_noted(tmp_path):
    trace = import_trace(save(tmp_path, "w.npy", npy_bytes(np.full((2, 4), 2.0**25, np.float32))), "eplb")
    assert "float32" in trace.metadata["counts_inexact"]


def test_logits_give_their_top_k_without_padding_and_sigmoid_routers_are_refused(tmp_path):
    logits = np.array([[[1.0, 3.0, 2.0, 0.0], [9, 8, 7, 6], [0, 1, 2, 3]]], np.float32)
    path = save(tmp_path, "l.npz", npz_bytes(router_logits=logits, attention_mask=np.array([1, 0, 1])))
    trace = import_trace(path, options=ImportOptions(top_k=2))
    assert trace.ids[0].tolist() == [[1, 2], [3, 2]]
    with pytest.raises(UsageError, match="not what its router selects"):
        import_trace(path, options=ImportOptions(top_k=2, model_id="deepseek-v3"))
    extra = {"e_score_correction_bias": np.array([[0, -9, 0, 0.0]]), "n_group": np.array(2), "topk_group": np.array(1)}
    path = save(tmp_path, "l.npz", npz_bytes(router_logits=logits, **extra))
    # the bias closes the first group of token 0
    assert import_trace(path, options=ImportOptions(top_k=2)).ids[0].tolist() == [[2, 3], [2, 3], [3, 2]]


def test_tables_with_own_columns_interleaved_requests_and_weights(tmp_path):
    lines = ["L,R,E,W", *(f'{layer},{r},"[{r},{7 - r}]",0.75 0.25' for layer in (4, 9) for r in (1, 2, 1))]
    path = save(tmp_path, "t.csv", "\n".join(lines).encode())
    columns = {"layer": "L", "request": "R", "experts": "E", "weights": "W"}
    trace = import_trace(path, "table", ImportOptions(columns=columns))
    assert trace.layer_index.tolist() == [4, 9]
    assert trace.ids[0].tolist() == [[1, 6], [1, 6], [2, 5]]
    assert trace.request_offsets.tolist() == [0, 2, 3]
    assert trace.metadata["slot_order"] == "rank"
    with pytest.raises(UsageError, match="no field 'colour'"):
        import_trace(path, "table", ImportOptions(columns={"colour": "L"}))


def test_histograms_and_fingerprints(tmp_path):
    trace = import_trace(save(tmp_path, "h.csv", b"# histogram\nlayer,expert,count\n0,0,5\n0,3,2\n"))
    assert trace.expert_counts.tolist() == [[[5, 0, 0, 2]]]
    token = {"layer_0": {"selected_experts": [2, 0], "selected_probs": [0.7, 0.3]}}
    path = save(tmp_path, "f.json", {"router_data": [{"token_0": token}, {"token_1": token}]})
    assert import_trace(path).ids.tolist() == [[[2, 0], [2, 0]]]


def test_forward_passes_by_layer(tmp_path):
    """One object a pass: the prompt's tokens, then one token at a time; dense layers are null."""
    passes = [{"0": None, "3": [[1, 6], [2, 5]], "1": [[0, 7], [3, 4]]}, {"0": None, "1": [[2, 6]], "3": [[4, 1]]}]
    path = save(tmp_path, "f.json", passes)
    assert detect(path) == "table"
    trace = import_trace(path)
    assert trace.layer_index.tolist() == [1, 3]
    assert trace.ids.tolist() == [[[0, 7], [3, 4], [2, 6]], [[1, 6], [2, 5], [4, 1]]]
    assert trace.phase.tolist() == [0, 0, 1]
    with pytest.raises(ModelError, match="layer 3"):
        import_trace(save(tmp_path, "f.json", [*passes, {"1": [[2, 6]]}]))


@pytest.mark.parametrize("name", ["rows.csv", "rows.jsonl"])
def test_progress_counts_bytes(tmp_path, name):
    seen = []
    row = {"rows.csv": "0,1 6", "rows.jsonl": '{"layer": 0, "experts": [1, 6]}'}[name]
    text = "layer,experts\n" * (name == "rows.csv") + f"{row}\n" * 300_000
    path = save(tmp_path, name, text.encode())
    import_trace(path, "table", ImportOptions(keep_warmup=True, progress=lambda *step: seen.append(step)))
    reading = [(done, total) for what, done, total in seen if what == "reading"]
    assert {total for _, total in reading} == {len(text)}
    assert [done for done, _ in reading] == sorted(done for done, _ in reading)
    assert reading[-1][0] == len(text)
    assert len(reading) <= 2 + len(text) / 2**20
    assert dict.fromkeys(what for what, _, _ in seen) == dict.fromkeys(["reading", "sorting by layer", "sha256"])


def test_a_missing_file_and_an_unknown_source(tmp_path):
    with pytest.raises(OpenError):
        import_trace(tmp_path / "none.npz")
    with pytest.raises(UsageError, match="not a source"):
        import_trace(save(tmp_path, "x.npz", b""), "bogus")
    with pytest.raises(UsageError, match="cannot tell"):
        detect(save(tmp_path, "x.bin", b"hello"))
