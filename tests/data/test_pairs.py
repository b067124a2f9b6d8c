"""Datasets whose LR images are not made here: cropped as EDSR-PyTorch crops, compared with HR, told in the digest."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from rayscale.data import Dataset, PatchStream, PrepareConfig, ScaleStream, prepare
from rayscale.data.shards import read_places
from rayscale.errors import ConfigError, InputError
from rayscale.resampling import degrade
from rayscale.storage import connect

Noise = Callable[..., np.ndarray]
Images = Callable[..., Path]
SMALL = {"size": 48, "step": 36, "minimum": 24}


def camera(hr: np.ndarray, scale: int) -> np.ndarray:
    """Another degradation than bicubic: a softer lens, sampled, and darker."""
    soft = ndimage.gaussian_filter(hr.astype(float), (0.5 * scale, 0.5 * scale, 0))
    return (0.8 * soft[scale // 2 :: scale, scale // 2 :: scale]).astype(np.uint8)


@pytest.fixture
def div2k(images: Images, make_noise: Noise) -> Path:
    """Two HR images and LR ones of x2 and x4; the second is no multiple of the scales, its LR rounded up."""
    files: dict[str, np.ndarray] = {}
    for number, size in ((801, (100, 64)), (802, (75, 61))):
        hr = files[f"DIV2K_train_HR/0{number}.png"] = make_noise(*size, seed=number)
        for scale in (2, 4):
            low = f"DIV2K_train_LR_unknown/X{scale}/0{number}x{scale}.png"
            padded = np.pad(hr, ((0, -size[0] % scale), (0, -size[1] % scale), (0, 0)), "edge")
            files[low] = camera(padded, scale)
    return images(files)


def test_rows_are_those_of_the_given_images(div2k: Path, tmp_path: Path) -> None:
    manifest = prepare(div2k, tmp_path / "set", PrepareConfig(**SMALL))
    assert (manifest.lr, manifest.scales, manifest.config.scales) == ("pairs", (2, 4), (2, 4))
    assert (manifest.counts.images, manifest.failures, manifest.counts.ignored) == (2, (), 0)
    assert manifest.counts.pixels == 100 * 64 + 72 * 60
    for scale in (2, 4):
        dataset = Dataset(tmp_path / "set", scale)
        (shard,) = dataset.manifest.shards
        rows = read_places(tmp_path / "set" / shard.columns["1"].key)
        assert {key for key, _ in rows} == {f"DIV2K_train_HR/080{n}.png" for n in (1, 2)}
        for row, (key, place) in enumerate(rows):
            low, high = (side.transpose(1, 2, 0) for side in dataset.pair(row))
            name = key[-8:-4]
            hr = read(div2k / key)
            lr = read(div2k / f"DIV2K_train_LR_unknown/X{scale}/{name}x{scale}.png")
            y, x = place.y // scale, place.x // scale
            assert np.array_equal(high, hr[place.y :, place.x :][: place.height, : place.width])
            assert np.array_equal(low, lr[y:, x:][: place.height // scale, : place.width // scale])


def read(path: Path) -> np.ndarray:
    from PIL import Image

    return np.array(Image.open(path))


def test_hr_is_cropped_to_lr_times_scale(images: Images, make_noise: Noise, tmp_path: Path) -> None:
    """The scale is that of the sizes: no name tells it."""
    hr = make_noise(50, 61)
    folder = images({"HR/a.png": hr, "LR/a.png": degrade(hr, 3)})
    manifest = prepare(folder, tmp_path / "set", PrepareConfig(**{**SMALL, "size": 60}))
    assert (manifest.scales, manifest.counts.pixels) == ((3,), 48 * 60)


def test_the_digest_tells_pairs_from_made_images(
    images: Images, make_noise: Noise, tmp_path: Path
) -> None:
    """Also where the pixels are the same, as in DIV2K's bicubic track; other LR pixels are another dataset."""
    hr = make_noise(48, 48)
    folder = images({"HR/a.png": hr, "LR/x2/a.png": degrade(hr, 2)})
    pairs = prepare(folder, tmp_path / "pairs", PrepareConfig(**SMALL))
    made = prepare(folder, tmp_path / "made", PrepareConfig(**SMALL, lr="made", scales=(2,)))
    assert made.lr == "bicubic"
    assert (made.counts.images, made.counts.ignored) == (1, 1)
    assert [c.sha256 for s in pairs.shards for c in s.columns.values()] == [
        c.sha256 for s in made.shards for c in s.columns.values()
    ]
    assert pairs.digest != made.digest
    images({"LR/x2/a.png": camera(hr, 2)})
    assert prepare(folder, tmp_path / "pairs", PrepareConfig(**SMALL)).digest != pairs.digest


def test_pairs_that_do_not_fit_are_listed(
    images: Images, make_noise: Noise, tmp_path: Path
) -> None:
    hr = make_noise(48, 60)
    lr = degrade(hr, 2)
    files = {f"HR/{name}.png": hr for name in ("good", "moved", "other", "alone", "large", "grey")}
    files |= {
        "LR/x2/good.png": lr,
        "LR/x2/moved.png": np.roll(lr, 1, 1),
        "LR/x2/other.png": lr[::-1],
        "LR/x2/large.png": hr,
        "LR/x2/grey.png": lr[:, :, :1],
        "LR/x2/lost.png": lr,
    }
    folder = images(files)
    manifest = prepare(folder, tmp_path / "set", PrepareConfig(**SMALL))
    assert manifest.counts.images == 1
    messages = {failure.key: failure.message for failure in manifest.failures}
    assert set(messages) == {
        "LR/x2/lost.png", *(f"HR/{n}.png" for n in ("moved", "other", "alone", "large", "grey")),
    }  # fmt: skip
    assert "LR/x2/moved.png: the LR image lies +1 pixels to the right" in messages["HR/moved.png"]
    assert "registration=trust" in messages["HR/other.png"]
    assert "does not show what its HR image shows" in messages["HR/other.png"]
    assert "LR 60x48 at x2 makes 120x96" in messages["HR/large.png"]
    assert "1 channel " in messages["HR/grey.png"]
    assert messages["HR/alone.png"] == "has no LR image of its name"
    trusted = prepare(folder, tmp_path / "set", PrepareConfig(**SMALL, registration="trust"))
    assert trusted.counts.images == 3


def test_scales_are_those_of_the_pairs(div2k: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"x2, x4, none of x3; take the scales 2 4, or lr=made"):
        prepare(div2k, tmp_path / "set", PrepareConfig(**SMALL, scales=(2, 3)))
    manifest = prepare(div2k, tmp_path / "set", PrepareConfig(**SMALL, scales=(4,)))
    assert (manifest.scales, manifest.failures) == ((4,), ())
    next(div2k.glob("*/X4/0802x4.png")).unlink()
    manifest = prepare(div2k, tmp_path / "set", PrepareConfig(**SMALL))
    (failure,) = manifest.failures
    assert (failure.key, failure.message) == ("DIV2K_train_HR/0802.png", "has no LR image at x4")


def test_hr_of_each_scale_is_a_dataset_each(
    images: Images, make_noise: Noise, tmp_path: Path
) -> None:
    """As in the benchmark sets, whose HR images are cropped for each scale."""
    hr = make_noise(59, 50)
    files = {}
    for scale in (2, 3):
        files[f"x{scale}/HR/a.png"] = hr[: 59 // scale * scale, : 50 // scale * scale]
        files[f"x{scale}/LR/a.png"] = degrade(hr, scale)
    folder = images(files)
    with pytest.raises(ConfigError, match="HR images of its own for each scale"):
        prepare(folder, tmp_path / "set", PrepareConfig(**SMALL))
    config = PrepareConfig(**{**SMALL, "size": 60}, scales=(3,))
    manifest = prepare(folder, tmp_path / "set", config)
    assert (manifest.scales, manifest.counts.pixels, manifest.failures) == ((3,), 57 * 48, ())


def test_lr_images_may_lie_in_a_store_of_their_own(div2k: Path, tmp_path: Path) -> None:
    whole = prepare(div2k, tmp_path / "one", PrepareConfig(**SMALL, scales=(2,)))
    lr = div2k / "DIV2K_train_LR_unknown" / "X2"
    apart = prepare(div2k / "DIV2K_train_HR", tmp_path / "two", PrepareConfig(**SMALL, lr=str(lr)))
    sums = [[c.sha256 for c in m.shards[0].columns.values()][1] for m in (whole, apart)]
    assert apart.scales == (2,)
    assert len(set(sums)) == 2  # keys differ, pixels do not
    for row in range(len(Dataset(tmp_path / "one", 2))):
        ours, theirs = (Dataset(tmp_path / n, 2).pair(row) for n in ("one", "two"))
        assert all(np.array_equal(a, b) for a, b in zip(ours, theirs, strict=True))
    with pytest.raises(InputError, match="no images to pair"):
        prepare(div2k / "DIV2K_train_HR", tmp_path / "no", PrepareConfig(lr=str(tmp_path / "none")))


def test_one_sensor_has_one_scale_of_values(make_noise: Noise, tmp_path: Path) -> None:
    """LR of signed measurements takes black and white of HR, or equal values would become different numbers."""
    pytest.importorskip("rasterio")
    from tests.imaging.geotiff_objects import save

    hr = make_noise(48, 48, 1).astype(np.int16) * 20 - 500
    lr = degrade(hr, 2)
    for name, pixels in (("HR", hr), ("LR", lr)):
        (tmp_path / "in" / name).mkdir(parents=True)
        save(tmp_path / "in" / name / "a.tif", pixels)
    # As GDAL leaves it; LR of the same name lies elsewhere and has none.
    (tmp_path / "in/HR/a.tif.aux.xml").write_text("<PAMDataset><Metadata/></PAMDataset>")
    config = PrepareConfig(**SMALL, lr=str(tmp_path / "in/LR"))
    assert prepare(tmp_path / "in/HR", tmp_path / "apart", config).failures == ()
    manifest = prepare(tmp_path / "in", tmp_path / "set", PrepareConfig(**SMALL))
    assert (manifest.failures, manifest.bits) == ((), 16)
    low, high = Dataset(tmp_path / "set", 2).pair(0)
    black, white = int(hr.min()), int(hr.max())
    for stored, values in ((low, lr), (high, hr)):
        expected = (values[:, :, 0].astype(float) - black) / (white - black) * 65535
        assert np.abs(stored[0] - expected.clip(0, 65535)).max() <= 1


def test_training_reads_the_given_images(div2k: Path, tmp_path: Path) -> None:
    prepare(div2k, tmp_path / "set", PrepareConfig(**SMALL))
    dataset = Dataset(tmp_path / "set", 2)
    lr, hr = PatchStream(dataset, patch=8, batch=64, seed=1).batch(0)
    # The camera darkens by a fifth; bicubic would not.
    assert lr.float().mean() / hr.float().mean() == pytest.approx(0.8, abs=0.02)
    with pytest.raises(ConfigError, match="LR images of its own, at x2, x4"):
        ScaleStream(tmp_path / "set", [2, 2.5], patch=10, batch=2, seed=0)


def test_litter_is_no_partner(images: Images, make_noise: Noise, tmp_path: Path) -> None:
    hr = make_noise(48, 48)
    folder = images(
        {
            "HR/a.png": hr, "HR/._a.png": b"x", "LR/x2/a.png": degrade(hr, 2), "LR/x2/._a.png": b"x",
            "__MACOSX/HR/a.png": b"x", "LR/Thumbs.db": b"x",
        }
    )  # fmt: skip
    manifest = prepare(folder, tmp_path / "set", PrepareConfig(**SMALL))
    assert (manifest.failures, manifest.counts.images, manifest.counts.ignored) == ((), 1, 4)
    assert connect(folder).exists("HR/a.png")
