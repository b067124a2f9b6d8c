"""JSON of numbers that are not finite: read by a parser that refuses what RFC 8259 does not know."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayscale import strictjson


def refuse(constant: str) -> None:
    raise AssertionError(f"{constant} is no JSON")


NUMBERS = st.sampled_from([math.inf, -math.inf, math.nan, 0.5, 3, None, "NaN", True])
LISTS = st.lists(NUMBERS, max_size=3)
FLAT = st.dictionaries(st.sampled_from("abc"), NUMBERS | LISTS | st.lists(LISTS, max_size=2))


@given(st.dictionaries(st.sampled_from("abc"), FLAT | st.lists(FLAT, max_size=2) | NUMBERS))
def test_whatever_is_written_is_json_and_is_read_back(value: dict[str, object]) -> None:
    text = strictjson.dumps(value)
    json.loads(text, parse_constant=refuse)
    assert repr(strictjson.loads(text)) == repr(value)  # nan is not equal to itself


def test_a_flag_says_what_null_stands_for() -> None:
    value = {"psnr": math.inf, "ssim": 1.0, "nodata": [math.nan, 0], "parts": [{"a": -math.inf}]}
    assert json.loads(strictjson.dumps(value)) == {
        "psnr": None, "psnr_is": "Infinity", "ssim": 1.0,
        "nodata": [None, 0], "nodata_is": ["NaN", None],
        "parts": [{"a": None, "a_is": "-Infinity"}],
    }  # fmt: skip
    assert strictjson.loads('{"what_is": "it", "a": 1, "a_is": "NaN"}') == {"what_is": "it", "a": 1}
    assert strictjson.dumps(math.nan) == "null"
    with pytest.raises(TypeError):
        strictjson.dumps({"a": {1, 2}})
