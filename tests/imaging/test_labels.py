"""Class maps and bit fields are told from measurements, refused, and enlarged without a value that was not there."""

from __future__ import annotations

import io
import json

import numpy as np
import PIL.Image
import pytest
import tifffile

from rayscale.errors import UnsupportedError
from rayscale.imaging import Handling, Image, probe, read_image, write_image
from rayscale.imaging.labels import MOST, Census, named
from rayscale.imaging.scene import Scene
from rayscale.inference import Upscaler, upscale_scene
from rayscale.inference.packs import upscale_pack
from rayscale.models.systems import create_model
from rayscale.options import Options
from rayscale.resampling import nearest

NEAREST = Handling(labels="nearest")


def patches(*values: int, height: int = 96, width: int = 120, seed: int = 0) -> np.ndarray:
    """A map of classes: each pixel that of the nearest of some random points."""
    random = np.random.default_rng(seed)
    y, x = np.indices((height, width))[..., None]
    rows, columns = random.uniform(0, height, 60), random.uniform(0, width, 60)
    classes = random.choice(values, 60)
    classes[: len(values)] = values
    return classes[np.argmin((y - rows) ** 2 + (x - columns) ** 2, axis=2)]


def relief(height: int = 96, width: int = 120) -> np.ndarray:
    """Smooth, from 0 to 1."""
    y, x = np.indices((height, width))
    return 0.5 + 0.25 * np.sin(x / 13) + 0.25 * np.cos(y / 11 + x / 40)


def told(pixels: np.ndarray, few: int = 0, valid: np.ndarray | None = None) -> bool:
    census = Census(1, few=few)
    census.add(pixels[..., None], valid)
    return bool(census.reasons())


def bicubic(scale: float = 2, **options) -> Upscaler:
    return Upscaler(create_model("bicubic"), Options(scale=scale, **options), device="cpu")


@pytest.mark.parametrize(
    "values",
    [
        (4, 5, 8),  # Sentinel-2 scene classification
        (0, 17, 53, 1024),  # FreeSurfer
        (11, 21, 22, 23, 24, 31, 41, 42, 43, 52, 71, 81, 82, 90, 95),  # NLCD
        (21824, 21952, 22280, 23888, 54596, 55052),  # QA_PIXEL of Landsat
        (0, 1, 2, 4, 1001, 1002, 1003, 1035, 2001, 2035),
    ],
)
@pytest.mark.parametrize("dtype", [np.uint16, np.int32, np.float32])
def test_patches_of_few_values_far_apart_are_labels(values, dtype):
    assert told(patches(*values).astype(dtype))


def test_labels_of_a_volume_need_no_gaps():
    assert told(patches(0, 1, 2, 4), few=8)  # BraTS
    assert not told(patches(0, 1, 2, 4))


RANDOM = np.random.default_rng(1)
MEASURED = {
    "photograph": (255 * relief() + RANDOM.normal(0, 2, (96, 120))).clip(0, 255).astype(np.uint8),
    "almost constant": (1000 + 5 * relief()).astype(np.uint16),
    "constant": np.full((96, 120), 7),
    "two values": patches(0, 255),
    "four bits in eight": (np.round(15 * relief()) * 17).astype(np.uint8),
    "five greys rounded": np.array([0, 64, 128, 191, 255])[np.round(4 * relief()).astype(int)],
    "a drawing of four greys": patches(0, 85, 170, 255),
    "islands in a sea": np.maximum(0, 400 * (relief() - 0.8)).astype(np.int16),
    "a tower on a plain": np.where(RANDOM.random((96, 120)) > 0.999, 300, 12 * relief()).astype(np.int16),
    "counts": RANDOM.poisson(0.2, (96, 120)) * 10 + RANDOM.poisson(0.01, (96, 120)) * 57,
    "contours every ten metres": (np.round(12 * relief()) * 10).astype(np.int16),
    "hot pixels": np.where(RANDOM.random((96, 120)) > 0.99, 65535, 60 * relief()).astype(np.uint16),
    "fractions": patches(4, 5, 8) + 0.5,
    "few pixels": patches(4, 5, 8, height=5, width=8),
}  # fmt: skip


@pytest.mark.parametrize("name", MEASURED)
def test_measurements_are_no_labels(name):
    assert not told(MEASURED[name])


DOUBTFUL = {
    "classes from 1 on": patches(*range(1, 13)),
    "classes in tens": patches(10, 20, 30, 40, 50, 60),
    "three classes": patches(1, 5, 9),
    "a drawing of four greys": patches(0, 85, 170, 255),
}


@pytest.mark.parametrize("name", [*MEASURED, *DOUBTFUL])
def test_classes_without_gaps_are_doubted_and_no_measurement_is(name):
    census = Census(1)
    census.add((MEASURED | DOUBTFUL)[name][..., None])
    assert bool(census.doubts()) == (name in DOUBTFUL)
    assert not census.reasons()


@pytest.mark.parametrize("container", ["geotiff", "tiff", "nifti", "png"])
def test_doubtful_classes_are_noted_and_repeated_on_demand(container):
    values = patches(*range(1, 13)).astype(np.uint8)
    if container == "geotiff":
        data = tiff(values, extratags=[(33550, "d", 3, (10.0, 10.0, 0.0), True)])
    elif container == "png":
        data = write_image(Image(values[..., None], "png"))
    else:
        data = tiff(values) if container == "tiff" else nifti(values)
    image = read_image(data)
    assert image.container == container
    assert not image.labels
    (note,) = [note for note in image.notes if "12 different values, from 1 to 12" in note]
    assert "labels=nearest" in note
    repeated = read_image(data, handling=NEAREST)
    assert repeated.labels == (0,)
    assert not [note for note in repeated.notes if "different values" in note]
    larger = bicubic().upscale(repeated)
    assert set(np.unique(larger.pixels)) == set(range(1, 13))


def test_classes_of_a_scene_are_noted(tmp_path):
    path = tmp_path / "classes.tif"
    values = patches(*range(1, 13)).astype(np.uint8)
    path.write_bytes(tiff(values, extratags=[(33550, "d", 3, (10.0, 10.0, 0.0), True)]))
    with Scene(path) as scene:
        assert "band 1 of the GeoTIFF holds only 12 different values" in scene.notes[0]


def test_a_mask_in_grey_is_read_as_the_picture_it_may_be():
    """A PNG of few greys with gaps may be a drawing as well as the classes of a training set."""
    data = write_image(Image(patches(0, 7, 8, 33).astype(np.uint8)[..., None], "png"))
    assert "if they are classes" in read_image(data).notes[0]
    assert read_image(data, handling=NEAREST).labels == (0,)


def _with_palette(values: np.ndarray, **options: object) -> bytes:
    picture = PIL.Image.fromarray(values.astype(np.uint8))
    picture.putpalette(np.random.default_rng(1).integers(0, 256, 768, np.uint8).tobytes())
    assert picture.mode == "P"
    file = io.BytesIO()
    picture.save(file, "PNG", **options)
    return file.getvalue()


@pytest.mark.parametrize("values", [(0, 1, 2, 3, 4, 5), (0, 1, 15, 255)], ids=["close", "far"])
def test_classes_in_a_palette_are_noted_and_their_colours_repeated_on_demand(values):
    data = _with_palette(patches(*values))
    image = read_image(data)
    assert image.channels == 3
    doubt, lost = image.notes
    assert f"palette of the PNG holds only {len(values)} different values" in doubt
    assert "labels=nearest" in doubt
    assert "becomes RGB" in lost
    repeated = read_image(data, handling=NEAREST)
    assert repeated.labels == (0, 1, 2)
    assert repeated.notes == (lost,)
    colours = {tuple(colour) for colour in image.pixels.reshape(-1, 3).tolist()}
    larger = bicubic().upscale(repeated).pixels
    assert {tuple(colour) for colour in larger.reshape(-1, 3).tolist()} == colours


@pytest.mark.parametrize("bits", [2, 4])
def test_classes_in_a_palette_of_few_bits_are_noted(bits):
    doubt, _ = read_image(_with_palette(patches(0, 1, 2, 3), bits=bits)).notes
    assert "only 4 different values, from 0 to 3" in doubt


def test_a_photograph_with_a_palette_has_no_note():
    y, x = np.mgrid[:96, :96]
    waves = np.stack([np.sin(x / 9), np.cos(y / 7), np.sin((x + y) / 11)], 2)
    photo = PIL.Image.fromarray((127 + 120 * waves).astype(np.uint8)).quantize(256)
    file = io.BytesIO()
    photo.save(file, "PNG")
    image = read_image(file.getvalue(), handling=NEAREST)
    assert (image.labels, image.notes) == ((), ())


def test_missing_pixels_count_for_nothing():
    measured = (200 + 9 * relief()).astype(np.int16)
    valid = patches(0, 1, seed=3) > 0
    holes = np.where(valid, measured, -9999)
    assert not told(holes, few=8, valid=valid[..., None])


def test_the_parts_of_a_file_say_what_the_whole_says():
    pixels = np.stack([patches(4, 5, 8, 60), 255 * relief()], -1).astype(np.uint16)
    whole, parts = Census(2), Census(2)
    whole.add(pixels)
    for rows in (slice(0, 40), slice(40, 96)):
        parts.add(pixels[rows])
    assert whole.reasons() == parts.reasons()
    assert list(whole.reasons()) == [0]
    many = Census(1)
    many.add(np.arange(MOST + 1).reshape(1, -1, 1))
    assert many.settled


def test_names_of_the_field_say_what_a_band_is():
    yes = ("SCL", "QA_PIXEL", "QA60", "CLM", "BQA", "fmask", "pixel_qa", "Scene classification map", "dataMask", "cloud mask", "MSK_CLASSI",
           "LC_Type1", "Land Cover", "landcover", "QC_Day", "SR_QA_AEROSOL", "QA_RADSAT", "udm2", "labels", "qa")  # fmt: skip
    no = (None, "", "B04", "red", "Band 1", "CLP", "MSK_CLDPRB", "cloud probability", "ST_QA", "class A reflectance", "scale", "quality of life", "near infrared")  # fmt: skip
    assert [name for name in yes if not named(name)] == []
    assert [name for name in no if named(name)] == []


def test_no_file_of_the_field_is_taken_for_labels(shared_data):
    """But the one that is: cropland classes of the United States (CDL) in cog_int16.tif."""
    found, count = {}, 0
    for folder in ("domain", "benchmarks"):
        for path in sorted((shared_data / folder).rglob("*")):
            if not path.is_file():
                continue
            try:
                image = read_image(path.read_bytes())
                count += image.channels > 0
                doubts = [note for note in image.notes if "different values" in note]
                if doubts:
                    found[path.name] = doubts[0]
            except UnsupportedError as error:
                if "classes or bit fields" in str(error):
                    found[path.name] = str(error)
            except Exception:  # damaged on purpose, some of them
                continue
    assert list(found) == ["cog_int16.tif"]
    assert count > 150


def tiff(pixels: np.ndarray, **options) -> bytes:
    file = io.BytesIO()
    tifffile.imwrite(file, pixels, photometric="minisblack", metadata=None, **options)
    return file.getvalue()


def nifti(pixels: np.ndarray, intent: int = 0) -> bytes:
    nibabel = pytest.importorskip("nibabel", reason="needs the extra medical")
    volume = nibabel.Nifti1Image(pixels.T, np.eye(4))
    volume.header["intent_code"] = intent
    return volume.to_bytes()


LABELS = patches(0, 17, 53, 1024).astype(np.int16)
FILES = {
    "tiff": lambda: tiff(LABELS.astype(np.uint16)),
    "signed tiff": lambda: tiff(LABELS),
    "volume": lambda: nifti(np.stack([LABELS, LABELS[::-1]])),
    "volume of floats": lambda: nifti(LABELS.astype(np.float32)[None]),
    "volume with intent": lambda: nifti(np.arange(4000, dtype=np.int16).reshape(2, 40, 50), 1002),
}


@pytest.mark.parametrize("kind", FILES)
@pytest.mark.parametrize("scale", [2, 2.5])
def test_labels_are_refused_or_repeated(kind, scale):
    data = FILES[kind]()
    with pytest.raises(UnsupportedError, match=r"classes or bit fields.*labels=nearest"):
        read_image(data)
    image = read_image(data, handling=NEAREST)
    assert image.labels == (0,)
    assert probe(data).width == image.width
    result = bicubic(scale, consistency=True, uncertainty=True).run(image)
    assert result.uncertainty is not None
    assert not result.uncertainty.pixels.any()
    again = read_image(write_image(result.image), handling=NEAREST)
    expected = nearest(image.pixels, scale, (image.pixels.ndim - 3, image.pixels.ndim - 2))
    np.testing.assert_array_equal(again.pixels, expected)


def test_the_nearest_model_repeats_values_of_any_type():
    upscaler = Upscaler(create_model("nearest"), Options(scale=3), device="cpu")
    assert upscaler.handling == Options(scale=3, labels="nearest")
    assert bicubic().handling.labels == "refuse"
    random = np.random.default_rng(0)
    exact = random.integers(-(2**31), 2**31, (7, 9), np.int32)
    image = read_image(tiff(exact), handling=upscaler.handling)
    np.testing.assert_array_equal(upscaler.upscale(image).pixels[..., 0], np.kron(exact, np.ones((3, 3), int)))  # fmt: skip
    pair = [Image(random.integers(0, 256, (5, 6, 3), np.uint8)) for _ in range(2)]
    for one, larger in zip(pair, upscale_pack(upscaler, pair), strict=True):
        np.testing.assert_array_equal(larger.pixels, one.pixels.repeat(3, 0).repeat(3, 1))


def test_labels_are_never_written_with_loss():
    image = Image(LABELS.astype(np.uint8)[..., None], "jpeg", labels=(0,))
    with pytest.raises(UnsupportedError, match="JPEG would change"):
        bicubic().run(image)


def geotiff(path, pixels, fill=lambda dataset: None, **profile):
    pytest.importorskip("rasterio", reason="needs the extra geo")
    from tests.imaging.geotiff_objects import save

    return save(path, pixels, fill, **profile)


@pytest.mark.parametrize("scale", [2, 1.5])
def test_the_labels_of_a_mixed_scene_are_repeated_and_its_measurements_are_not(tmp_path, scale):
    """Whole and by windows; the network sees the three measured bands as if they were alone."""
    height, width = 150, 203
    red = 3000 * relief(height, width)
    measured = np.stack([red, red + 500, red * 2], -1).astype(np.uint16)
    classes = patches(4, 5, 6, height=height, width=width).astype(np.uint16)
    bands = np.dstack([measured[..., :1], classes, measured[..., 1:]])

    def name(dataset):
        dataset.set_band_description(2, "SCL")

    mixed = geotiff(tmp_path / "mixed.tif", bands, name, compress="deflate")
    alone = geotiff(tmp_path / "alone.tif", measured, compress="deflate")
    with pytest.raises(UnsupportedError, match=r"band 2 of the GeoTIFF.*its name is 'SCL'"):
        upscale_scene(bicubic(scale), mixed, tmp_path / "larger.tif")
    upscale_scene(bicubic(scale, labels="nearest"), mixed, tmp_path / "larger.tif", window=64)
    upscale_scene(bicubic(scale), alone, tmp_path / "measured.tif", window=64)
    made = read_image((tmp_path / "larger.tif").read_bytes(), handling=NEAREST)
    np.testing.assert_array_equal(made.pixels[..., 1], nearest(classes, scale))
    expected = read_image((tmp_path / "measured.tif").read_bytes()).pixels
    np.testing.assert_array_equal(made.pixels[..., [0, 2, 3]], expected)
    whole = bicubic(scale).upscale(read_image(mixed.read_bytes(), handling=NEAREST))
    np.testing.assert_array_equal(whole.pixels, made.pixels)


def test_a_palette_stays_and_no_overview_mixes_classes(tmp_path):
    colours = {value: (value * 20 % 256, 255 - value, 3, 255) for value in (1, 4, 9)}
    classes = patches(1, 4, 9, height=300, width=400).astype(np.uint8)
    path = geotiff(
        tmp_path / "map.tif", classes[..., None], lambda dataset: dataset.write_colormap(1, colours)
    )
    with pytest.raises(UnsupportedError, match="it has a palette"):
        read_image(path.read_bytes())
    import rasterio

    upscale_scene(bicubic(labels="nearest"), path, tmp_path / "windows.tif", window=64)
    made = bicubic().upscale(read_image(path.read_bytes(), handling=NEAREST))
    (tmp_path / "whole.tif").write_bytes(write_image(made))
    for name in ("windows", "whole"):
        with rasterio.open(tmp_path / f"{name}.tif") as result:
            np.testing.assert_array_equal(result.read(1), nearest(classes, 2))
            assert {v: c for v, c in result.colormap(1).items() if v in colours} == colours
            assert result.overviews(1)
        with rasterio.open(tmp_path / f"{name}.tif", overview_level=0) as overview:
            assert set(np.unique(overview.read(1))) == {1, 4, 9}


def test_labels_of_a_large_scene_are_told_by_windows(tmp_path, monkeypatch):
    from rayscale.imaging.scene import Scene

    monkeypatch.setattr("rayscale.imaging.scene._SCANNED_BYTES", 1)  # squares of 64
    classes = patches(7, 21, 90, 300, height=200, width=300).astype(np.int16)
    path = geotiff(
        tmp_path / "map.tif", np.dstack([classes, 900 * relief(200, 300)]).astype("int16")
    )
    with pytest.raises(UnsupportedError, match="only 4 different values, from 7 to 300"):
        Scene(path)
    with Scene(path, handling=NEAREST) as scene:
        assert scene.labels == (0,)
    reads = []
    monkeypatch.setattr(Scene, "_read", lambda *a, read=Scene._read: reads.append(1) or read(*a))
    with Scene(
        geotiff(tmp_path / "red.tif", (9000 * relief(200, 300)[..., None]).astype("uint16"))
    ):
        assert len(reads) < 3


def test_the_command_line_has_both_ways_out(tmp_path, monkeypatch, capsys):
    import sys

    from rayscale.cli import main

    (tmp_path / "map.tif").write_bytes(tiff(LABELS.astype(np.uint16)))

    def run(*options):
        command = ["rayscale", "upscale", tmp_path / "map.tif", tmp_path / "larger.tif", *options]
        monkeypatch.setattr(sys, "argv", [str(part) for part in command])
        with pytest.raises(SystemExit) as exit_:
            main()
        return int(exit_.value.code or 0), capsys.readouterr().err

    code, err = run("-m", "bicubic")
    assert code == 1
    assert "labels=nearest" in err
    for options in (("-m", "bicubic", "--labels", "nearest"), ("-m", "nearest")):
        code, err = run(*options)
        assert code == 0, err
        larger = tifffile.imread(tmp_path / "larger.tif")
        np.testing.assert_array_equal(larger, np.kron(LABELS, np.ones((2, 2), int)))
        with tifffile.TiffFile(tmp_path / "larger.tif") as file:
            made = json.loads(file.pages[0].description.removeprefix("rayscale: "))
        assert "nearest" in (made["model"], made.get("labels"))
