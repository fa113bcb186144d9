"""From files, presets and TOML to cases: axes, precedence, ids."""

from pathlib import Path

import pytest

from mmvq_cli.errors import InvalidProblem, NothingMatched, OpenError, Unsupported, UsageError
from mmvq_cli.model import load_presets
from mmvq_cli.op import FORMATS, Accumulate, Dtype, Preference, Rows
from mmvq_cli.op.ggml import GGML
from mmvq_cli.routing import RoutingSpec
from mmvq_cli.suite import (
    Axes,
    Suite,
    known_suites,
    load_suite,
    model_suite,
    parse_axes,
    parse_counts,
    parse_dtypes,
    parse_roles,
    preset_suite,
)
from tests.model.conftest import GgufFile, Tensor, moe_metadata

MODELS = Path(__file__).parents[1] / "data" / "models"
QWEN = MODELS / "qwen3moe-Q4_K_M.gguf"
ONE = Axes(tokens=(1,))


def ids(suite):
    return [case.id for case in suite.cases]


def write_model(path, tensors, **metadata):
    return GgufFile(metadata=moe_metadata(**metadata), tensors=tensors).write(path)


def write_suite(folder, text):
    path = folder / "mine.toml"
    path.write_text(text)
    return str(path)


@pytest.mark.parametrize(
    ("text", "counts"),
    [
        ("1", (1,)),
        ("1,2,4..64", (1, 2, 4, 8, 16, 32, 64)),
        ("1..6", (1, 2, 4)),
        ("3..24", (3, 6, 12, 24)),
        (" 8 , 8,1", (8, 1)),
        ("5..5", (5,)),
    ],
)
def test_counts_and_doubling_ranges(text, counts):
    assert parse_counts(text, "tokens") == counts


@pytest.mark.parametrize("text", ["", "0", "1,", "a", "-1", "1..", "..4", "1...4", "0..8", "1.5", "8..4"])
def test_bad_counts_name_the_option_and_the_part(text):
    with pytest.raises(UsageError, match="--tokens") as caught:
        parse_counts(text, "tokens")
    assert caught.value.hint


def test_lists_ignore_case_and_repetition():
    assert parse_dtypes("F16,f32,f16") == (Dtype.F16, Dtype.F32)
    assert parse_roles("down, gate_up") == ("down", "gate_up")
    for parse, text in ((parse_dtypes, "f64"), (parse_roles, "router"), (parse_roles, "")):
        with pytest.raises(UsageError, match="is not one of"):
            parse(text)


def test_a_file_gives_each_shape_and_format_once():
    assert ids(model_suite(QWEN, ONE)) == [
        "qwen3moe-Q4_K_M/blk.0.ffn_gate_exps/Q4_K-e8k2-256x256-t1-uniform-f16",
        "qwen3moe-Q4_K_M/blk.0.ffn_up_exps/Q4_K-e8k2-256x256-t1-uniform-f16",
        "qwen3moe-Q4_K_M/blk.0.ffn_down_exps/Q4_K-e8k2-256x256-t1-uniform-f16",
        "qwen3moe-Q4_K_M/blk.1.ffn_down_exps/Q6_K-e8k2-256x256-t1-uniform-f16",
    ]


@pytest.mark.parametrize(
    ("layers", "roles", "expected"),
    [
        ("all", ("gate", "up", "down", "gate_up"), 6),
        ("1", ("gate", "up", "down"), 3),
        ("0..1", ("down",), 2),
        ("0,0,1", ("up",), 2),
        ("7", ("up",), 0),
        ("distinct", ("gate_up",), 0),
    ],
)
def test_layers_and_roles_select(layers, roles, expected):
    suite = model_suite(QWEN, ONE.override(layers=layers, roles=roles))
    assert len(suite.cases) == expected
    assert all(case.source.role in roles for case in suite.cases)


@pytest.mark.parametrize("layers", ["first", "1,,2", "-1", "2..", ""])
def test_bad_layers(layers):
    with pytest.raises(UsageError, match="--layers"):
        parse_axes({"layers": layers}, "here")


def test_ids_are_unique_over_all_axes():
    axes = Axes(
        tokens=(1, 8),
        dtypes=tuple(Dtype),
        routings=(RoutingSpec("uniform"), RoutingSpec("zipf", 1.0), RoutingSpec("hot", 0.5, 2)),
        layers="all",
    )
    suites = [
        model_suite(QWEN, axes.override(**change))
        for change in (
            {},
            {"seed": 3},
            {"cache": "hot"},
            {"accumulate": Accumulate.ATOMIC},
            {"preference": Preference.REFERENCE},
            {"top_k": 5},
        )
    ]
    names = [name for suite in suites for name in ids(suite)]
    assert len(set(names)) == len(names) == 6 * 6 * 2 * 3 * 3


def test_gate_reads_tokens_and_down_sums_into_them():
    gate, _, down, _ = model_suite(QWEN, ONE.override(accumulate=Accumulate.ATOMIC)).cases
    assert (gate.activation_rows, gate.output_rows) == (Rows.TOKEN, Rows.DISPATCH)
    assert (down.activation_rows, down.output_rows) == (Rows.DISPATCH, Rows.TOKEN)
    assert gate.descriptor.accumulate is Accumulate.ORDERED  # there is no sum to be atomic about
    assert down.descriptor.accumulate is Accumulate.ATOMIC
    assert (down.descriptor.m_total, down.descriptor.top_k) == (2, 2)
    down.descriptor.validate()


def test_a_type_without_a_kernel_is_a_case_that_says_so():
    (case,) = model_suite(MODELS / "format-zoo.gguf", ONE).matching("/Q1_0").cases
    assert "Q1_0-" in case.id
    with pytest.raises(Unsupported, match="no dequantizer"):
        case.descriptor  # noqa: B018


def test_fused_legacy_and_outside_tensors(tmp_path):
    path = write_model(
        tmp_path / "toy.gguf",
        [
            Tensor("blk.0.ffn_gate_up_exps.weight", (32, 64, 2), int(GGML.Q8_0)),
            Tensor("blk.0.ffn_down_exps.weight", (32, 32, 2), int(GGML.Q8_0)),
            Tensor("blk.0.ffn_down_exps.bias", (32, 2)),
            *(Tensor(f"blk.1.ffn_up.{e}.weight", (32, 48), int(GGML.Q4_0)) for e in range(2)),
        ],
        n_layers=2,
    )
    suite = model_suite(path, ONE.override(layers="all"))
    found = {case.source.role: case.source for case in suite.cases}
    assert {(s.role, s.format_name, s.n_experts, s.rows, s.cols) for s in found.values()} == {
        ("gate_up", "Q8_0", 2, 64, 32),
        ("down", "Q8_0", 2, 32, 32),
        ("up", "Q4_0", 2, 48, 32),
    }
    assert found["down"].outside == ("blk.0.ffn_down_exps.bias",)
    assert found["gate_up"].outside == ()


def test_top_k_is_each_layers_own_unless_given(tmp_path):
    tensors = [Tensor(f"blk.{layer}.ffn_up_exps.weight", (32, 8, 4), int(GGML.Q8_0)) for layer in range(2)]
    path = write_model(tmp_path / "toy.gguf", tensors, n_layers=2, n_experts=4, top_k=[1, 3])
    suite = model_suite(path, ONE.override(layers="all"))
    assert [case.top_k for case in suite.cases] == [1, 3]
    assert {case.top_k for case in model_suite(path, ONE.override(layers="all", top_k=2)).cases} == {2}


def test_a_file_without_experts_matches_nothing(tmp_path):
    path = write_model(tmp_path / "dense.gguf", [Tensor("blk.0.ffn_up.weight", (32, 8))])
    with pytest.raises(NothingMatched, match="no expert tensors"):
        model_suite(path, ONE)
    with pytest.raises(OpenError):
        model_suite(tmp_path / "absent.gguf", ONE)


@pytest.mark.parametrize("name", sorted(load_presets()))
def test_every_preset_gives_valid_cases(name):
    suite = preset_suite(name, ONE)
    assert suite.cases
    for case in suite.cases:
        case.descriptor.validate()


def test_formats_replace_a_presets_own_once_each():
    suite = preset_suite("qwen3-30b-a3b", ONE.override(roles=("gate",)), ("q4_k", "Q4_K", " Q6_K"))
    assert [case.source.format_name for case in suite.cases] == ["Q4_K", "Q6_K"]
    assert preset_suite("qwen3-30b-a3b", ONE, ("Q9",)).cases[0].id.count("Q9-")
    with pytest.raises(UsageError):
        preset_suite("no-such-model", ONE)


@pytest.mark.parametrize(("preset", "left_out"), [("qwen3-30b-a3b", ()), ("gpt-oss-20b", ("Q4_K", "IQ1_S", "Q8_K"))])
def test_all_formats_are_those_that_have_such_rows(preset, left_out):
    suite = preset_suite(preset, ONE.override(roles=("gate",)), ("all", "Q8_0"))
    names = [case.source.format_name for case in suite.cases]
    assert len(set(names)) == len(names)
    assert set(names) == {f.name for f in FORMATS.values() if suite.cases[0].source.cols % f.block_size == 0}
    assert not set(left_out) & set(names)


def test_a_format_that_does_not_fit_the_shape_is_found_by_the_descriptor():
    case = preset_suite("gpt-oss-120b", ONE, ("Q4_K",)).cases[0]
    with pytest.raises(InvalidProblem, match="2880"):
        case.descriptor.validate()


def test_the_command_line_wins_over_the_file_and_the_file_over_defaults(tmp_path):
    path = write_suite(tmp_path, '[[case]]\npreset = "mixtral-8x7b"\nroles = "up"\ntokens = "2,4"\ndtypes = "f32"\n')
    assert {(c.n_tokens, c.dtype, c.seed) for c in load_suite(path, {}).cases} == {(2, "f32", 0), (4, "f32", 0)}
    given = parse_axes({"tokens": "7", "seed": 9}, "the command line")
    assert {(c.n_tokens, c.dtype, c.seed) for c in load_suite(path, given).cases} == {(7, "f32", 9)}


def test_entries_that_overlap_give_each_case_once(tmp_path):
    entry = '[[case]]\npreset = "mixtral-8x7b"\nroles = "up"\ntokens = "{}"\n'
    path = write_suite(tmp_path, entry.format("1..4") + entry.format("4..16"))
    assert [case.n_tokens for case in load_suite(path, {}).cases] == [1, 2, 4, 8, 16]


def test_toml_lists_are_lists(tmp_path):
    path = write_suite(
        tmp_path, '[[case]]\npreset = "mixtral-8x7b"\nroles = ["up"]\ntokens = [1, 2]\ndtypes = ["f16", "f32"]\n'
        'routings = ["uniform", "zipf:1.0"]\nformats = "Q4_0,Q8_0"\n',
    )  # fmt: skip
    assert len(load_suite(path, {}).cases) == 2 * 2 * 2 * 2


def test_models_of_a_suite_are_found_beside_it(tmp_path):
    (tmp_path / "toy.gguf").symlink_to(QWEN)
    path = write_suite(tmp_path, 'description = "mine"\n[[case]]\nmodel = "toy.gguf"\ntokens = 1\n')
    suite = load_suite(path, {})
    assert (suite.name, suite.description, len(suite.cases)) == ("mine", "mine", 4)
    assert suite.cases[0].id.startswith("toy/")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('[[case]]\npreset = "mixtral-8x7b"\ntoken = "1"\n', "unknown key 'token'"),
        ('[[cases]]\npreset = "mixtral-8x7b"\n', "unknown key 'cases'"),
        ("case = [1]\n", "a case that is no table"),
        ("[[case]]\ntokens = 1\n", "either model or preset"),
        ('[[case]]\nmodel = "a"\npreset = "b"\n', "either model or preset"),
        ('[[case]]\npreset = "mixtral-8x7b"\ncache = "warm"\n', "--cache 'warm'"),
        ('[[case]]\npreset = "mixtral-8x7b"\ntop_k = "two"\n', "--top-k 'two'"),
        ('[[case]]\npreset = "mixtral-8x7b"\nseed = -1\n', "--seed -1"),
        ('[[case]]\npreset = "mixtral-8x7b"\naccumulate = "fast"\n', "--accumulate 'fast'"),
        ('[[case]]\npreset = "mixtral-8x7b"\nroutings = "random"\n', "random"),
        ("[[case]\n", "is not TOML"),
    ],
)
def test_a_bad_suite_file_is_a_usage_error(tmp_path, text, words):
    with pytest.raises(UsageError) as caught:
        load_suite(write_suite(tmp_path, text), {})
    assert words in caught.value.message
    assert caught.value.hint


def test_an_unknown_suite_is_answered_with_the_known_ones():
    with pytest.raises(UsageError, match="no suite 'smok'") as caught:
        load_suite("smok", {})
    assert "smoke" in caught.value.hint


@pytest.mark.parametrize("name", known_suites())
def test_packaged_suites_are_valid(name):
    suite = load_suite(name, {})
    assert suite.description
    assert len(set(ids(suite))) == len(suite.cases) > 0
    for case in suite.cases:
        case.descriptor.validate()


def test_the_formats_suite_has_every_format():
    assert {case.source.format_name for case in load_suite("formats", {}).cases} == set(FORMATS)


def test_patterns_select_by_id():
    suite = model_suite(QWEN, ONE)
    assert len(suite.matching("down.*Q6_K").cases) == 1
    assert suite.matching(None) == suite
    with pytest.raises(NothingMatched, match="out of 4 matches -k 'nothing'"):
        suite.matching("nothing")
    with pytest.raises(UsageError, match="regular expression"):
        suite.matching("(")
    with pytest.raises(NothingMatched, match="no case is selected"):
        Suite("empty", "", ()).matching(None)
