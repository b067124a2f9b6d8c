from __future__ import annotations

import pytest
import torch

from rayscale.errors import ConfigError, NotFoundError
from rayscale.models.facts import describe
from rayscale.models.spec import ModelSpec
from rayscale.models.systems import build, create_model, model_names

# Computed from the papers' layer lists; the official README rounds them to the same figures.
PARAMETERS = {
    "nearest": {"2": 0, "3": 0, "4": 0},
    "bilinear": {"2": 0, "3": 0, "4": 0},
    "bicubic": {"2": 0, "3": 0, "4": 0},
    "aplus": {"2": 1_140_366, "3": 2_528_031, "4": 2_533_134},
    "srcnn": {"2": 8_129, "3": 8_129, "4": 8_129},
    "srcnn-955": {"2": 57_281, "3": 57_281, "4": 57_281},
    "vdsr": {"2": 665_921, "3": 665_921, "4": 665_921},
    "srresnet": {"2": 1_401_749, "3": 1_586_389, "4": 1_549_462},
    "srgan": {"2": 1_401_749, "3": 1_586_389, "4": 1_549_462},
    "edsr-baseline": {"2": 1_369_859, "3": 1_554_499, "4": 1_517_571},
    "edsr": {"2": 40_729_603, "3": 43_680_003, "4": 43_089_923},
    "mdsr-baseline": {"2": 3_227_203, "3": 3_227_203, "4": 3_227_203},
    "mdsr": {"2": 7_953_987, "3": 7_953_987, "4": 7_953_987},
    "meta-edsr": {"2": 1_665_536, "3": 1_665_536, "4": 1_665_536},
    "meta-srgan": {"2": 561_926, "3": 561_926, "4": 561_926},
}
# LR pixels at x2, x3, x4. Networks behind a bicubic enlargement reach less of LR at larger scales.
HALO = {
    "nearest": (4, 4, 4),
    "bilinear": (4, 4, 4),
    "bicubic": (4, 4, 4),
    "aplus": (5, 5, 5),
    "srcnn": (5, 4, 4),
    "srcnn-955": (6, 5, 4),
    "vdsr": (12, 9, 7),
    "srresnet": (40, 40, 40),
    "srgan": (40, 40, 40),
    "edsr-baseline": (36, 36, 36),
    "edsr": (68, 68, 68),
    "mdsr-baseline": (44, 44, 44),
    "mdsr": (172, 172, 172),
    "meta-edsr": (35, 35, 35),
    "meta-srgan": (16, 16, 16),
}
ONE_CHANNEL = ("aplus", "srcnn", "srcnn-955", "vdsr", "meta-srgan")
ANY_SCALE = {
    **dict.fromkeys(("nearest", "bilinear", "bicubic"), (1.0, 16.0)),
    **dict.fromkeys(("srcnn", "srcnn-955", "vdsr", "meta-edsr", "meta-srgan"), (1.0, 4.0)),
}


def test_names():
    assert model_names() == list(PARAMETERS)


@pytest.mark.parametrize("name", PARAMETERS)
def test_describe(name, monkeypatch):
    made = []
    monkeypatch.setattr(
        "rayscale.models.facts.create_model",
        lambda *a, **k: made.append(create_model(*a, **k)) or made[-1],
    )
    facts = describe(name)
    assert facts["name"] == name
    assert facts["scales"] == [2, 3, 4]
    assert facts["parameters"] == PARAMETERS[name]
    assert facts["halo"] == dict(zip(("2", "3", "4"), HALO[name], strict=True))
    assert facts["channels"] == (1 if name in ONE_CHANNEL else 3)
    served = facts["scale_range"]
    assert (None if served is None else tuple(served)) == ANY_SCALE.get(name)
    assert facts["summary"]
    assert len(made) == 3
    assert all(p.is_meta for model in made for p in model.parameters())  # no memory is taken


def test_a_real_model_counts_as_described():
    model = create_model("edsr-baseline", scale=3)
    assert sum(p.numel() for p in model.parameters()) == PARAMETERS["edsr-baseline"]["3"]


@pytest.mark.parametrize(
    ("name", "channels", "count"), [("meta-srgan", 3, 868_358), ("meta-edsr", 1, 1_368_320)]
)
def test_other_channels_count(name, channels, count):
    with torch.device("meta"):
        model = create_model(name, channels=channels)
    assert sum(p.numel() for p in model.parameters()) == count
    predictor = sum(p.numel() for p in model.upscale.parameters())
    assert predictor == {1: 149_056, 3: 445_120}[channels]


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
    with pytest.raises(ConfigError, match=r"scales? (are )?2, 3, 4|no scale 17"):
        create_model(name, scale=17)
    with pytest.raises(ConfigError, match="no scale 5"):
        build(ModelSpec(name, (5,), filters=4, blocks=1))


@pytest.mark.parametrize("name", ["bicubic", "vdsr", "meta-edsr", "meta-srgan"])
def test_a_network_for_all_scales_is_made_for_any_of_them(name):
    assert create_model(name, scale=2.5).scales == (2, 3, 4)


def test_a_network_for_one_scale_is_made_for_a_whole_one():
    with pytest.raises(ConfigError, match=r"srcnn has no scale 2\.5"):
        create_model("srcnn", scale=2.5)
    model = create_model("srcnn", scale=3)
    assert model.scales == (3,)
    assert model(torch.rand(1, 1, 4, 4)).shape[-1] == 12
    assert model(torch.rand(1, 1, 4, 4), 2.5).shape[-1] == 10


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
