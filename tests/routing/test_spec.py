import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmvq_cli.errors import UsageError
from mmvq_cli.routing import ROUTING_KINDS, RoutingSpec, parse_routing


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("uniform", RoutingSpec("uniform")),
        (" Balanced ", RoutingSpec("balanced")),
        ("zipf:1.0", RoutingSpec("zipf", 1.0)),
        ("zipf:1", RoutingSpec("zipf", 1.0)),
        ("lognormal:0.7", RoutingSpec("lognormal", 0.7)),
        ("hot:0.5", RoutingSpec("hot", 0.5)),
        ("hot:4:0.95", RoutingSpec("hot", 0.95, 4)),
    ],
)
def test_reads_every_kind_and_prints_what_it_reads(text, expected):
    assert parse_routing(text) == expected
    assert parse_routing(str(expected)) == expected


NONSENSE = """
zip:1 uniform:1 zipf zipf: zipf:x zipf:0 zipf:-1 zipf:nan zipf:inf zipf:1:2 lognormal:nan
hot hot:0 hot:1.5 hot:0:0.5 hot:2.5:0.5 hot:inf:0.5 hot:1:2:0.5
"""


@pytest.mark.parametrize("text", ["", *NONSENSE.split()])
def test_nonsense_is_a_usage_error_that_lists_what_exists(text):
    with pytest.raises(UsageError) as caught:
        parse_routing(text)
    assert repr(text) in caught.value.message
    assert all(kind in caught.value.hint for kind in ROUTING_KINDS)


@given(st.text(max_size=20) | st.from_regex(r"(hot|zipf|lognormal)(:[0-9.e-]{0,6}){0,3}", fullmatch=True))
def test_any_text_is_read_or_refused(text):
    try:
        spec = parse_routing(text)
    except UsageError:
        return
    assert spec.parameter is None or (math.isfinite(spec.parameter) and spec.parameter > 0)
    assert parse_routing(str(spec)) == spec
