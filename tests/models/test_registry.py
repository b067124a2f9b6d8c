from __future__ import annotations

import pytest

from rayscale.errors import ConfigError, NotFoundError
from rayscale.models import registry
from rayscale.models.registry import build, create_model, describe, model_names
from rayscale.models.spec import ModelSpec

# Computed from the papers' layer lists; the official README rounds them to the same figures.
PARAMETERS = {
    "bilinear": {"2": 0, "3": 0, "4": 0},
    "bicubic": {"2": 0, "3": 0, "4": 0},
    "aplus": {"2": 1_140_366, "3": 2_528_031, "4": 2_533_134},
    "edsr-baseline": {"2": 1_369_859, "3": 1_554_499, "4": 1_517_571},
    "edsr": {"2": 40_729_603, "3": 43_680_003, "4": 43_089_923},
    "mdsr-baseline": {"2": 3_227_203, "3": 3_227_203, "4": 3_227_203},
    "mdsr": {"2": 7_953_987, "3": 7_953_987, "4": 7_953_987},
}
HALO = {
    "bilinear": 4,
    "bicubic": 4,
    "aplus": 5,
    "edsr-baseline": 36,
    "edsr": 68,
    "mdsr-baseline": 44,
    "mdsr": 172,
}


def test_names():
    assert model_names() == list(PARAMETERS)


@pytest.mark.parametrize("name", PARAMETERS)
def test_describe(name, monkeypatch):
    made = []
    monkeypatch.setattr(
        registry, "create_model", lambda *a, **k: made.append(create_model(*a, **k)) or made[-1]
    )
    facts = describe(name)
    assert facts["name"] == name
    assert facts["scales"] == [2, 3, 4]
    assert facts["parameters"] == PARAMETERS[name]
    assert facts["halo"] == dict.fromkeys(("2", "3", "4"), HALO[name])
    assert facts["summary"]
    assert len(made) == 3
    assert all(p.is_meta for model in made for p in model.parameters())  # no memory is taken


def test_a_real_model_counts_as_described():
    model = create_model("edsr-baseline", scale=3)
    assert sum(p.numel() for p in model.parameters()) == PARAMETERS["edsr-baseline"]["3"]


def test_defaults_and_overrides():
    spec = create_model("mdsr", blocks=2, filters=4).spec
    assert spec == ModelSpec("mdsr", (2, 3, 4), filters=4, blocks=2)
    spec = create_model("edsr", scale=2, blocks=1, filters=4).spec
    assert spec.residual_scaling == 0.1
    mean = [0.1, 0.2, 0.3, 0.4]
    spec = create_model("edsr", scale=4, channels=4, blocks=1, filters=4, mean=mean).spec
    assert spec.mean == tuple(mean)
    assert create_model("mdsr", scale=3, blocks=1, filters=4).scales == (2, 3, 4)


def test_build_is_the_inverse_of_spec():
    spec = create_model("edsr-baseline", scale=2, blocks=1, filters=4, value_range=1.0).spec
    assert build(spec).spec == spec


def test_unknown_names_get_close_matches_first():
    with pytest.raises(NotFoundError, match=r"'edsr-base'; the models are edsr-baseline"):
        create_model("edsr-base", scale=2)
    with pytest.raises(NotFoundError, match="bicubic"):
        describe("nothing")


@pytest.mark.parametrize("name", PARAMETERS)
def test_scales_that_do_not_exist(name):
    with pytest.raises(ConfigError, match="no scale 8; its scales are 2, 3, 4"):
        create_model(name, scale=8)
    with pytest.raises(ConfigError, match="no scale 5"):
        build(ModelSpec(name, (5,), filters=4, blocks=1))


def test_usage():
    with pytest.raises(ConfigError, match="give one of 2, 3, 4"):
        create_model("edsr")
    with pytest.raises(ConfigError, match="mdsr takes no residual_scaling"):
        create_model("mdsr", residual_scaling=0.1)
    with pytest.raises(ConfigError, match="no residual scaling"):
        build(ModelSpec("mdsr", (2, 3, 4), residual_scaling=0.1))
    with pytest.raises(ConfigError, match="one scale"):
        build(ModelSpec("edsr", (2, 3)))
    with pytest.raises(ConfigError, match="at least 1 block"):
        build(ModelSpec("edsr", (2,), blocks=0))
