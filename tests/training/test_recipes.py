"""The published recipes are the defaults of each system; a file and overrides go before them."""

from __future__ import annotations

from pathlib import Path

import pytest

from rayscale.errors import ConfigError
from rayscale.models.systems import systems
from rayscale.training.config import TrainConfig, load_config

TRAINED = [name for name, system in systems().items() if system.recipes]


@pytest.mark.parametrize("system", TRAINED)
@pytest.mark.parametrize("recipe", ["paper", "short"])
def test_every_recipe_is_a_configuration(system: str, recipe: str) -> None:
    config = load_config(None, [f"model.name={system}", f"recipe={recipe}"])
    assert config.recipe == recipe
    assert config.model.name == system
    assert TrainConfig.parse(config.model_dump(mode="json")) == config
    if recipe == "short":
        assert config.optimizer.steps <= 28_000


def test_every_network_has_both_recipes() -> None:
    untrained = {"nearest", "bilinear", "bicubic", "aplus"}  # by no gradient
    assert set(systems()) - set(TRAINED) == untrained
    assert all(set(systems()[name].recipes) == {"paper", "short"} for name in TRAINED)
    adversarial = {name for name, system in systems().items() if system.is_adversarial}
    assert adversarial == {"srgan", "meta-srgan"}


def test_edsr_is_the_default_of_the_sections() -> None:
    paper = load_config(None, ["model.name=edsr-baseline"])
    assert paper == TrainConfig()


def test_published_values() -> None:
    """Lim et al. 2017; Kim et al. 2016, section 4.2; Dong et al. 2014, section 4.1; Ledig et al. 2017, section 3.2."""
    mdsr = load_config(None, ["model.name=mdsr"])
    assert (mdsr.model.drawn, mdsr.data.patch, mdsr.optimizer.steps) == ((2, 3, 4), 48, 650_000)
    vdsr = load_config(None, ["model.name=vdsr"]).optimizer
    assert (vdsr.algorithm, vdsr.momentum, vdsr.weight_decay) == ("sgd", 0.9, 1e-4)
    assert (vdsr.lr, vdsr.decay, vdsr.clip) == (0.1, 0.1, "adjustable")
    assert vdsr.steps == 4 * vdsr.decay_every  # 80 epochs, a fall every 20
    srcnn = load_config(None, ["model.name=srcnn"]).optimizer
    assert srcnn.lr == 1e-4
    assert srcnn.lr * srcnn.last_layer_lr == pytest.approx(1e-5)
    srgan = load_config(None, ["model.name=srgan"])
    assert srgan.data.patch * srgan.model.drawn[0] == 96
    assert (srgan.adversarial.weight, srgan.adversarial.content) == (1e-3, "vgg54")
    assert (srgan.optimizer.steps, srgan.optimizer.decay_every) == (200_000, 100_000)
    meta = load_config(None, ["model.name=meta-edsr"])
    assert len(meta.model.drawn) == 30
    assert (meta.model.drawn[0], meta.model.drawn[9], meta.model.drawn[-1]) == (1.1, 2, 4)
    assert (meta.data.patch, meta.optimizer.lr) == (50, 1e-4)


def test_a_file_goes_before_the_recipe_and_overrides_before_both(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("recipe: short\nmodel: {name: mdsr-baseline}\ndata: {patch: 32}\n")
    config = load_config(file, ["data.batch=2"])
    assert (config.data.patch, config.data.batch) == (32, 2)
    assert (config.optimizer.ema, config.model.scales) == (0.999, (2, 3, 4))
    assert load_config(file, ["recipe=paper"]).optimizer.ema == 0


def test_the_system_of_a_job_gives_way_to_a_named_one() -> None:
    assert load_config(None, [], "vdsr").optimizer.clip == "adjustable"
    assert load_config(None, ["model.name=edsr"], "vdsr").model.name == "edsr"


def test_an_unknown_recipe_is_an_error() -> None:
    with pytest.raises(ConfigError, match=r"recipe.*'long'.*paper, short"):
        load_config(None, ["recipe=long"])
    with pytest.raises(ConfigError, match="recipe"):
        load_config(None, ["model.name=bicubic", "recipe=long"])


def test_a_scale_and_scales_exclude_each_other() -> None:
    with pytest.raises(ConfigError, match="scales for a network of several, such as mdsr"):
        load_config(None, ["model.name=mdsr", "model.scale=2"])
    assert load_config(None, ["model.name=mdsr", "model.scales=[2, 3]"]).model.drawn == (2, 3)
    with pytest.raises(ConfigError, match="above 1"):
        load_config(None, ["model.name=meta-edsr", "model.scales=[1.0, 2]"])


def test_the_digest_is_of_what_a_recipe_says_not_of_its_name() -> None:
    short = load_config(None, ["recipe=short"])
    values = short.model_dump(mode="json") | {"recipe": "paper"}
    assert TrainConfig.parse(values).digest == short.digest
    assert short.digest != TrainConfig().digest


def test_the_digest_covers_what_only_some_runs_use() -> None:
    def digest(*overrides: str) -> str:
        return load_config(None, overrides).digest

    assert digest("adversarial.vgg=a.pth") == digest()
    gan = "model.name=srgan"
    assert digest(gan, "adversarial.vgg=a.pth") != digest(gan)
    off = "adversarial.weight=0"
    assert digest(gan, off, "adversarial.vgg=a.pth") == digest(gan, off) != digest(gan)
    assert digest("checkpoint.every=7") == digest()
    on = "guard.spike=5"
    assert digest(on, "checkpoint.every=7") != digest(on) != digest()


def test_runs_of_several_scales_are_named_after_their_system() -> None:
    config = load_config(None, ["model.name=mdsr", "data.uri=s3://b/d"]).resolved()
    assert config.run.name == f"mdsr-{config.digest[:8]}"
    uri = load_config(None, ["data.uri=s3://b/d", "validation.uri=s3://b/Set5/x{scale}"]).resolved()
    assert uri.validation.uri == "s3://b/Set5/x{scale}"


def test_a_recipe_chooses_the_precision_too() -> None:
    """Bfloat16 has too few bits for SRCNN, which computes the image itself."""
    assert load_config(None, ["model.name=srcnn", "recipe=short"]).precision == "float32"
    chosen = load_config(None, ["model.name=srcnn", "recipe=short", "precision=bfloat16"])
    assert chosen.precision == "bfloat16"
