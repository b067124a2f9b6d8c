"""Where the pixels of a GeoTIFF lie on the ground: transform, control points, polynomials, arrays of coordinates, epoch."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest
import tifffile

from rayscale.errors import UnsupportedError
from rayscale.imaging import Image, read_image, write_image
from rayscale.inference import Upscaler, upscale_scene
from rayscale.models.systems import create_model
from rayscale.options import Options

rasterio = pytest.importorskip("rasterio", reason="needs the extra geo")
from affine import Affine  # noqa: E402
from rasterio.control import GroundControlPoint  # noqa: E402
from rasterio.rpc import RPC  # noqa: E402
from tests.imaging.geotiff_objects import (  # noqa: E402
    PROVENANCE,
    ROTATED,
    UTM,
    corners,
    noise,
    opened,
    scene,
    upscaled,
)


@pytest.mark.filterwarnings("ignore:The given matrix")
@pytest.mark.parametrize("transform", [UTM, ROTATED, Affine.identity(), Affine.scale(1, -1)])
@pytest.mark.parametrize("point", ["Area", "Point"])
@pytest.mark.parametrize("scale", [2, 3])
def test_corners_stay_on_the_ground(transform, point, scale):
    data = scene(
        noise(11, 14, 1), lambda d: d.update_tags(AREA_OR_POINT=point), transform=transform
    )
    with opened(data) as before, opened(upscaled(data, scale)) as after:
        assert (after.width, after.height) == (14 * scale, 11 * scale)
        np.testing.assert_allclose(corners(after), corners(before), atol=1e-6)
        assert after.crs == before.crs
        assert after.tags()["AREA_OR_POINT"] == point


def test_ground_control_points_move_with_the_pixels():
    gcps = [
        GroundControlPoint(r, c, 10 + c / 99, 50 - r / 99, 7.0, f"{r}/{c}", "")
        for r in (0, 5.5, 11)
        for c in (0, 14)
    ]

    def fill(dataset):
        dataset.gcps = (gcps, rasterio.crs.CRS.from_epsg(4326))

    data = scene(noise(11, 14, 1), fill, crs=None, transform=None)
    with opened(upscaled(data)) as after:
        points, crs = after.gcps
    assert crs.to_epsg() == 4326
    # Points without a known system are no reason to fail.
    image = read_image(data)
    homeless = replace(image, metadata=replace(image.metadata, gcps_crs=None))
    with opened(write_image(homeless)) as after:
        assert len(after.gcps[0]) == len(gcps)
    assert [(p.row, p.col) for p in points] == [(2 * p.row, 2 * p.col) for p in gcps]
    assert [(p.x, p.y, p.z) for p in points] == [(p.x, p.y, p.z) for p in gcps]


def test_a_pixel_scale_of_zero_is_no_place_but_its_points_are():
    points = [(x, y, 0, 500000 + 10 * x, 4600000 - 10 * y, 0) for x in (0, 14) for y in (0, 11)]
    file = io.BytesIO()
    tifffile.imwrite(
        file, noise(11, 14, 1)[..., 0], photometric="minisblack", metadata=None,
        extratags=[
            (33550, "d", 3, (0.0, 0.0, 0.0), True),
            (33922, "d", 24, tuple(float(v) for point in points for v in point), True),
            (34735, "H", 16, (1, 1, 0, 3, 1024, 0, 1, 1, 1025, 0, 1, 1, 3072, 0, 1, 32632), True),
        ],
    )  # fmt: skip
    with opened(file.getvalue()) as before, opened(upscaled(file.getvalue())) as after:
        assert len(before.gcps[0]) == 4
        assert [(p.row, p.col, p.x, p.y) for p in after.gcps[0]] == [
            (2 * p.row, 2 * p.col, p.x, p.y) for p in before.gcps[0]
        ]
        assert after.transform == Affine.identity()


def test_rational_polynomials_see_the_same_ground():
    """A point of the ground at pixel p (centres at whole numbers) lies at (p + 1/2) r - 1/2 afterwards."""
    identity = [0.0] * 20
    row, column, one = identity.copy(), identity.copy(), identity.copy()
    row[2], column[1], one[0] = 1.0, 1.0, 1.0
    rpc = RPC(
        height_off=0, height_scale=1, lat_off=50, lat_scale=0.5, line_den_coeff=one, line_num_coeff=row,
        line_off=5, line_scale=6, long_off=8, long_scale=0.5, samp_den_coeff=one, samp_num_coeff=column,
        samp_off=7, samp_scale=8, err_bias=None, err_rand=None,
    )  # fmt: skip

    def fill(dataset):
        dataset.rpcs = rpc

    data = scene(noise(11, 14, 1), fill, crs=None, transform=None)
    ground = ([7.9, 8.2], [50.1, 49.7], [0, 0])
    with opened(data) as before, opened(upscaled(data, 3)) as after:
        rows, columns = rasterio.transform.rowcol(before.rpcs, *ground, op=float)
        new_rows, new_columns = rasterio.transform.rowcol(after.rpcs, *ground, op=float)
    # GDAL counts from the corner of the first pixel, where everything is simply r times as far.
    np.testing.assert_allclose(np.array(new_rows), 3 * np.array(rows), atol=1e-6)
    np.testing.assert_allclose(np.array(new_columns), 3 * np.array(columns), atol=1e-6)


def test_geometry_is_not_lost_on_the_way_to_another_format():
    image = read_image(scene(noise(5, 5, 3, dtype="uint8", low=0, high=9)))
    for other in ("png", "jpeg", "tiff", "webp"):
        with pytest.raises(UnsupportedError, match=r"geometry would be lost.*\.tif"):
            write_image(Image(image.pixels, other, metadata=image.metadata))
    with pytest.raises(UnsupportedError, match="can only be made from a GeoTIFF"):
        write_image(Image(image.pixels, "geotiff"))


@pytest.mark.parametrize(("convention", "half"), [(None, 0.0), ("PIXEL_CENTER", 0.5)])
def test_an_array_of_coordinates_sees_the_same_ground(convention, half):
    steps = {"PIXEL_OFFSET": "0", "LINE_OFFSET": "4", "PIXEL_STEP": "5", "LINE_STEP": "10"}
    steps |= {} if convention is None else {"GEOREFERENCING_CONVENTION": convention}

    def fill(dataset):
        dataset.update_tags(ns="GEOLOCATION", X_DATASET="lon.tif", **steps)

    with opened(upscaled(scene(noise(20, 30, 1), fill), 3)) as result:
        made = result.tags(ns="GEOLOCATION")
    for axis, offset in (("PIXEL", 0), ("LINE", 4)):
        step = float(steps[f"{axis}_STEP"])
        for sample in (0, 1, 7):  # corner of the sample in pixels of the source, then of the result
            place = offset + half + sample * step
            larger = float(made[f"{axis}_OFFSET"]) + half + sample * float(made[f"{axis}_STEP"])
            assert larger == pytest.approx(3 * place)
    assert made["X_DATASET"] == "lon.tif"


def epoch_of(path) -> float:
    """The epoch as GDAL understands it: it writes it anew into a copy."""
    rasterio.shutil.copy(path, path.with_suffix(".copy.tif"), driver="GTiff", COMPRESS="NONE")
    with tifffile.TiffFile(path.with_suffix(".copy.tif")) as file:
        keys, doubles = (file.pages[0].tags[tag].value for tag in (34735, 34736))
    (at,) = (at for at in range(4, len(keys), 4) if keys[at] == 5120)
    return doubles[keys[at + 3]]


@pytest.mark.parametrize("system", ["geographic", "projected"])
@pytest.mark.parametrize(("order", "big"), [("<", False), (">", False), ("<", True)])
def test_a_coordinate_epoch_is_kept(tmp_path, system, order, big):
    code = (1024, 0, 1, 2, 2048, 0, 1, 9057)
    if system == "projected":
        code = (1024, 0, 1, 1, 3072, 0, 1, 7850)  # GDA2020
    keys = (1, 1, 1, 3, *code, 5120, 34736, 1, 0)
    tags = [(34735, 3, len(keys), keys, True), (34736, 12, 1, (2021.3,), True)]
    tags += [(33550, 12, 3, (0.5, 0.5, 0.0), True), (33922, 12, 6, (0, 0, 0, 10.0, 50.0, 0), True)]
    path = tmp_path / "source.tif"
    pixels = noise(80, 90, dtype="float32")
    tifffile.imwrite(path, pixels, byteorder=order, bigtiff=big, extratags=tags, metadata=None)
    assert read_image(path.read_bytes()).notes == ()
    (tmp_path / "whole.tif").write_bytes(upscaled(path.read_bytes()))
    upscale_scene(
        Upscaler(create_model("bicubic"), Options(scale=2)),
        path,
        tmp_path / "windows.tif",
        PROVENANCE,
    )
    assert (tmp_path / "whole.tif").read_bytes() == (tmp_path / "windows.tif").read_bytes()
    assert epoch_of(path) == epoch_of(tmp_path / "whole.tif") == 2021.3
    with rasterio.open(path) as source, rasterio.open(tmp_path / "whole.tif") as made:
        assert made.crs == source.crs
        assert made.bounds == source.bounds
        np.testing.assert_allclose(
            made.read(1)[40:50, 40:50].mean(), pixels[20:25, 20:25].mean(), rtol=0.2
        )
