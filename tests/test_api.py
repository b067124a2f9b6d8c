"""The public surface: frozen, free to import, and each name does what the command of its name does."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch

import rayscale
from rayscale.errors import ConfigError, InputError, UnsupportedError
from rayscale.imaging import CONTAINERS
from rayscale.imaging.image import CONTAINER_NAMES
from rayscale.resampling import enlarge

SURFACE = {
    "AsyncClient",
    "Client",
    "Image",
    "Model",
    "Options",
    "RayscaleError",
    "evaluate",
    "list_models",
    "open_model",
    "prepare_dataset",
    "read_image",
    "train",
    "upscale",
    "upscale_bucket",
    "write_image",
}


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    pixels = np.random.default_rng(0).integers(0, 256, (21, 17, 3), np.uint8)
    PIL.Image.fromarray(pixels).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


def test_the_surface_is_what_was_promised() -> None:
    assert set(rayscale.__all__) == SURFACE
    assert set(dir(rayscale)) == SURFACE | {"__version__"}
    for name in SURFACE:
        assert getattr(rayscale, name).__doc__, name
    with pytest.raises(AttributeError, match="no attribute 'upscal'"):
        rayscale.upscal  # noqa: B018


def test_importing_it_imports_nothing_heavy() -> None:
    code = "import sys, rayscale; print(sorted({'torch', 'numpy', 'ray', 'mlflow', 'boto3'} & set(sys.modules)))"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout == "[]\n"


def test_a_file_into_another_format(photo: Path, tmp_path: Path) -> None:
    written = rayscale.upscale(photo, tmp_path / "big.tif", model="bicubic", scale=3)
    assert (written.width, written.height) == (51, 63)
    image = rayscale.read_image(tmp_path / "big.tif")
    np.testing.assert_array_equal(image.pixels, enlarge(rayscale.read_image(photo).pixels, 3))
    assert image.container == "tiff"


def test_a_model_takes_what_people_have(photo: Path) -> None:
    model = rayscale.open_model("bicubic", scale=2)
    assert (model.name, model.digest, model.scale) == ("bicubic", "built-in:bicubic", 2)
    pixels = rayscale.read_image(photo).pixels
    expected = enlarge(pixels, 2)
    np.testing.assert_array_equal(model.upscale(pixels), expected)
    np.testing.assert_array_equal(model.upscale(pixels[..., 0]), expected[..., 0])
    np.testing.assert_array_equal(model.upscale(photo).pixels, expected)
    np.testing.assert_array_equal(model.upscale(rayscale.read_image(photo)).pixels, expected)
    picture = model.upscale(PIL.Image.open(photo))
    np.testing.assert_array_equal(np.asarray(picture), expected)
    x = torch.from_numpy(pixels).permute(2, 0, 1) / 255
    y = model.upscale(x)
    assert y.shape == (3, 42, 34)
    assert np.abs(y.permute(1, 2, 0).numpy() * 255 - expected).max() <= 0.51  # of rounding
    assert model.upscale(x[None].double()).dtype == torch.float64


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA", "I;16"])
def test_pictures_keep_their_mode(photo: Path, mode: str) -> None:
    picture = PIL.Image.open(photo).convert(mode)
    larger = rayscale.open_model("bicubic", scale=2).upscale(picture)
    assert (larger.mode, larger.size) == (mode, (34, 42))


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({}, "dict"),
        (torch.zeros(3, 4, 4, dtype=torch.uint8), "uint8"),
        (torch.zeros(4, 4), r"\(4, 4\)"),
        (torch.zeros(3, 0, 4), r"\(3, 0, 4\)"),
        (torch.zeros(3, 4, 4).to_sparse(), "torch.sparse_coo"),
        (torch.zeros(3, 4, 4, device="meta"), "on meta"),
        (torch.full((3, 4, 4), 200.0), "200 to 200; scale or clamp"),
        (torch.full((3, 4, 4), torch.nan), "nan"),
        (np.zeros((4, 4, 3)), "float64; give uint8"),
        (np.zeros((4, 4, 0), np.uint8), r"\(4, 4, 0\)"),
        (np.zeros((0, 4), np.uint8), r"\(0, 4\)"),
        (np.ma.masked_array(np.zeros((4, 4), np.uint8)), "mask"),
        (PIL.Image.new("CMYK", (4, 4)), "CMYK"),
    ],
)
def test_other_kinds_are_named(given: object, named: str) -> None:
    with pytest.raises(InputError, match=named):
        rayscale.open_model("bicubic", scale=2).upscale(given)


def test_a_picture_keeps_its_profile_and_its_orientation(photo: Path) -> None:
    picture = PIL.Image.open(photo)
    picture.info["icc_profile"] = b"a profile"
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    picture.info["exif"] = exif.tobytes()
    larger = rayscale.open_model("bicubic", scale=2).upscale(picture)
    assert (larger.info["icc_profile"], larger.getexif()[0x0112]) == (b"a profile", 6)


def test_a_tensor_has_the_channels_of_the_model() -> None:
    model = rayscale.open_model("edsr-baseline", scale=2)
    with pytest.raises(InputError, match="the image has 4 channels"):
        model.upscale(torch.zeros(4, 8, 8))


def test_options_for_stored_values_are_not_ignored() -> None:
    """Levels and consistency act on arrays and pictures; a tensor, which has no stored values, is refused."""
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
    model = rayscale.open_model("edsr-baseline", scale=2)
    other = rayscale.open_model("edsr-baseline", scale=2, levels=(0, 1000))
    differs = other.upscale(pixels)
    assert (differs != model.upscale(pixels)).any()
    np.testing.assert_array_equal(other.upscale(rayscale.Image(pixels)).pixels, differs)
    np.testing.assert_array_equal(np.asarray(other.upscale(PIL.Image.fromarray(pixels))), differs)
    with pytest.raises(ConfigError, match="levels is not possible here: a tensor"):
        other.upscale(torch.zeros(3, 8, 8))
    with pytest.raises(ConfigError, match="consistency is not possible here: a tensor"):
        rayscale.open_model("bicubic", scale=2, consistency=True).upscale(torch.zeros(3, 8, 8))
    floats = pixels.astype(np.float32) / 255
    larger = rayscale.open_model("bicubic", scale=2, levels=(0, 1)).upscale(floats)
    assert larger.dtype == np.float32
    assert np.abs(larger.clip(0, 1) * 255 - enlarge(pixels, 2)).max() <= 0.51  # of rounding
    swapped = pixels.astype(">u2")
    np.testing.assert_array_equal(model.upscale(swapped), model.upscale(pixels.astype(np.uint16)))


@pytest.mark.slow
def test_the_uncertainty_has_a_way_out(photo: Path, tmp_path: Path) -> None:
    """As in the file that the command line writes beside the output, for all kinds of images."""
    asked = {"scale": 2, "uncertainty": True, "precision": "float32"}
    rayscale.upscale(photo, tmp_path / "big.png", model="edsr-baseline", **asked)
    written = rayscale.read_image(tmp_path / "big.uncertainty.tif", levels=(0, 255)).pixels
    assert written.max() > 1
    model = rayscale.open_model("edsr-baseline", **asked)
    image = rayscale.read_image(photo)
    larger, residual, uncertainty = model.run(photo)
    assert (residual, uncertainty.container) == (None, "tiff")
    plain = rayscale.open_model("edsr-baseline", scale=2, ensemble=True, precision="float32")
    np.testing.assert_array_equal(larger.pixels, plain.upscale(image.pixels))
    np.testing.assert_array_equal(uncertainty.pixels, written)
    np.testing.assert_array_equal(model.run(image).uncertainty.pixels, written)
    np.testing.assert_array_equal(model.run(image.pixels).uncertainty, written)
    np.testing.assert_array_equal(model.run(PIL.Image.open(photo)).uncertainty, written)
    x = torch.from_numpy(image.pixels).permute(2, 0, 1) / 255
    spread = model.run(x[None]).uncertainty[0]
    assert spread.shape == model.run(x).uncertainty.shape == (3, 42, 34)
    assert np.abs(spread.permute(1, 2, 0).numpy() * 255 - written).max() < 0.01
    grey = rayscale.open_model("aplus", scale=2, uncertainty=True, consistency=True)
    flat = grey.run(image.pixels[..., 0])
    assert flat.image.shape == flat.uncertainty.shape == (42, 34)
    assert set(flat.residual) == {"max", "rms"}
    for given in (photo, image, image.pixels, x, PIL.Image.open(photo)):
        with pytest.raises(ConfigError, match=r"upscale gives the image alone; Model\.run"):
            model.upscale(given)


def test_nothing_takes_the_place_of_its_source(photo: Path) -> None:
    before = photo.read_bytes()
    with pytest.raises(ConfigError, match="input and output are the same file"):
        rayscale.upscale(photo, photo, model="bicubic")
    assert photo.read_bytes() == before


@pytest.mark.parametrize("address", ["s3://bucket/photo.png", "", 5])
def test_an_address_is_not_a_path(photo: Path, tmp_path: Path, address: str, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.chdir(tmp_path)
    image = rayscale.read_image(photo)
    named = "rayscale.upscale_bucket" if address else "path of a file"
    named = named if isinstance(address, str) else "path of a file, not 5"
    for call in (
        lambda: rayscale.upscale(photo, address, model="bicubic"),
        lambda: rayscale.upscale(address, "x.png", model="bicubic"),
        lambda: rayscale.write_image(image, address),
        lambda: rayscale.read_image(address),
    ):
        with pytest.raises(ConfigError, match=named):
            call()
    assert [path.name for path in tmp_path.iterdir()] == ["photo.png"]


def test_an_option_without_effect_is_an_error(photo: Path) -> None:
    with pytest.raises(ConfigError, match="'scale' is not an option; there are"):
        rayscale.read_image(photo, scale=3)
    with pytest.raises(ConfigError, match="'scal' is not an option; there are scale,"):
        rayscale.open_model("bicubic", scal=3)
    with pytest.raises(ConfigError, match=r"give scale to rayscale\.open_model"):
        rayscale.evaluate(rayscale.open_model("bicubic", scale=2), "Set5", scale=3)
    with pytest.raises(InputError, match="cannot write ndarray"):
        rayscale.write_image(np.zeros((3, 3, 3), np.uint8), "x.png")  # type: ignore[arg-type]


@pytest.mark.parametrize("odd", [None, 5, [], {}, b"x", object()])
def test_a_value_of_another_kind_is_named(photo: Path, tmp_path: Path, odd: Any) -> None:
    pixels = np.zeros((4, 4, 3), np.uint8)
    named = "expected the name of a model, such as 'edsr-baseline', not "
    calls: dict[Callable[[], Any], str] = {
        lambda: rayscale.open_model(odd): named,
        lambda: rayscale.open_model(
            "bicubic", device=odd
        ): "expected auto, cpu, cuda or cuda:N, not ",
        lambda: rayscale.evaluate(
            odd, tmp_path
        ): "expected a model of rayscale.open_model, or its name, not ",
        lambda: rayscale.evaluate(
            odd, tmp_path, scale=2
        ): "expected a model of rayscale.open_model",
        lambda: rayscale.evaluate("bicubic", tmp_path, protocol=odd): "unknown protocol ",
        lambda: rayscale.upscale_bucket(tmp_path, tmp_path / "out", model=odd): named,
        lambda: rayscale.upscale_bucket(tmp_path, tmp_path / "out", model="bicubic", options=odd): (
            "expected rayscale.Options, such as rayscale.Options(scale=2), not "
        ),
        lambda: rayscale.Image(odd): "pixels must be a numpy array, not ",
        lambda: rayscale.Image(pixels, odd): "container ",
        lambda: rayscale.train(odd): "expected rayscale.training.config.TrainConfig, not ",
    }
    if odd is not None:
        calls |= {
            lambda: rayscale.upscale(photo, tmp_path / "x.png", model=odd): named,
            lambda: rayscale.open_model(
                "edsr-baseline", weights=odd
            ): "expected the path of a file",
            lambda: rayscale.Image(pixels, alpha=odd): "alpha must be a numpy array, not ",
            lambda: rayscale.prepare_dataset(
                photo.parent, tmp_path / "x", odd
            ): "expected rayscale.data.P",
            lambda: rayscale.Client(odd or 5): "expected the address of the service",
            lambda: rayscale.upscale_bucket(
                "a", "b", model="bicubic", actors=odd or "1"
            ): "actors must be a",
        }
    for call, told in calls.items():
        if odd == 5 and "actors" in told:
            continue
        with pytest.raises(rayscale.RayscaleError) as error:
            call()
        assert str(error.value).startswith(told)


def test_an_image_is_of_a_container_that_is_written() -> None:
    assert tuple(CONTAINERS) == CONTAINER_NAMES
    with pytest.raises(UnsupportedError, match="container 'gif' is not one of png, jpeg, tiff"):
        rayscale.Image(np.zeros((4, 4, 3), np.uint8), "gif")


@pytest.mark.parametrize("name", ["x.png", "x.jpg", "x.dcm"])
def test_a_name_that_contradicts_the_format_is_refused(photo: Path, name: str) -> None:
    target = photo.with_name(name)
    told = (
        rf"{name} ends in \{target.suffix}, but the format asked for is tiff; let it end in \.tif"
    )
    with pytest.raises(ConfigError, match=told):
        rayscale.upscale(photo, target, model="bicubic", format="tiff")
    assert not target.exists()
    written = rayscale.upscale(photo, photo.with_name("x.TIFF"), model="bicubic", format="tiff")
    assert not written.notes
    rayscale.upscale(photo, photo.with_name("nameless"), model="bicubic", format="tiff")
    assert rayscale.read_image(photo.with_name("nameless")).container == "tiff"


def test_options_are_checked_at_once() -> None:
    with pytest.raises(ConfigError, match="tile must be at least 16, not 3"):
        rayscale.open_model("bicubic", tile=3)
    with pytest.raises(ConfigError, match="labels must be one of refuse, nearest"):
        rayscale.read_image(b"", labels="linear")


def test_writing_goes_by_the_ending(photo: Path, tmp_path: Path) -> None:
    image = rayscale.read_image(photo)
    rayscale.write_image(image, tmp_path / "copy.webp")
    assert rayscale.read_image(tmp_path / "copy.webp").container == "webp"
    with pytest.raises(InputError, match=r"copy\.xyz: the ending names no format"):
        rayscale.write_image(image, tmp_path / "copy.xyz")


def test_scores_are_those_of_the_command(tmp_path: Path) -> None:
    hr = np.random.default_rng(1).integers(0, 256, (24, 24, 3), np.uint8)
    for folder, pixels in (("HR", hr), ("LR", hr[::2, ::2])):
        (tmp_path / folder).mkdir()
        PIL.Image.fromarray(pixels).save(tmp_path / folder / "a.png")
    report = rayscale.evaluate("bicubic", tmp_path, scale=2)
    assert (report.protocol, len(report.images)) == ("edsr-paper-y", 1)
    with pytest.raises(ConfigError, match="unknown protocol 'y'"):
        rayscale.evaluate("bicubic", tmp_path, protocol="y")
    for unscored in ({"uncertainty": True}, {"format": "png"}):
        with pytest.raises(ConfigError, match="is not possible here: scores are of the images"):
            rayscale.evaluate("bicubic", tmp_path, scale=2, **unscored)


def test_models_have_names_and_cards() -> None:
    models = {model["name"]: model for model in rayscale.list_models()}
    assert {"bicubic", "edsr-baseline-x2"} <= models.keys()
    assert models["edsr-baseline-x2"]["figures"]


def test_a_scene_heeds_the_format_as_at_the_other_doors(tmp_path: Path) -> None:
    pytest.importorskip("rasterio", reason="needs the extra geo")
    from tests.imaging.geotiff_objects import save

    pixels = np.random.default_rng(0).integers(0, 256, (24, 20, 3), np.uint8)
    scene, large = save(tmp_path / "scene.tif", pixels), tmp_path / "large.tif"
    with pytest.raises(InputError, match="GEOTIFF cannot be written as WEBP"):
        rayscale.upscale(scene, tmp_path / "large.webp", model="bicubic", format="webp")
    assert not large.with_suffix(".webp").exists()
    rayscale.upscale(scene, large, model="bicubic", format="tiff")
    model = rayscale.open_model("bicubic", format="tiff")
    larger = model.upscale(scene)
    assert larger.container == "geotiff"
    np.testing.assert_array_equal(larger.pixels, rayscale.read_image(large).pixels)
