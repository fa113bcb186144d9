"""The problem: its defaults, and the contract's errors in the contract's order."""

from dataclasses import FrozenInstanceError, replace

import pytest

from mmvq_cli.errors import InvalidProblem, Unsupported
from mmvq_cli.op import FORMATS, Accumulate, Descriptor, Dtype, Format, OutputMode, Rows
from mmvq_cli.op.ggml import GGML
from tests.op.problems import make_descriptor

Q8_1 = Format(GGML.Q8_1, "legacy")

# One way to break each rule, in the contract's order: (changes, class, words of the message).
RULES = [
    ({"n_experts": 0}, InvalidProblem, ("n_experts is 0", "positive")),
    ({"n_rows_per_expert": -1}, InvalidProblem, ("n_rows_per_expert is -1", "not be negative")),
    ({"n_cols": -32}, InvalidProblem, ("n_cols is -32", "not be negative")),
    ({"m_total": 2**31}, InvalidProblem, ("m_total is 2147483648", "2^31 - 1")),
    ({"m_tokens": -5}, InvalidProblem, ("m_tokens is -5", "not be negative")),
    ({"top_k": 0}, InvalidProblem, ("top_k is 0", "positive")),
    ({"format": Q8_1}, Unsupported, ("Q8_1 has no kernel",)),
    ({"dtype": "f64"}, Unsupported, ("f64 has no kernel",)),
    ({"n_cols": 65}, InvalidProblem, ("n_cols is 65", "Q8_0", "32")),
]


@pytest.mark.parametrize(("changes", "kind", "words"), RULES)
def test_a_broken_rule_names_value_rule_and_way_out(changes, kind, words):
    with pytest.raises(kind) as caught:
        make_descriptor(**changes).validate()
    assert type(caught.value) is kind
    assert all(word in caught.value.message for word in words)
    assert caught.value.hint


@pytest.mark.parametrize("first", range(len(RULES)))
def test_of_many_broken_rules_the_first_is_reported(first):
    broken = {}
    for changes, _, _ in reversed(RULES[first:]):
        broken |= changes
    _, kind, words = RULES[first]
    with pytest.raises(kind) as caught:
        make_descriptor(**broken).validate()
    assert words[0] in caught.value.message


def test_sizes_default_to_zero_and_the_rest_to_the_contracts_choices():
    d = Descriptor()
    assert (d.n_experts, d.n_rows_per_expert, d.n_cols, d.m_total, d.m_tokens, d.top_k) == (0, 0, 0, 0, 0, 1)
    assert (d.format.name, d.dtype, d.activation_rows, d.output_rows) == ("Q8_0", Dtype.F32, Rows.TOKEN, Rows.TOKEN)
    assert (d.output_mode, d.accumulate) == (OutputMode.OVERWRITE, Accumulate.ORDERED)


def test_it_is_frozen_hashable_and_printable():
    d = make_descriptor()
    assert hash(d) == hash(make_descriptor())
    assert "n_cols=64" in repr(d)
    with pytest.raises(FrozenInstanceError):
        d.n_cols = 32


def test_written_names_are_members():
    written = make_descriptor(
        format="q4_k", dtype="bf16", activation_rows="dispatch", output_rows="token", output_mode="add"
    )
    assert written.format is FORMATS["Q4_K"]
    assert written.dtype is Dtype.BF16
    assert written.activation_rows is Rows.DISPATCH
    assert written.activation_row_count == written.m_total
    assert written.output_row_count == written.m_tokens
    assert written.adds


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({"activation_rows": "row"}, InvalidProblem),
        ({"output_rows": "tokens"}, InvalidProblem),
        ({"output_mode": "subtract"}, InvalidProblem),
        ({"accumulate": "fast"}, InvalidProblem),
        ({"format": "Q9_9"}, Unsupported),
    ],
)
def test_an_unknown_mode_is_an_error_that_lists_the_known_ones(changes, kind):
    with pytest.raises(kind) as caught:
        make_descriptor(**changes).validate()
    assert next(iter(changes.values())) in caught.value.message
    assert caught.value.hint


@pytest.mark.parametrize("n_cols", [32, 96, 160, 2880])
def test_every_multiple_of_the_block_is_right(n_cols):
    make_descriptor(n_cols=n_cols).validate()


@pytest.mark.parametrize(
    ("changes", "adds", "combines"),
    [
        ({}, False, True),
        ({"top_k": 1}, False, False),
        ({"output_rows": Rows.DISPATCH}, False, False),
        ({"accumulate": Accumulate.ATOMIC}, True, False),
        ({"output_mode": OutputMode.ADD}, True, True),
    ],
)
def test_what_adds_and_what_combines(changes, adds, combines):
    d = make_descriptor(**changes)
    assert (d.adds, d.combines) == (adds, combines)


@pytest.mark.parametrize("size", ["m_total", "m_tokens", "n_rows_per_expert", "n_cols"])
def test_a_zero_size_is_valid_and_empty(size):
    d = make_descriptor(**{size: 0})
    d.validate()
    assert d.is_empty
    assert not make_descriptor().is_empty


def test_bytes_are_those_of_whole_blocks_in_64_bits():
    d = make_descriptor(n_experts=257, n_rows_per_expert=7168, n_cols=18432, format=FORMATS["Q4_K"])
    assert d.weight_bytes == 257 * 7168 * (18432 // 256) * 144 > 2**32
    assert replace(d, n_experts=1).weight_bytes == d.expert_bytes
    assert d.with_dispatches(3).m_total == 3
