"""GeoTIFF against rasterio, GDAL's own tools and rio-cogeo: the ground must not move, whatever the pixels do."""

from __future__ import annotations

import io
import shutil
import subprocess
import sys
import tracemalloc

import numpy as np
import pytest
import tifffile

from rayscale.errors import InputError, TooLargeError, UnsupportedError
from rayscale.imaging import probe, read_image, write_image
from rayscale.imaging.containers import geotiff
from rayscale.inference.parts import Parts
from rayscale.resampling import enlarge

rasterio = pytest.importorskip("rasterio", reason="needs the extra geo")
from affine import Affine  # noqa: E402
from rasterio.enums import ColorInterp, MaskFlags  # noqa: E402
from tests.imaging.geotiff_objects import (  # noqa: E402
    PROVENANCE,
    RNG,
    UTM,
    corners,
    noise,
    opened,
    scene,
    upscaled,
)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "int32", "float32", "float64"])
@pytest.mark.parametrize("bands", [1, 3, 13])
def test_bands_of_any_type_are_enlarged_in_native_units(dtype, bands):
    pixels = noise(20, 17, bands, dtype=dtype, low=20, high=200)
    if dtype.startswith(("int", "float")):
        pixels = (pixels * -7).astype(dtype)
    data = scene(pixels)
    header = probe(data)
    assert (header.container, header.height, header.width, header.channels, header.bits) == (
        "geotiff", 20, 17, bands, pixels.dtype.itemsize * 8,
    )  # fmt: skip
    np.testing.assert_array_equal(read_image(data).pixels, pixels)
    with opened(upscaled(data)) as result:
        assert set(result.dtypes) == {dtype}
        got = np.moveaxis(result.read(), 0, 2).astype(np.float64)
    expected = enlarge(pixels.astype(np.float64), 2)
    if pixels.dtype.kind in "iu":
        expected = np.clip(expected, np.iinfo(dtype).min, np.iinfo(dtype).max)
    tolerance = 1 if pixels.dtype.kind in "iu" else 1400 * 1e-6
    assert np.abs(got - expected).max() <= tolerance


def test_every_remark_of_dataset_and_bands_is_kept():
    def fill(dataset):
        dataset.update_tags(SENSOR="MSI", STATISTICS_MEAN="5")
        dataset.update_tags(ns="ORBIT", track="108")
        dataset.update_tags(2, WAVELENGTH="492", STATISTICS_MAXIMUM="9000")
        dataset.update_tags(2, ns="CALIBRATION", gain="3")
        dataset.set_band_description(2, "B02")
        dataset.set_band_unit(1, "reflectance")
        dataset.scales, dataset.offsets = (0.0001, 0.5), (-0.1, 0.0)
        dataset.colorinterp = (ColorInterp.gray, ColorInterp.undefined)

    data = scene(noise(9, 9, 2), fill, nodata=7)
    with opened(upscaled(data)) as after:
        assert after.tags()["SENSOR"] == "MSI"
        assert after.tags(ns="ORBIT") == {"track": "108"}
        assert after.tags(2) == {"WAVELENGTH": "492"}  # statistics of other pixels are gone
        assert after.tags(2, ns="CALIBRATION") == {"gain": "3"}
        assert "STATISTICS_MEAN" not in after.tags()
        assert after.descriptions == (None, "B02")
        assert after.units[0] == "reflectance"
        assert after.scales == (0.0001, 0.5)
        assert after.offsets == (-0.1, 0.0)
        assert after.nodata == 7
        assert after.colorinterp == (ColorInterp.gray, ColorInterp.undefined)
        remark = after.tags()["RAYSCALE"]
    for word in ("edsr/3", "0f" * 32, '"scale": 2', "of each band of the file"):
        assert word in remark


def test_jpeg_never_touches_the_value_of_nodata():
    pixels = noise(64, 64, 3, dtype="uint8", low=40, high=250)
    pixels[:, :20] = 0
    data = scene(pixels, compress="jpeg", photometric="ycbcr", nodata=0)
    image = read_image(data)
    assert image.missing is not None
    with opened(upscaled(data)) as result:
        got = np.moveaxis(result.read(), 0, 2)
        assert result.compression.value == "DEFLATE"
    hole = (image.pixels == 0).repeat(2, 0).repeat(2, 1)
    np.testing.assert_array_equal(got == 0, hole)


COMPRESSIONS = ("lzw", "deflate", "zstd", "packbits", "lerc", "lerc_zstd", "jpeg", None)


@pytest.mark.parametrize(
    ("compress", "bands"), [*((name, 1) for name in COMPRESSIONS), ("jpeg", 3), ("webp", 3)]
)
def test_result_is_a_cloud_optimised_geotiff(tmp_path, compress, bands):
    pixels = noise(280, 300, bands, dtype="uint8", low=0, high=255)
    data = scene(pixels, compress=compress, nodata=None if compress == "jpeg" else 0)
    (tmp_path / "out.tif").write_bytes(upscaled(data))
    with rasterio.open(tmp_path / "out.tif") as result:
        assert result.overviews(1) == [2]
        wanted = {"packbits": "deflate", None: None}.get(compress, compress)
        assert (result.compression.value.lower() if result.compression else None) == wanted
    if shutil.which("gdalinfo"):
        told = subprocess.run(
            ["gdalinfo", tmp_path / "out.tif"], capture_output=True, text=True, check=True
        )
        assert "LAYOUT=COG" in told.stdout
    cogeo = pytest.importorskip("rio_cogeo", reason="needs rio-cogeo")
    valid, errors, warnings = cogeo.cog_validate(tmp_path / "out.tif", quiet=True)
    assert (valid, errors, warnings) == (True, [], [])


@pytest.mark.parametrize("bands", [3, 4])
def test_webp_is_written_without_loss_and_alpha_as_deflate(bands):
    data = scene(noise(40, 50, bands, dtype="uint8", low=0, high=255), compress="webp")  # 4: alpha
    image = read_image(data)
    with opened(write_image(image, PROVENANCE)) as result:
        assert result.compression.value == ("WEBP" if bands == 3 else "DEFLATE")
        np.testing.assert_array_equal(np.moveaxis(result.read((1, 2, 3)), 0, 2), image.pixels)


def test_the_same_image_gives_the_same_bytes():
    data = scene(noise(20, 20, 2), nodata=0)
    assert upscaled(data) == upscaled(data)


@pytest.mark.parametrize("missing", [np.nan, np.inf, -9999.0])
def test_a_missing_pixel_spoils_nothing_around_it(missing):
    pixels = np.full((16, 16, 1), 5.0, np.float32)
    pixels[:, 8:] = 6.0
    holed = pixels.copy()
    holed[4, 3] = missing
    nodata = missing if np.isfinite(missing) else None
    with opened(upscaled(scene(holed, nodata=nodata))) as result:
        got = result.read(1)
        np.testing.assert_equal(result.nodata, nodata)
    hole = np.zeros((32, 32), bool)
    hole[8:10, 6:8] = True
    np.testing.assert_array_equal(got[hole], np.float32(missing))
    with opened(upscaled(scene(pixels))) as whole:
        np.testing.assert_array_equal(got[~hole], whole.read(1)[~hole])


def test_a_measured_pixel_never_becomes_nodata():
    pixels = noise(30, 30, 1, dtype="int16", low=-3, high=4)
    with opened(upscaled(scene(pixels, nodata=0))) as result:
        got = result.read(1)
    np.testing.assert_array_equal(got == 0, np.repeat(np.repeat(pixels[:, :, 0] == 0, 2, 0), 2, 1))


def test_a_band_without_a_single_measurement_stays_empty():
    pixels = noise(8, 8, 2)
    pixels[:, :, 1] = 0
    with opened(upscaled(scene(pixels, nodata=0))) as result:
        assert not result.read(2).any()
        assert result.read(1).all()


def test_nothing_measured_at_all_asks_no_network(monkeypatch):
    monkeypatch.setattr(Parts, "run", lambda *_: pytest.fail("the network was asked"))
    with opened(upscaled(scene(np.full((8, 9, 3), -1.5, np.float32), nodata=-1.5))) as result:
        np.testing.assert_array_equal(result.read(), np.full((3, 16, 18), -1.5))


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_soft_alpha_is_interpolated_where_it_is_visible(dtype):
    opaque = 255 if dtype == "uint8" else 1.0
    alpha = np.tile(np.r_[np.zeros(10), np.linspace(0.2, 1, 11), np.ones(9)] * opaque, (20, 1))

    def colours(dataset):
        dataset.colorinterp = [ColorInterp.gray, ColorInterp.alpha]

    data = scene(np.dstack([alpha, alpha]).astype(dtype), colours, alpha="yes")
    with opened(upscaled(data)) as result:
        larger = result.read(2)[20]
    assert (larger[:20] == 0).all()
    assert (larger[20:] > 0).all()
    # Halfway between pixel centres of a slope lies a quarter and three quarters of its step.
    step = 0.08 * opaque
    expected = 0.2 * opaque + step * (np.arange(19) / 2 + 0.25)
    np.testing.assert_allclose(larger[21:40], expected, atol=1.01 if dtype == "uint8" else 1e-6)
    assert (larger[43:] == opaque).all()


def test_internal_mask_and_alpha_are_enlarged_by_nearest():
    mask = np.full((10, 12), 255, np.uint8)
    mask[2:5, 3:4] = 0
    enlarged = np.repeat(np.repeat(mask, 2, 0), 2, 1)
    pixels = noise(10, 12, 3, dtype="uint8", low=100, high=101)
    pixels[mask == 0] = 0  # would darken its neighbourhood
    with opened(upscaled(scene(pixels, lambda d: d.write_mask(mask)))) as result:
        assert MaskFlags.per_dataset in result.mask_flag_enums[0]
        np.testing.assert_array_equal(result.dataset_mask(), enlarged)
        assert (result.read(1)[enlarged > 0] == 100).all()

    def colours(dataset):
        dataset.colorinterp = [*dataset.colorinterp[:3], ColorInterp.alpha]

    with_alpha = scene(np.dstack([pixels, mask]), colours, photometric="rgb", alpha="yes")
    assert (probe(with_alpha).channels, probe(with_alpha).alpha) == (3, True)
    with opened(upscaled(with_alpha)) as result:
        assert result.colorinterp[3] == ColorInterp.alpha
        np.testing.assert_array_equal(result.read(4), enlarged)
        assert (result.read(1)[enlarged > 0] == 100).all()


def test_a_float_tiff_without_georeference_stays_without():
    out = io.BytesIO()
    tifffile.imwrite(out, noise(9, 9, dtype="float32"), metadata=None)
    with opened(upscaled(out.getvalue())) as result:
        assert result.crs is None
        assert result.transform == Affine.identity()
        assert result.gcps == ([], None)


def test_plain_tiffs_stay_with_the_plain_reader():
    out = io.BytesIO()
    tifffile.imwrite(out, noise(9, 9, 4), photometric="minisblack", planarconfig="contig")
    assert not geotiff.claims(out.getvalue())
    assert read_image(out.getvalue()).container == "tiff"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"photometric": "minisblack", "extratags": [(274, "H", 1, 6, True)]}, "orientation 6"),
        ({"photometric": "miniswhite"}, "inverted"),
        ({"photometric": "separated"}, "CMYK"),
    ],
)
def test_what_gdal_would_turn_into_another_picture_is_refused(options, message):
    out = io.BytesIO()
    shape = (9, 9, 4) if message == "CMYK" else (9, 9)
    tifffile.imwrite(out, np.ones(shape, "float32"), **options)
    with pytest.raises(UnsupportedError, match=message):
        read_image(out.getvalue())


def test_classes_are_refused():
    def palette(dataset):
        dataset.write_colormap(1, {1: (255, 0, 0), 2: (0, 255, 0)})

    with pytest.raises(UnsupportedError, match="palette"):
        read_image(scene(noise(5, 5, 1, dtype="uint8", low=0, high=3), palette))
    with pytest.raises(UnsupportedError, match="classes"):
        read_image(scene(noise(5, 5, 1), lambda d: d.update_tags(1, LAYER_TYPE="thematic")))
    with pytest.raises(UnsupportedError, match="1 bit"):
        read_image(scene(noise(5, 5, 1, dtype="uint8", low=0, high=2), nbits=1))
    with pytest.raises(UnsupportedError, match="sample format 6"):
        read_image(scene(noise(5, 5, 1).astype(np.complex64)))


VRT = b"""<VRTDataset rasterXSize="20" rasterYSize="20"><VRTRasterBand dataType="Byte" band="1"
subClass="VRTRawRasterBand"><SourceFilename>/etc/passwd</SourceFilename></VRTRasterBand></VRTDataset>"""


def test_a_virtual_raster_is_never_opened(monkeypatch):
    with pytest.raises(UnsupportedError, match="not an image"):
        read_image(VRT)
    # Even past the first check, GDAL may use its TIFF driver only, before and after a WarpedVRT.
    good = scene(noise(5, 5, 1))
    ifd = geotiff.Ifd.first(good)
    monkeypatch.setattr(geotiff.Ifd, "first", lambda data: ifd)
    for _ in range(2):
        with pytest.raises(InputError, match="damaged"):
            geotiff.read(VRT, 10_000)
        with opened(good) as dataset, rasterio.vrt.WarpedVRT(dataset, crs="EPSG:4326") as warped:
            warped.read()


def test_a_sparse_scene_of_596_gib_is_refused_by_its_header():
    with rasterio.MemoryFile() as file:
        with file.open(
            driver="GTiff", width=800_000, height=800_000, count=1, dtype="uint8", tiled=True,
            blockxsize=4096, blockysize=4096, SPARSE_OK=True, BIGTIFF="YES", crs="EPSG:32632", transform=UTM,
        ):  # fmt: skip
            pass
        data = bytes(file.read())
    tracemalloc.start()
    with pytest.raises(TooLargeError, match=r"800000 x 800000.*RAYSCALE_MAX_INPUT_PIXELS"):
        read_image(data)
    assert tracemalloc.get_traced_memory()[1] < 50 << 20
    tracemalloc.stop()


def test_damage_is_an_input_error():
    data = scene(noise(300, 300, 2), compress="deflate", tiled=True, blockxsize=64, blockysize=64)
    for end in (10, 200, len(data) // 2, len(data) - 2000):
        with pytest.raises(InputError):
            read_image(data[:end])
    damaged = bytearray(data)
    for at in RNG.integers(0, len(data), 400):
        damaged[at] ^= 0xFF
    with pytest.raises(InputError):
        read_image(bytes(damaged))


def test_the_missing_extra_is_named(monkeypatch):
    data = scene(noise(5, 5, 1))
    monkeypatch.setitem(sys.modules, "rasterio", None)
    with pytest.raises(UnsupportedError, match=r"pip install 'rayscale\[geo\]'"):
        read_image(data)


def test_real_scenes(shared_data):
    folder = shared_data / "domain" / "satellite"
    names = [
        "cog_rgb_mask.tif", "cog_scale.tif", "float_nan.tif", "rotated.tif",
    ]  # fmt: skip
    paths = [folder / "fixtures" / name for name in names]
    for path in [*paths, sorted(folder.glob("eurosat/**/*.tif"))[0]]:
        data = path.read_bytes()
        with opened(data) as before, opened(upscaled(data)) as after:
            assert (after.crs, after.dtypes, after.colorinterp) == (
                before.crs, before.dtypes, before.colorinterp,
            ), path  # fmt: skip
            np.testing.assert_equal(after.nodatavals, before.nodatavals)
            np.testing.assert_allclose(corners(after), np.array(corners(before)) * (
                1 if before.transform != Affine.identity() else 2
            ), rtol=1e-12)  # fmt: skip
            masks = np.repeat(np.repeat(before.read_masks(), 2, 1), 2, 2)
            np.testing.assert_array_equal(after.read_masks(), masks)
    with pytest.raises(InputError, match="damaged"):
        read_image((folder / "fixtures" / "corrupt.tif").read_bytes())
