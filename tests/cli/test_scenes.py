"""``rayscale upscale`` of scenes and volumes."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest


def test_a_scene_keeps_its_ground_and_its_format(rayscale, tmp_path):
    rasterio = pytest.importorskip("rasterio", reason="needs the extra geo")
    pixels = np.random.default_rng(0).integers(0, 9000, (13, 20, 30), dtype=np.uint16)
    profile = {"driver": "GTiff", "width": 30, "height": 20, "count": 13, "dtype": "uint16"}
    transform = rasterio.transform.from_origin(500000, 5600000, 10, 10)
    with rasterio.open(
        tmp_path / "scene.tif", "w", crs="EPSG:32632", transform=transform, **profile
    ) as scene:
        scene.write(pixels)
    command = ("upscale", tmp_path / "scene.tif")
    assert rayscale(*command, tmp_path / "large.tiff", "-m", "bicubic")[0] == 0
    with rasterio.open(tmp_path / "large.tiff") as large:
        assert (large.count, large.shape, large.res) == (13, (40, 60), (5, 5))
        assert '"weights": "built-in:bicubic"' in large.tags()["RAYSCALE"]
    code, _, err = rayscale(*command, tmp_path / "large.png", "-m", "bicubic")
    assert (code, (tmp_path / "large.png").exists()) == (1, False)
    assert "geometry would be lost" in err


def test_the_uncertainty_of_a_scene_is_written_by_windows_to_the_same_place(
    rayscale, tmp_path, monkeypatch
):
    rasterio = pytest.importorskip("rasterio", reason="needs the extra geo")
    profile = {
        "driver": "GTiff",
        "dtype": "uint16",
        "width": 130,
        "height": 60,
        "count": 1,
        "nodata": 0,
    }
    pixels = np.random.default_rng(0).integers(1, 9000, (1, 60, 130), np.uint16)
    pixels[:, :, 100:] = 0
    with rasterio.open(tmp_path / "scene.tif", "w", crs="EPSG:32632", **profile) as scene:
        scene.write(pixels)
    command = (
        "upscale",
        tmp_path / "scene.tif",
        tmp_path / "large.tiff",
        "--uncertainty",
        "--json",
    )
    monkeypatch.setattr("rayscale.inference.frames.WINDOW_BYTES", 0)  # the smallest ones
    code, out, err = rayscale(*command)
    assert code == 0, err
    beside = tmp_path / "large.uncertainty.tiff"
    assert json.loads(out)["done"][0]["uncertainty"] == str(beside)
    with rasterio.open(beside) as values, rasterio.open(tmp_path / "large.tiff") as large:
        assert (values.crs, values.transform, values.shape) == (
            large.crs,
            large.transform,
            (120, 260),
        )
        assert np.isnan(values.read(1)[:, 200:]).all()
        assert 0 < values.read(1)[:, :200].mean() < 2000
        assert "standard deviation over the eight" in values.tags()["RAYSCALE"]


def test_a_scene_of_several_windows_shows_where_it_is(rayscale, tmp_path, monkeypatch):
    rasterio = pytest.importorskip("rasterio", reason="needs the extra geo")
    profile = {"driver": "GTiff", "width": 130, "height": 60, "count": 1, "dtype": "float32"}
    with rasterio.open(tmp_path / "scene.tif", "w", crs="EPSG:32632", **profile) as scene:
        scene.write(np.ones((1, 60, 130), np.float32))
    monkeypatch.setattr("rayscale.inference.frames.WINDOW_BYTES", 0)  # the smallest ones
    command = ("upscale", tmp_path / "scene.tif", tmp_path / "new" / "large.tif", "-m", "bilinear")
    _, out, err = rayscale(*command)
    assert "windows" not in out + err  # not a terminal
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    code, out, err = rayscale(*command)
    assert (code, out) == (0, "")
    assert "scene.tif: 2 of 3 windows" in err
    assert err.endswith("large.tif (260x120, " + err.rpartition("x120, ")[2])
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["large.tif"]


def test_a_volume_goes_from_nii_to_nii_gz(rayscale, tmp_path):
    nibabel = pytest.importorskip("nibabel", reason="needs the extra medical")
    values = np.random.default_rng(0).integers(0, 900, (8, 6, 3)).astype(np.int16)
    nibabel.save(nibabel.Nifti1Image(values, np.diag([2, 2, 3, 1])), tmp_path / "brain.nii")
    code, _, _ = rayscale(
        "upscale", tmp_path / "brain.nii", tmp_path / "large.nii.gz", "-m", "bicubic"
    )
    assert code == 0
    large = nibabel.load(tmp_path / "large.nii.gz")
    assert large.shape == (16, 12, 3)
    np.testing.assert_array_equal(large.affine[:3, 3], [-0.5, -0.5, 0])
