"""A scene by windows against the same scene as one image: pixel for pixel, tag for tag."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from rayscale.errors import ConfigError, InputError, StorageError, TooLargeError
from rayscale.imaging import Provenance, read_image, write_image
from rayscale.imaging.scene import Scene, SceneWriter
from rayscale.inference import Upscaler, upscale_scene, upscale_window, windows_of
from rayscale.inference.backprojection import residual
from rayscale.inference.parts import Parts
from rayscale.inference.upscaler import UNCERTAINTY
from rayscale.models.network import SuperResolver
from rayscale.models.systems import create_model
from rayscale.options import Options
from rayscale.settings import get_settings

rasterio = pytest.importorskip("rasterio", reason="needs the extra geo")
from rasterio.control import GroundControlPoint  # noqa: E402
from rasterio.enums import ColorInterp  # noqa: E402
from tests.imaging.geotiff_objects import save  # noqa: E402

PROVENANCE = Provenance("edsr/3", "0f" * 32, {"scale": 2})
HEIGHT, WIDTH = 157, 203


def relief(bands: int, dtype: str = "uint16") -> np.ndarray:
    """Noise over slopes, ``(H, W, C)``."""
    random = np.random.default_rng(3)
    y, x = np.indices((HEIGHT, WIDTH))[..., None]
    slopes = 60 + 40 * np.sin(x / 9 + np.arange(bands)) + y / 4
    return (slopes + random.normal(0, 12, (HEIGHT, WIDTH, bands))).astype(dtype)


def blob(radius: int = 30) -> np.ndarray:
    """True in some places small and large, one of them larger than a window."""
    random = np.random.default_rng(4)
    y, x = np.indices((HEIGHT, WIDTH))
    holes = random.random((HEIGHT, WIDTH)) > 0.995
    return holes | ((y - 60) ** 2 + (x - 70) ** 2 < radius**2) | (x > 150)


def picture(path: Path) -> Path:
    return save(path, relief(3, "uint8"), photometric="rgb", compress="lzw", predictor=2)


def sensor(path: Path) -> Path:
    def fill(dataset):
        dataset.update_tags(SENSOR="MSI", TIFFTAG_XRESOLUTION="72", TIFFTAG_YRESOLUTION="72.5")
        dataset.update_tags(ns="ORBIT", track="108")
        dataset.update_tags(2, WAVELENGTH="492", STATISTICS_MAXIMUM="9000")
        dataset.set_band_description(2, "B02")
        dataset.set_band_unit(1, "reflectance")
        dataset.scales, dataset.offsets = (0.0001, 0.5, 1), (-0.1, 0.0, 0)

    return save(path, relief(3), fill, compress="deflate", tiled=True, blockxsize=64, blockysize=48)  # fmt: skip


def terrain(path: Path) -> Path:
    pixels = relief(2, "int16")
    pixels[blob()] = -9999
    pixels[40:, 100:, 1] = -9999  # each band has holes of its own
    return save(path, pixels, nodata=-9999, compress="zstd")


def heat(path: Path) -> Path:
    pixels = relief(1, "float32")
    pixels[blob()] = np.nan

    def fill(dataset):
        points = [GroundControlPoint(r, c, c, -r, 0) for r in (0, 157) for c in (0, 203)]
        dataset.gcps = (points, rasterio.crs.CRS.from_epsg(4326))

    return save(path, pixels, fill, crs=None, transform=None, compress="deflate", predictor=3)


def cut_out(path: Path) -> Path:
    def colours(dataset):
        dataset.colorinterp = [ColorInterp.red, ColorInterp.green, ColorInterp.blue, ColorInterp.alpha]  # fmt: skip

    alpha = np.where(blob(), 0, 255).astype(np.uint8)
    return save(path, np.dstack([relief(3, "uint8"), alpha]), colours, photometric="rgb", alpha="yes")  # fmt: skip


def feathered(path: Path) -> Path:
    """Floating values, and an alpha from 0 to 1 whose edge is soft."""
    y, x = np.indices((HEIGHT, WIDTH))
    alpha = np.clip((np.hypot(y - 60, x - 70) - 25) / 40, 0, 1)

    def colours(dataset):
        dataset.colorinterp = [ColorInterp.gray, ColorInterp.alpha]

    return save(path, np.dstack([relief(1), alpha]).astype("float32"), colours, alpha="yes")


def masked(path: Path) -> Path:
    mask = np.where(blob(), 0, 255).astype(np.uint8)
    return save(path, relief(1), lambda dataset: dataset.write_mask(mask))


def spectrum(path: Path) -> Path:
    return save(path, relief(13), interleave="band")


def twelve_bits(path: Path) -> Path:
    return save(path, relief(1), nbits=12)


SCENES = (picture, sensor, terrain, heat, cut_out, feathered, masked, spectrum)


def whole(upscaler: Upscaler, source: Path, target: Path) -> Path:
    result = upscaler.run(read_image(source.read_bytes()))
    target.write_bytes(write_image(result.image, PROVENANCE.with_measures(**result.measures)))
    return target


def bicubic(scale: float, **options) -> Upscaler:
    return Upscaler(create_model("bicubic", scale=int(scale)), Options(scale=scale, **options))


@pytest.mark.parametrize("scale", [2, 2.5])
@pytest.mark.parametrize("make", SCENES)
def test_windows_make_the_file_that_the_whole_image_makes(tmp_path, make, scale):
    source, upscaler = make(tmp_path / "scene.tif"), bicubic(scale)
    upscale_scene(upscaler, source, tmp_path / "windows.tif", PROVENANCE, window=64)
    expected = whole(upscaler, source, tmp_path / "whole.tif")
    assert (tmp_path / "windows.tif").read_bytes() == expected.read_bytes()


@pytest.mark.parametrize("make", [terrain, picture])
def test_back_projection_is_that_of_the_whole_and_so_is_its_residual(tmp_path, make):
    source, upscaler = make(tmp_path / "scene.tif"), bicubic(2.5, consistency=True)
    made = upscale_scene(upscaler, source, tmp_path / "windows.tif", PROVENANCE, window=64)
    expected = upscaler.run(read_image(source.read_bytes()))
    assert made.residual.values == expected.residual.values > 0
    assert made.residual.describe() == expected.residual.describe()
    whole(upscaler, source, tmp_path / "whole.tif")
    assert (tmp_path / "windows.tif").read_bytes() == (tmp_path / "whole.tif").read_bytes()


def test_the_residual_is_that_of_the_file_whatever_compressed_its_source(tmp_path):
    source = save(tmp_path / "s.tif", relief(3, "uint8"), photometric="ycbcr", compress="jpeg")
    upscaler = bicubic(2, consistency=True)
    made = upscale_scene(upscaler, source, tmp_path / "larger.tif", PROVENANCE, window=64)
    sr, lr = (read_image(path.read_bytes()).pixels for path in (tmp_path / "larger.tif", source))
    assert residual(sr, lr, 2).describe() == made.residual.describe()
    whole(upscaler, source, tmp_path / "whole.tif")
    assert (tmp_path / "larger.tif").read_bytes() == (tmp_path / "whole.tif").read_bytes()


@pytest.mark.parametrize("make", SCENES)
def test_uncertainty_by_windows_is_that_of_the_whole(tmp_path, make):
    source = make(tmp_path / "scene.tif")
    upscaler = Upscaler(gathering(), Options(scale=2, precision="float32", uncertainty=True))
    beside = tmp_path / "windows.uncertainty.tif"
    upscale_scene(
        upscaler, source, tmp_path / "windows.tif", PROVENANCE, uncertainty=beside, window=64
    )
    expected = upscaler.run(read_image(source.read_bytes()))
    (tmp_path / "whole.tif").write_bytes(write_image(expected.image, PROVENANCE))
    assert (tmp_path / "windows.tif").read_bytes() == (tmp_path / "whole.tif").read_bytes()
    made = PROVENANCE.with_measures(content=UNCERTAINTY)
    whole_beside = read_image(write_image(expected.uncertainty, made))
    got = read_image(beside.read_bytes())
    assert got.pixels.dtype == np.float32
    assert np.nanmax(got.pixels) > 0
    np.testing.assert_array_equal(got.pixels, whole_beside.pixels)
    assert got.metadata.bands == whole_beside.metadata.bands
    assert got.metadata.transform == whole_beside.metadata.transform
    assert got.metadata.tags[""]["RAYSCALE"] == whole_beside.metadata.tags[""]["RAYSCALE"]


def gathering() -> SuperResolver:
    """Looks to one side only, so that the views of an ensemble differ; every sum is of two numbers, so that none rounds
    otherwise in another shape."""

    class Gather(SuperResolver):
        any_channels = True

        def resolve_scale(self, scale):
            return 2

        def halo(self, scale):
            return 1

        def enlarge(self, x, scale):
            left = torch.roll(x, 1, dims=3)
            left[..., 0] = x[..., 0]
            return (0.75 * x + 0.25 * left).repeat_interleave(2, 2).repeat_interleave(2, 3)

    return Gather(create_model("bicubic", scale=2).spec)


@pytest.mark.parametrize("wanted", [True, False])
def test_uncertainty_is_wanted_by_both_or_none(tmp_path, wanted):
    upscaler = bicubic(2, uncertainty=wanted)
    beside = None if wanted else tmp_path / "beside.tif"
    with pytest.raises(ConfigError, match="give both or neither"):
        upscale_scene(
            upscaler, picture(tmp_path / "scene.tif"), tmp_path / "large.tif", uncertainty=beside
        )


def test_pixels_of_twelve_bits_stay_so(tmp_path):
    """Without comparing bytes: GDAL leaves what pads such a tile to chance."""
    source, upscaler = twelve_bits(tmp_path / "scene.tif"), bicubic(2)
    upscale_scene(upscaler, source, tmp_path / "windows.tif", PROVENANCE, window=64)
    expected = read_image(whole(upscaler, source, tmp_path / "whole.tif").read_bytes())
    got = read_image((tmp_path / "windows.tif").read_bytes())
    np.testing.assert_array_equal(got.pixels, expected.pixels)
    assert got.metadata.bits == 12
    assert got.levels == expected.levels


def test_measured_pixels_of_twelve_bits_never_become_nodata(tmp_path):
    pixels = np.where(relief(1) > 100, 4094, 0).astype(np.uint16)
    pixels[20:30] = 4095
    source, upscaler = save(tmp_path / "scene.tif", pixels, nbits=12, nodata=4095), bicubic(2)
    upscale_scene(upscaler, source, tmp_path / "windows.tif", PROVENANCE, window=64)
    whole(upscaler, source, tmp_path / "whole.tif")
    empty = np.kron(pixels[:, :, 0] == 4095, np.ones((2, 2), bool))
    for name in ("windows.tif", "whole.tif"):
        with rasterio.open(tmp_path / name) as result:
            np.testing.assert_array_equal(result.read(1) == 4095, empty)


@pytest.mark.parametrize("kind", ["fill", "noise"])
def test_extreme_values_are_refused_whole_and_by_windows(tmp_path, kind):
    """Every measured value came out as 0, others as infinity."""
    largest = np.finfo(np.float32).max
    pixels = relief(1, "float32")
    if kind == "fill":
        pixels[70:75] = -largest
    else:
        pixels = np.where(pixels > np.median(pixels), largest, -largest)
    source, upscaler = save(tmp_path / "scene.tif", pixels), bicubic(2)
    with pytest.raises(InputError, match=r"3.4.*e\+38.*nodata"):
        whole(upscaler, source, tmp_path / "whole.tif")
    with pytest.raises(InputError, match=r"3.4.*e\+38.*nodata"):
        upscale_scene(upscaler, source, tmp_path / "windows.tif", PROVENANCE, window=64)
    assert not (tmp_path / "windows.tif").exists()


def small_network(scale: int, channels: int) -> SuperResolver:
    """Two blocks whose weights carry the signal through every layer: a halo of 12 pixels."""
    torch.manual_seed(1)
    model = create_model("edsr-baseline", scale=scale, channels=channels, filters=8, blocks=2)
    for parameter in model.parameters():
        if parameter.ndim == 4:
            torch.nn.init.kaiming_normal_(parameter, a=1)
    return model


@pytest.mark.parametrize(
    ("make", "channels", "ensemble"),
    [(spectrum, 1, False), (picture, 3, True), (heat, 1, False), (terrain, 2, False)],
)
def test_networks_leave_no_seam(tmp_path, make, channels, ensemble):
    """Up to the rounding of float32: convolutions of small shapes may add in another order."""
    source = make(tmp_path / "scene.tif")
    upscaler = Upscaler(
        small_network(2, channels),
        Options(scale=2, precision="float32", ensemble=ensemble, tile=4096),
    )
    upscale_scene(upscaler, source, tmp_path / "windows.tif", window=64)
    expected = upscaler.upscale(read_image(source.read_bytes())).pixels
    got = read_image((tmp_path / "windows.tif").read_bytes()).pixels
    if got.dtype.kind == "f":
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-3)
    else:
        apart = np.abs(got.astype(int) - expected.astype(int))
        assert apart.max() <= 1
        assert (apart > 0).mean() < 0.02


def test_any_order_of_windows_makes_the_same_scene(tmp_path):
    source, upscaler = terrain(tmp_path / "scene.tif"), bicubic(2.5)
    upscale_scene(upscaler, source, tmp_path / "rows.tif", PROVENANCE)
    with Scene(source) as scene:
        levels, windows = scene.levels, windows_of(scene, upscaler, 64)
        assert len(windows) > 4
        with SceneWriter(tmp_path / "any.tif", scene, 2.5) as writer:
            for window in reversed(windows):
                with Scene(source, levels) as mine:  # as another process would
                    writer.put(upscale_window(mine, upscaler, window).part)
            writer.finish(PROVENANCE)
    assert (tmp_path / "any.tif").read_bytes() == (tmp_path / "rows.tif").read_bytes()


def test_windows_without_a_measurement_ask_no_network(tmp_path, monkeypatch):
    pixels = np.full((128, 192, 1), 5, np.int16)
    pixels[:, 64:] = -1
    source, upscaler = save(tmp_path / "scene.tif", pixels, nodata=-1), bicubic(2)
    asked = []
    run = Parts.run
    monkeypatch.setattr(
        Parts, "run", lambda self, size, *more: asked.append(size) or run(self, size, *more)
    )
    upscale_scene(upscaler, source, tmp_path / "large.tif", window=64)
    assert len(asked) == 2


def test_windows_begin_on_the_grain_and_fit_into_memory(tmp_path):
    with Scene(picture(tmp_path / "scene.tif")) as scene:
        for window in windows_of(scene, bicubic(2.25), 64):
            assert window.rows.start % 4 == window.columns.low % 4 == 0
        assert len(windows_of(scene, bicubic(2))) == 1
        scene.height, scene.width = 10_000, 10_000
        sides = {}
        for scale in (2, 4):
            sides[scale] = max(w.rows.stop - w.rows.start for w in windows_of(scene, bicubic(scale)))  # fmt: skip
    assert 1024 < sides[2] <= 2048
    assert sides[4] <= sides[2] / 2 + 64


def test_progress_is_told_and_an_interrupt_leaves_nothing(tmp_path):
    source, upscaler, told = picture(tmp_path / "scene.tif"), bicubic(2), []
    target = tmp_path / "new" / "large.tif"
    size = upscale_scene(
        upscaler, source, target, window=64, progress=lambda *counts: told.append(counts)
    )
    assert (size.width, size.height, size.residual) == (2 * WIDTH, 2 * HEIGHT, None)
    assert told == [(number, told[-1][1]) for number in range(len(told))]
    before = target.read_bytes()

    def interrupt(done, _):
        if done == 2:
            assert len(list(target.parent.iterdir())) == 2
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        upscale_scene(upscaler, source, target, window=64, progress=interrupt)
    assert list(target.parent.iterdir()) == [target]
    assert target.read_bytes() == before


def test_limits_name_themselves(tmp_path, monkeypatch):
    source, upscaler = picture(tmp_path / "scene.tif"), bicubic(2)
    target = tmp_path / "out" / "large.tif"
    monkeypatch.setattr(get_settings(), "max_scene_pixels", 4 * HEIGHT * WIDTH - 1)
    with pytest.raises(TooLargeError, match=r"203 x 157.*406 x 314.*RAYSCALE_MAX_SCENE_PIXELS"):
        upscale_scene(upscaler, source, target)
    monkeypatch.setattr(get_settings(), "max_scene_pixels", HEIGHT * WIDTH - 1)
    with pytest.raises(TooLargeError, match="RAYSCALE_MAX_SCENE_PIXELS"):
        upscale_scene(upscaler, source, target)
    monkeypatch.undo()
    # Images in memory have limits of their own, which do not bind a scene.
    monkeypatch.setattr(get_settings(), "max_input_pixels", HEIGHT * WIDTH - 1)
    monkeypatch.setattr(get_settings(), "max_output_pixels", 200 * 200)
    upscale_scene(upscaler, source, target, window=64)
    target.unlink()
    free = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: free)
    with pytest.raises(StorageError, match=r"GiB of disk.*has 0\.00 GiB left"):
        upscale_scene(upscaler, source, target)
    assert not list(target.parent.iterdir())


MEMORY = """
import sys
from pathlib import Path
from rayscale.imaging.containers import gdal
from rayscale.inference import Options, Upscaler, upscale_scene
from rayscale.models.systems import create_model

gdal._OPTIONS["GDAL_CACHEMAX"] = 8  # else the small scene lies there whole, and the large one does not
upscaler = Upscaler(create_model("bicubic", scale=2), Options(scale=2))
folder = Path(sys.argv[1])
for name in ("small", "large"):
    upscale_scene(upscaler, folder / f"{name}.tif", folder / "out.tif", window=192)
    status = Path("/proc/self/status").read_text()
    print(status.partition("VmHWM:")[2].split()[0])
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux")
def test_memory_does_not_grow_with_the_scene(tmp_path):
    side = 600
    tile = np.kron(relief(1), np.ones((4, 3, 1), np.uint16))[:side, :side]
    for name, times in (("small", 1), ("large", 3)):
        save(tmp_path / f"{name}.tif", np.tile(tile, (times, times, 1)), tiled=True)
    told = subprocess.run(
        [sys.executable, "-c", MEMORY, tmp_path], stdout=subprocess.PIPE, text=True, check=True
    )
    small, large = (int(kib) << 10 for kib in told.stdout.split())
    pixels = (3**2 - 1) * side**2  # that the large scene has more; each makes four of float32
    assert large - small < pixels * 4 * 4
