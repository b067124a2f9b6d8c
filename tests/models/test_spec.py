from __future__ import annotations

import json

import pytest

from rayscale.errors import ConfigError
from rayscale.models.spec import DIV2K_MEAN, ModelSpec


def test_json_round_trip():
    spec = ModelSpec("edsr", (4,), channels=4, filters=8, residual_scaling=0.1, mean=(0, 0.1, 1, 0))
    assert ModelSpec.from_json(spec.to_json()) == spec
    assert json.loads(spec.to_json())["scales"] == [4]


def test_the_mean_defaults_to_the_number_of_channels():
    assert ModelSpec("edsr", (2,)).mean == DIV2K_MEAN
    assert ModelSpec("edsr", (2,), channels=1).mean == (0.5,)
    assert ModelSpec("edsr", (2,), channels=13).mean == (0.5,) * 13


def test_unknown_keys_are_errors():
    text = json.dumps({"system": "edsr", "scales": [2], "dropout": 0.1})
    with pytest.raises(ConfigError, match="unknown keys dropout"):
        ModelSpec.from_json(text)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"system": "edsr"}', "{"])
def test_damaged_json(text):
    with pytest.raises(ConfigError, match="specification"):
        ModelSpec.from_json(text)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("system", ""),
        ("system", 3),
        ("scales", ()),
        ("scales", "23"),
        ("scales", (3, 2)),
        ("scales", (2, 2)),
        ("scales", (2.0,)),
        ("scales", (0,)),
        ("channels", 0),
        ("channels", True),
        ("channels", 2000),
        ("filters", -1),
        ("filters", 10**9),
        ("blocks", 10**9),
        ("residual_scaling", 0),
        ("residual_scaling", float("nan")),
        ("value_range", -1.0),
        ("value_range", "255"),
        ("mean", (0.5,)),
        ("mean", (0.5, 0.5, float("inf"))),
        ("mean", 0.5),
    ],
)
def test_values_out_of_their_limits(field, value):
    with pytest.raises(ConfigError, match=field):
        ModelSpec(**{"system": "edsr", "scales": (2,), field: value})
