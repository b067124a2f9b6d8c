"""The configuration: the paper's recipe by default, typed, and strict about keys."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from rayscale.errors import ConfigError, NotFoundError
from rayscale.training.aplus import APlusConfig
from rayscale.training.config import RunConfig, TrainConfig, load_config


def test_defaults_are_the_recipe_of_the_paper() -> None:
    config = TrainConfig()
    assert (config.model.name, config.model.scale) == ("edsr-baseline", 2)
    assert (config.data.patch, config.data.batch) == (48, 16)
    optimizer = config.optimizer
    assert (optimizer.lr, optimizer.betas, optimizer.eps) == (1e-4, (0.9, 0.999), 1e-8)
    assert (optimizer.decay_every, optimizer.steps, optimizer.loss) == (200_000, 300_000, "l1")
    assert (optimizer.schedule, optimizer.ema) == ("step", 0)


def test_a_password_is_no_setting() -> None:
    with pytest.raises(ConfigError, match="MLFLOW_TRACKING_PASSWORD") as caught:
        TrainConfig.parse({"logging": {"tracking_uri": "http://ann:hunter2@host/x"}})
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("optimizer.learning_rate=1", "unknown key 'optimizer.learning_rate'"),
        ("optimizer.decay_evry=1", "did you mean optimizer.decay_every"),
        ("lr=1e-3", "did you mean optimizer.lr"),
        ("optimiser.lr=1e-3", "did you mean optimizer"),
    ],
)
def test_an_unknown_key_is_named_with_close_ones(override: str, named: str) -> None:
    with pytest.raises(ConfigError, match="unknown key") as error:
        load_config(None, [override])
    assert named in str(error.value)


@pytest.mark.parametrize(
    "override", ["optimizer.lr=-1", "optimizer.schedule=linear", "model.scale=two", "lr", "=1"]
)
def test_a_wrong_value_names_its_key(override: str) -> None:
    with pytest.raises(ConfigError) as error:
        load_config(None, [override])
    assert override.partition("=")[0] in str(error.value)


def test_files_of_three_kinds_and_overrides_in_order(tmp_path: Path) -> None:
    values = {"optimizer": {"lr": 3e-4}, "model": {"scale": 4}}
    (tmp_path / "a.yaml").write_text(yaml.safe_dump(values))
    (tmp_path / "a.json").write_text(json.dumps(values))
    (tmp_path / "a.toml").write_text("[optimizer]\nlr = 3e-4\n[model]\nscale = 4\n")
    configs = [load_config(tmp_path / f"a.{kind}") for kind in ("yaml", "json", "toml")]
    assert configs[0] == configs[1] == configs[2]
    assert configs[0].optimizer.lr == 3e-4
    changed = load_config(
        tmp_path / "a.yaml", ["optimizer.lr=1e-3", "optimizer.lr=2e-3", "workers.gpu=false"]
    )
    assert (changed.optimizer.lr, changed.model.scale, changed.workers.gpu) == (2e-3, 4, False)


def test_what_is_written_reads_back_equal(tmp_path: Path) -> None:
    config = load_config(None, ["optimizer.betas=[0.8, 0.99]", "workers.gpu=auto", "run.name=a"])
    (tmp_path / "c.yaml").write_text(config.to_yaml())
    assert load_config(tmp_path / "c.yaml") == config


def test_damaged_and_missing_files(tmp_path: Path) -> None:
    (tmp_path / "list.yaml").write_text("- 1\n")
    (tmp_path / "broken.toml").write_text("[")
    (tmp_path / "other.ini").write_text("")
    for name in ("list.yaml", "broken.toml", "other.ini"):
        with pytest.raises(ConfigError, match=name):
            load_config(tmp_path / name)
    with pytest.raises(NotFoundError, match=r"none\.yaml"):
        load_config(tmp_path / "none.yaml")


def test_the_digest_covers_what_determines_the_weights() -> None:
    base = TrainConfig().digest
    for same in (
        "workers.count=2",
        "logging.every=7",
        "run.name=x",
        "checkpoint.every=9",
        "optimizer.steps=400000",  # the same curve, longer
    ):
        assert load_config(None, [same]).digest == base, same
    for other in ("optimizer.lr=2e-4", "run.seed=2", "model.blocks=4", "data.batch=8"):
        assert load_config(None, [other]).digest != base, other
    cosine = load_config(None, ["optimizer.schedule=cosine"]).digest
    assert load_config(None, ["optimizer.schedule=cosine", "optimizer.steps=9"]).digest != cosine


@pytest.mark.parametrize("kind", [TrainConfig, APlusConfig])
def test_a_dataset_counts_by_its_digest_where_that_is_known(kind: type[RunConfig]) -> None:
    def digest(*overrides: str) -> str:
        return kind.load(None, overrides).digest

    known = f"data.digest={'a5' * 32}"
    assert digest("data.uri=/a") != digest("data.uri=/b")
    assert digest("data.uri=/a", known) == digest("data.uri=s3://b/c", known)
    assert digest("data.uri=/a", known) != digest("data.uri=/a", f"data.digest={'b6' * 32}")


def test_places_and_names_are_filled_in() -> None:
    config = load_config(None, ["data.uri=s3://bucket/data/div2k"]).resolved()
    assert config.run.uri == "s3://bucket/runs"
    assert config.run.name == f"edsr-baseline-x2-{config.digest[:8]}"
    assert config.resolved() == config
    with pytest.raises(ConfigError, match="RAYSCALE_DATASET"):
        TrainConfig().resolved()


def test_the_batch_must_fit_the_workers() -> None:
    with pytest.raises(ConfigError, match=r"data\.batch 16 cannot be shared .* 17"):
        load_config(None, ["workers.count=17"])
    assert load_config(None, ["workers.count=3"]).workers.count == 3


def test_files_of_weights_are_independent_of_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    def resolved(start: object, vgg: object) -> TrainConfig:
        values = ["data.uri=/d", "model.name=srgan"]
        values += [f"model.warm_start={start}", f"adversarial.vgg={vgg}"]
        return load_config(None, values).resolved()

    config = resolved("a.safetensors", "../vgg.pth")
    assert config.model.warm_start == str(tmp_path / "a.safetensors")
    assert config.adversarial.vgg == str(tmp_path.parent / "vgg.pth")
    assert config == resolved(tmp_path / "a.safetensors", tmp_path.parent / "vgg.pth")
    assert config.run.name == f"srgan-x4-{config.digest[:8]}"
    for same in (("none", "null"), ("s3://b/a.safetensors", "s3://b/c/vgg.pth")):
        kept = resolved(*same)
        assert [str(kept.model.warm_start), kept.adversarial.vgg] == [
            same[0], None if same[1] == "null" else same[1],
        ]  # fmt: skip
