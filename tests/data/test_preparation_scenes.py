"""A dataset of scenes and volumes: cut by windows, beside missing pixels, as a network sees measurements."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.data.rows import SMALL, Images, Noise, inside, rows_of

from rayscale.data import PrepareConfig, prepare
from rayscale.errors import InputError
from rayscale.imaging import read_image
from rayscale.resampling import degrade
from rayscale.settings import get_settings


@pytest.fixture
def save_scene(tmp_path: Path) -> Callable[..., Path]:
    """``save_scene(pixels, **profile)`` writes a GeoTIFF into ``scenes/``."""
    pytest.importorskip("rasterio")
    from tests.imaging.geotiff_objects import save

    def write(pixels: np.ndarray, name: str = "a.tif", **profile: object) -> Path:
        (tmp_path / "scenes").mkdir(exist_ok=True)
        save(tmp_path / "scenes" / name, pixels, **profile)
        return tmp_path / "scenes"

    return write


def test_a_scene_is_cut_by_windows_as_the_whole_would_be(
    save_scene: Callable[..., Path], make_noise: Noise, tmp_path: Path
) -> None:
    whole = make_noise(205, 130, 4, 16)
    config = SMALL.model_copy(update={"levels": (0.0, 65535.0)})
    manifest = prepare(save_scene(whole), tmp_path / "set", config)
    hr = whole[:204, :120]
    for scale in (2, 3, 4):
        lr = degrade(hr, scale)
        rows = rows_of(tmp_path / "set", scale)
        for _, place, low, high in rows:
            assert np.array_equal(high, inside(hr, place))
            assert np.array_equal(low, inside(lr, place, scale))
        assert {(place.y, place.x) for _, place, _, _ in rows} == {
            (y, x) for y in (0, 36, 72, 108, 144, 156) for x in (0, 36, 72)
        }
    assert manifest.counts.pixels == hr.shape[0] * hr.shape[1]
    assert manifest.mean == pytest.approx(hr.mean((0, 1)) / 65535, rel=1e-12)
    assert manifest.deviation == pytest.approx(hr.std((0, 1)) / 65535, rel=1e-12)


def test_measurements_become_what_a_network_sees_of_them(
    save_scene: Callable[..., Path], make_noise: Noise, tmp_path: Path
) -> None:
    """By the levels of each band of the whole scene, as an upscale finds them."""
    whole = make_noise(96, 96, 2, 16) // 32 + 1000
    prepare(save_scene(whole), tmp_path / "set", PrepareConfig(size=96, step=96, minimum=48))
    ((_, _, _, high),) = rows_of(tmp_path / "set", 2)
    levels = read_image((tmp_path / "scenes" / "a.tif").read_bytes()).levels
    assert levels is not None
    expected = (whole - np.array(levels.black)) / np.subtract(levels.white, levels.black) * 65535
    assert np.abs(high - np.clip(expected, 0, 65535)).max() <= 0.51
    assert high.std() > 15_000


def test_sub_images_are_taken_beside_missing_pixels(
    save_scene: Callable[..., Path], make_noise: Noise, tmp_path: Path
) -> None:
    """One nodata corner and one pixel: whole sub-images, quarters beside them, and no nodata in any LR pixel."""
    whole = make_noise(192, 192, 3, 16) // 64 + 20_000
    whole[:50, :50] = 0
    whole[100, 100, 1] = 0
    config = PrepareConfig(size=48, step=48, minimum=24, levels=(0, 65535))
    manifest = prepare(save_scene(whole, nodata=0), tmp_path / "set", config)
    rows = rows_of(tmp_path / "set", 4)
    for _, place, low, high in rows:
        assert np.array_equal(high, inside(whole, place))
        assert high.min() > 0
        assert low.min() > 19_000
    sizes = [place.height for _, place, _, _ in rows]
    # (0, 0) is all nodata; of three beside it and the one with the pixel, quarters are left.
    assert manifest.counts.incomplete == 5
    assert sizes.count(48) == 11
    assert sizes.count(24) == 2 + 2 + 3 + 3
    valid = (whole != 0).all(axis=2)
    assert manifest.counts.pixels == valid.sum()
    assert manifest.mean == pytest.approx(whole[valid].mean(0) / 65535, rel=1e-12)


def test_a_scene_without_a_complete_sub_image_is_told(
    save_scene: Callable[..., Path], make_noise: Noise, tmp_path: Path
) -> None:
    holes = make_noise(96, 96, 3) | 1
    holes[::20, ::20] = 0
    save_scene(holes, "holes.tif", nodata=0)
    folder = save_scene(make_noise(96, 96, 3) | 1, "whole.tif", nodata=0)
    manifest = prepare(folder, tmp_path / "set", SMALL)
    (left_out,) = manifest.skipped
    assert (left_out.key, manifest.counts.images) == ("holes.tif", 1)
    assert "all of its 9 sub-images have missing pixels" in left_out.message
    assert manifest.counts.incomplete == 0


def test_a_volume_is_taken_beside_missing_pixels(make_noise: Noise, tmp_path: Path) -> None:
    nibabel = pytest.importorskip("nibabel")
    volume = make_noise(60, 60, 2).astype(np.float32)
    volume[:10, :10, 0] = np.nan
    (tmp_path / "in").mkdir()
    nibabel.save(nibabel.Nifti1Image(volume, np.eye(4)), tmp_path / "in" / "a.nii")
    manifest = prepare(tmp_path / "in", tmp_path / "set", SMALL.model_copy(update={"step": 12}))
    assert manifest.failures == ()
    assert (manifest.counts.images, manifest.counts.incomplete) == (2, 1)
    sizes = [high.shape[:2] for _, _, _, high in rows_of(tmp_path / "set", 2)]
    assert sizes.count((48, 48)) == 3 + 4
    assert sizes.count((24, 24)) == 3


def test_a_scene_beyond_the_limit_of_an_image_needs_little_memory(
    save_scene: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A scene of 8 MB, read and cut in windows of a tenth of it; passes over a whole file are of parts as well."""
    monkeypatch.setattr("rayscale.imaging.scene._SCANNED_BYTES", 1 << 18)
    whole = np.arange(2016 * 2016, dtype=np.uint32).reshape(2016, 2016, 1).astype(np.uint16)
    folder = save_scene(whole, tiled=True, blockxsize=128, blockysize=128)
    monkeypatch.setenv("RAYSCALE_MAX_INPUT_PIXELS", "1000000")
    get_settings.cache_clear()
    config = PrepareConfig(scales=(2,), size=288, step=288)
    tracemalloc.start()
    try:
        manifest = prepare(folder, tmp_path / "set", config)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
        get_settings.cache_clear()
    assert (manifest.failures, manifest.counts.sub_images) == ((), 49)
    assert manifest.counts.pixels == 2016 * 2016
    assert peak < whole.nbytes / 2


def test_bands_of_classes_are_no_pictures(
    save_scene: Callable[..., Path], make_noise: Noise, tmp_path: Path
) -> None:
    """They hinder nobody who leaves them out."""
    scene = np.concatenate(
        [make_noise(96, 96, 2), np.uint8([[[4]]]).repeat(96, 0).repeat(96, 1)], 2
    )
    scene[:40, :, 2] = 8

    def name(dataset: Any) -> None:
        dataset.descriptions = ("B04", "B03", "SCL")

    folder = save_scene(scene, fill=name)
    with pytest.raises(InputError, match=r"band 3 holds classes.*take other bands"):
        prepare(folder, tmp_path / "set", SMALL)
    manifest = prepare(folder, tmp_path / "set", SMALL.model_copy(update={"bands": (2, 1)}))
    assert (manifest.channels, manifest.failures) == (2, ())


def test_a_mask_beside_a_raster_is_not_passed_over(
    images: Images, make_noise: Noise, tmp_path: Path
) -> None:
    files = {"a.png": make_noise(48, 48), "b.png": make_noise(48, 48), "b.png.msk": b"mask"}
    manifest = prepare(images(files), tmp_path / "set", SMALL)
    assert [failure.key for failure in manifest.failures] == ["b.png"]
    assert "the mask of b.png" in manifest.failures[0].message


def test_nodata_scenes_of_the_field(shared_data: Path, tmp_path: Path) -> None:
    config = PrepareConfig(levels=(0, 65535))  # else black is the darkest pixel
    manifest = prepare(shared_data / "faults" / "nodata_scenes", tmp_path / "set", config)
    assert (manifest.failures, manifest.skipped) == ((), ())
    assert (manifest.counts.images, manifest.counts.incomplete) == (2, 1)
    assert all(high.min() > 0 for _, _, _, high in rows_of(tmp_path / "set", 2))


def test_nodata_that_only_a_sidecar_tells_is_not_learned(
    save_scene: Callable[..., Path], make_noise: Noise, tmp_path: Path
) -> None:
    save_scene(make_noise(96, 96), "good.tif")
    folder = save_scene(make_noise(96, 96), "bad.tif")
    pam = "<PAMDataset><PAMRasterBand band='1'><NoDataValue>0</NoDataValue></PAMRasterBand></PAMDataset>"
    (folder / "bad.tif.aux.xml").write_text(pam)
    (folder / "good.tif.aux.xml").write_text("<PAMDataset><Metadata/></PAMDataset>")
    manifest = prepare(folder, tmp_path / "set", SMALL)
    assert [failure.key for failure in manifest.failures] == ["bad.tif"]
    assert "the nodata value 0 of bad.tif" in manifest.failures[0].message
    assert manifest.counts.images == 1
