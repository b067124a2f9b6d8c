"""Uncertainty: numpy's standard deviation over the eight runs, in native units, in a file that lies where the image lies."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest
import tifffile
import torch

from rayscale.errors import UnsupportedError
from rayscale.imaging import Image, Provenance, read_image, write_image
from rayscale.imaging.levels import Levels
from rayscale.imaging.missing import Missing
from rayscale.inference import Upscaler
from rayscale.inference.parts import Parts
from rayscale.models.systems import create_model
from rayscale.options import Options

pytestmark = pytest.mark.usefixtures("one_thread")
PROVENANCE = Provenance("edsr/3", "0f" * 32, {"scale": 2})


def noise(*shape: int, dtype: str = "uint8", high: int = 256) -> np.ndarray:
    return np.random.default_rng(4).integers(0, high, shape).astype(dtype)


def network(channels: int = 3):
    torch.manual_seed(2)
    model = create_model("edsr-baseline", scale=2, channels=channels, filters=8, blocks=1)
    for parameter in model.parameters():
        if parameter.ndim == 4:
            torch.nn.init.kaiming_normal_(parameter, a=1)
    return model


def runs(model, pixels: np.ndarray, levels: Levels) -> np.ndarray:
    """The eight outputs ``(8, sH, sW, C)`` in stored units, by numpy's own turns, as floats."""
    alone, value_range = (
        Upscaler(model, Options(scale=2, precision="float32")),
        model.spec.value_range,
    )
    out = []
    for turns in range(4):
        for flip in (False, True):
            turned = np.rot90(pixels, turns)
            turned = turned[:, ::-1] if flip else turned
            x = levels.to_network(turned, value_range).transpose(2, 0, 1)
            y = alone.predictor.predict(torch.tensor(x[None]))[0].permute(1, 2, 0).numpy()
            y = y[:, ::-1] if flip else y
            black, gain = levels._black_and_gain(pixels.dtype, value_range)
            out.append(np.rot90(y, -turns) / gain + black)
    return np.stack(out).astype(np.float64)


@pytest.mark.parametrize(("dtype", "high"), [("uint8", 256), ("uint16", 65536), ("int16", 7000)])
def test_numpy_finds_the_same_over_the_eight_runs(dtype, high):
    model = network()
    pixels = noise(11, 14, 3, dtype=dtype, high=high)
    levels = Levels((100.0,), (4000.0,), "r") if dtype == "int16" else Levels.of_type(pixels.dtype)
    image = Image(pixels, "geotiff", levels=levels)
    run = Upscaler(model, Options(scale=2, precision="float32", uncertainty=True, tile=16)).run(
        image
    )
    eight = runs(model, pixels, levels)
    expected = eight.std(axis=0)
    assert run.uncertainty.pixels.dtype == np.float32
    assert np.abs(run.uncertainty.pixels - expected).max() < 1e-3 * expected.max()
    plus = Upscaler(model, Options(scale=2, precision="float32", ensemble=True)).upscale(image)
    apart = np.abs(run.image.pixels.astype(int) - plus.pixels)
    assert apart.max() <= 1  # the same mean, summed up in another order
    assert np.count_nonzero(apart) < 0.01 * apart.size
    assert Upscaler(model, Options(scale=2, uncertainty=True)).describe()["ensemble"] is True


def test_interpolation_is_certain_at_any_scale_and_size():
    upscaler = Upscaler(create_model("bicubic"), Options(scale=1.5, uncertainty=True))
    run = upscaler.run(Image(noise(7, 9, 2), "tiff"))
    assert run.uncertainty.pixels.shape == run.image.pixels.shape == (10, 13, 2)
    assert run.uncertainty.pixels.max() < 1e-2


def test_with_consistency_it_is_that_of_the_network():
    image = Image(noise(9, 8, 3), "tiff")
    both = Upscaler(
        network(),
        Options(scale=2, precision="float32", uncertainty=True, consistency=True),
    ).run(image)
    alone = Upscaler(network(), Options(scale=2, precision="float32", uncertainty=True)).run(image)
    np.testing.assert_array_equal(both.uncertainty.pixels, alone.uncertainty.pixels)
    assert (both.image.pixels != alone.image.pixels).any()


def test_beside_a_picture_it_is_a_plain_tiff_of_the_same_size():
    image = Image(noise(9, 8, 3), "png", alpha=noise(9, 8), dpi=(100.0, 100.0))
    found = Upscaler(network(), Options(scale=2, uncertainty=True)).run(image).uncertainty
    data = write_image(found, PROVENANCE)
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        page = file.pages[0]
        np.testing.assert_array_equal(page.asarray(), found.pixels)
        assert page.dtype == np.float32
        assert "0f" * 32 in page.description
    assert found.dpi == (200.0, 200.0)
    assert found.alpha is None


def test_a_scene_keeps_its_ground_and_has_nan_where_nothing_was_measured():
    rasterio = pytest.importorskip("rasterio", reason="needs the extra geo")
    pixels = noise(10, 12, 2, dtype="uint16", high=9000) + np.uint16(1)
    pixels[2:4, 5, 0] = 0
    profile = {"driver": "GTiff", "width": 12, "height": 10, "count": 2, "dtype": "uint16"}
    transform = rasterio.Affine(10, 0, 500000, 0, -10, 5600000)
    with rasterio.MemoryFile() as file:
        with file.open(
            crs="EPSG:32632",
            transform=transform,
            nodata=0,
            compress="deflate",
            predictor=2,
            **profile,
        ) as scene:
            scene.write(np.moveaxis(pixels, 2, 0))
            scene.set_band_description(1, "B04")
            scene.scales, scene.offsets = (0.0001, 0.0001), (-0.1, -0.1)
        data = bytes(file.read())
    run = Upscaler(network(1), Options(scale=2, uncertainty=True, precision="float32")).run(
        read_image(data)
    )
    with (
        rasterio.MemoryFile(write_image(run.uncertainty, PROVENANCE)) as file,
        file.open() as found,
    ):
        assert (found.crs.to_epsg(), found.res, found.shape) == (32632, (5, 5), (20, 24))
        assert (found.transform.c, found.transform.f) == (500000, 5600000)
        assert found.dtypes == ("float32", "float32")
        assert np.isnan(found.nodata)
        assert found.descriptions == ("standard deviation of B04", "standard deviation of band 2")
        assert (found.scales, found.offsets) == ((0.0001, 0.0001), (0, 0))
        values = found.read()
        assert "0f" * 32 in found.tags()["RAYSCALE"]
    hole = np.repeat(np.repeat(pixels == 0, 2, 0), 2, 1)
    np.testing.assert_array_equal(np.isnan(np.moveaxis(values, 0, 2)), hole)
    filled = read_image(data).missing.filled(pixels, reach=20)
    levels = read_image(data).levels.of_channels(slice(0, 1))
    expected = runs(network(1), filled[..., :1], levels).std(axis=0)
    measured = ~hole[..., 0]
    assert np.abs(values[0] - expected[..., 0])[measured].max() < 1e-3 * expected.max()


def test_alpha_and_masks_of_a_scene_become_nan():
    rasterio = pytest.importorskip("rasterio", reason="needs the extra geo")
    mask = np.full((10, 12), 255, np.uint8)
    mask[2:5, 3:4] = 0
    profile = {"driver": "GTiff", "width": 12, "height": 10, "count": 4, "dtype": "uint8"}
    with rasterio.MemoryFile() as file:
        ground = {"crs": "EPSG:32632", "transform": rasterio.Affine(10, 0, 5, 0, -10, 6)}
        with file.open(photometric="rgb", alpha="yes", **ground, **profile) as scene:
            scene.write(np.concatenate([noise(3, 10, 12), mask[None]]))
        data = bytes(file.read())
    run = Upscaler(network(), Options(scale=2, uncertainty=True)).run(read_image(data))
    with rasterio.MemoryFile(write_image(run.uncertainty)) as file, file.open() as found:
        assert found.count == 3
        hole = np.repeat(np.repeat(mask == 0, 2, 0), 2, 1)
        np.testing.assert_array_equal(np.isnan(found.read(2)), hole)


@pytest.mark.parametrize("name", ["Nifti1Image", "Nifti2Image"])
def test_a_volume_keeps_its_place_and_its_unit(name):
    nibabel = pytest.importorskip("nibabel", reason="needs the extra medical")
    affine = np.array([[0, -2.0, 0, 9], [1.5, 0, 0, -7], [0, 0, 3, 1], [0, 0, 0, 1]])
    stored = noise(9, 7, 3, dtype="int16", high=900)
    volume = getattr(nibabel, name)(stored, affine)
    volume.header["scl_slope"], volume.header["scl_inter"] = 0.5, -100
    data = volume.to_bytes()
    run = Upscaler(network(1), Options(scale=2, uncertainty=True, precision="float32")).run(
        read_image(data)
    )
    found = getattr(nibabel, name).from_bytes(write_image(run.uncertainty, PROVENANCE))
    larger = getattr(nibabel, name).from_bytes(write_image(run.image, PROVENANCE))
    np.testing.assert_array_equal(found.affine, larger.affine)
    assert found.shape == (18, 14, 3)
    assert found.header.get_data_dtype() == np.float32
    assert (found.dataobj.slope, found.dataobj.inter) == (0.5, 0)
    levels = read_image(data).levels
    expected = 0.5 * runs(network(1), stored[..., 1].T[..., None], levels).std(axis=0)[..., 0].T
    assert np.abs(found.get_fdata()[..., 1] - expected).max() < 1e-3 * expected.max()


def test_nothing_measured_is_nothing_known():
    pixels = np.full((6, 5, 1), np.nan, np.float32)
    image = Image(
        pixels,
        "geotiff",
        levels=Levels((0.0,), (1.0,), "r"),
        missing=Missing(np.zeros_like(pixels, bool)),
    )
    found = Upscaler(network(1), Options(scale=2, uncertainty=True)).run(image).uncertainty
    assert np.isnan(found.pixels).all()


class Integers:
    """Metadata of a container that can hold no floats."""

    containers = ("geotiff",)

    def scaled(self, scale):
        return self

    def of_deviations(self):
        raise UnsupportedError("no place")


def test_a_container_without_a_place_for_it_is_refused_before_any_work(monkeypatch):
    monkeypatch.setattr(Parts, "run", lambda *_: pytest.fail("the network was asked"))
    image = replace(Image(noise(6, 5, 3)), metadata=Integers())
    with pytest.raises(UnsupportedError, match="no place"):
        Upscaler(network(), Options(scale=2, uncertainty=True)).run(image)
