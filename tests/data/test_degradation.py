"""The degradation as a part of a dataset and of the patches that are drawn from it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.data.rows import SMALL, Images, Noise, inside, rows_of

from rayscale.data import Dataset, Manifest, PatchStream, PrepareConfig, ScaleStream, prepare
from rayscale.degradations import Degradation
from rayscale.errors import ConfigError, InputError
from rayscale.training.config import TrainConfig, load_config


@pytest.fixture
def make(images: Images, make_noise: Noise, tmp_path: Path) -> Callable[[str], Path]:
    """``make(text)`` prepares three images with that degradation."""
    folder = images({f"{n}.png": make_noise(60, 72 + 12 * n, seed=n) for n in range(3)})

    def made(text: str) -> Path:
        target = tmp_path / text.partition(":")[0]
        config = PrepareConfig.create(**{**SMALL.model_dump(), "degradation": text})
        prepare(folder, target, config)
        return target

    return made


@pytest.mark.parametrize("text", ["mtf:gain=0.2/0.3/0.4", "kspace"])
def test_lr_images_are_those_of_the_degradation(
    make: Callable[[str], Path], make_noise: Noise, text: str
) -> None:
    folder, degradation = make(text), Degradation.parse(text)
    manifest = Manifest.load(folder)
    assert manifest.degradation == degradation
    assert manifest.lr == "made"
    for scale in (2, 3, 4):
        for key, place, low, _ in rows_of(folder, scale):
            number = int(key.removesuffix(".png"))
            whole = make_noise(60, 72 + 12 * number, seed=number)
            lr = degradation.apply(whole[:60, : whole.shape[1] // 12 * 12], scale)
            assert np.array_equal(low, inside(lr, place, scale))


def test_a_digest_is_of_the_degradation_too(make: Callable[[str], Path]) -> None:
    texts = ("bicubic", "mtf:gain=0.3", "blur_noise_jpeg", "blur_noise_jpeg:noise=0..5")
    assert len({Manifest.load(make(text)).digest for text in texts}) == 4


def test_a_dataset_that_names_none_is_bicubic() -> None:
    manifest = Manifest.load("tests/stored/dataset")
    assert manifest.degradation.is_bicubic
    assert manifest.degradation_name == "bicubic"


def test_of_a_degradation_that_draws_hr_alone_is_stored(make: Callable[[str], Path]) -> None:
    manifest = Manifest.load(make("blur_noise_jpeg"))
    assert {key for shard in manifest.shards for key in shard.columns} == {"1"}
    assert manifest.scales == (2, 3, 4)


def test_drawn_patches_are_a_function_of_seed_step_and_slot(make: Callable[[str], Path]) -> None:
    dataset = Dataset(make("blur_noise_jpeg"), 2)

    def batch(step: int, world: int) -> tuple[torch.Tensor, torch.Tensor]:
        parts = [
            PatchStream(dataset, patch=8, batch=8, seed=3, rank=rank, world=world).batch(step)
            for rank in range(world)
        ]
        return torch.cat([lr for lr, _ in parts]), torch.cat([hr for _, hr in parts])

    for step in (0, 9, 100_000):
        lr, hr = batch(step, 1)
        assert lr.shape == (8, 3, 8, 8)
        assert hr.shape == (8, 3, 16, 16)
        for world in (2, 4, 8):
            assert all(map(torch.equal, (lr, hr), batch(step, world)))
    epoch = 2 * len(dataset)
    assert not torch.equal(batch(0, 1)[0], batch(epoch, 1)[0])


def test_a_patch_is_cut_from_its_degraded_surroundings(make: Callable[[str], Path]) -> None:
    """Without noise, what is made for a patch is what is made for its whole sub-image."""
    text = "mtf:gain=0.3"
    dataset = Dataset(make("bicubic"), 2)
    stream = PatchStream(dataset, patch=8, batch=8, degradation=Degradation.parse(text))
    degradation = Degradation.parse(text)
    wholes = [
        degradation.apply(dataset.pair(row)[1].transpose(1, 2, 0), 2).transpose(2, 0, 1)
        for row in range(len(dataset))
    ]
    lr, _ = stream.batch(4)
    for patch, row in zip(lr.numpy(), stream.rows_at(4), strict=True):
        views = np.lib.stride_tricks.sliding_window_view(wholes[row], (3, 8, 8))[0]
        turned = [
            np.rot90(p, k, (1, 2)) for p in (patch, patch.transpose(0, 2, 1)) for k in range(4)
        ]
        assert any((views == t).all(axis=(2, 3, 4)).any() for t in turned)


def test_training_may_ask_for_another_degradation(make: Callable[[str], Path]) -> None:
    folder = make("mtf:gain=0.3")
    arguments = {"patch": 8, "batch": 4, "seed": 1}
    own = ScaleStream(folder, [2], **arguments)
    assert own.degradation == "mtf:gain=0.3"
    same = ScaleStream(folder, [2], **arguments, degradation=Degradation.parse("mtf:gain=0.3"))
    assert torch.equal(own.batches(3)[0].lr, same.batches(3)[0].lr)
    other = ScaleStream(folder, [2], **arguments, degradation=Degradation())
    assert other.degradation == "bicubic"
    assert torch.equal(own.batches(3)[0].hr, other.batches(3)[0].hr)
    assert not torch.equal(own.batches(3)[0].lr, other.batches(3)[0].lr)
    with pytest.raises(ConfigError, match="prepare the dataset with degradation=kspace"):
        ScaleStream(folder, [2], **arguments, degradation=Degradation.parse("kspace"))
    with pytest.raises(ConfigError, match="fractional scales are made by bicubic"):
        ScaleStream(folder, [2.5], **arguments)


def test_a_run_is_of_its_degradation_and_older_runs_stay() -> None:
    config = load_config(overrides=["data.uri=/tmp/set"])
    assert config.data.degradation is None
    older = TrainConfig.parse({"data": {"uri": "/tmp/set"}})
    assert config.digest == older.digest
    other = load_config(overrides=["data.uri=/tmp/set", "data.degradation=mtf:gain=0.3"])
    assert other.digest != config.digest
    assert TrainConfig.parse(other.model_dump(mode="json")) == other
    with pytest.raises(ConfigError, match="degradation 'blur' is not known"):
        load_config(overrides=["data.degradation=blur"])


def test_a_wrong_one_is_told_before_any_work(
    images: Images, make_noise: Noise, tmp_path: Path
) -> None:
    folder = images({"HR/a.png": make_noise(96, 96), "LR/a.png": make_noise(48, 48)})
    config = PrepareConfig.create(scales=(2,), degradation="mtf:gain=0.3/0.2", lr="made")
    with pytest.raises(ConfigError, match="2 bands, but the images have 3 channels"):
        prepare(folder, tmp_path / "set", config)
    with pytest.raises(ConfigError, match="add lr=made"):
        prepare(folder, tmp_path / "set", config.model_copy(update={"lr": "auto"}))
    with pytest.raises(ConfigError, match="not known"):
        PrepareConfig.create(degradation="blur")


def test_windows_of_a_scene_are_degraded_as_the_whole(make_noise: Noise, tmp_path: Path) -> None:
    pytest.importorskip("rasterio")
    from tests.imaging.geotiff_objects import save

    whole = make_noise(156, 108, 2, 16)
    (tmp_path / "scenes").mkdir()
    save(tmp_path / "scenes" / "a.tif", whole)
    given = SMALL.model_dump() | {"levels": (0.0, 65535.0)}
    degradation = Degradation.parse("mtf:gain=0.15/0.4")
    config = PrepareConfig.create(**{**given, "degradation": degradation})
    prepare(tmp_path / "scenes", tmp_path / "set", config)
    for scale in (2, 3, 4):
        lr = degradation.apply(whole, scale)
        for _, place, low, _ in rows_of(tmp_path / "set", scale):
            assert np.array_equal(low, inside(lr, place, scale))
    config = PrepareConfig.create(**{**given, "degradation": "kspace"})
    with pytest.raises(InputError, match="kspace needs whole images"):
        prepare(tmp_path / "scenes", tmp_path / "other", config)
