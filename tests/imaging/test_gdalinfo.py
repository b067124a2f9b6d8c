"""The word of GDAL's own program on an upscaled scene: size, system, corners, bands, overviews and layout."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rayscale.imaging import Provenance, read_image, write_image
from rayscale.inference import Upscaler
from rayscale.models.systems import create_model
from rayscale.options import Options

rasterio = pytest.importorskip("rasterio", reason="needs the extra geo")

pytestmark = pytest.mark.skipif(
    not shutil.which("gdalinfo"), reason="needs gdalinfo (Debian gdal-bin)"
)
NORTH_UP = rasterio.Affine(10, 0, 5e5, 0, -10, 5.6e6)
ROTATED = rasterio.Affine(17.25, 5.0, 546010.25, 10.0, -8.75, 5583837.75)


def gdalinfo(path: Path) -> dict[str, Any]:
    told = subprocess.run(["gdalinfo", "-json", path], capture_output=True, text=True, check=True)
    return json.loads(told.stdout)


@pytest.mark.parametrize(("transform", "scale"), [(NORTH_UP, 2), (ROTATED, 2.5)])
def test_the_same_ground_under_more_pixels(tmp_path, transform, scale):
    pixels = np.random.default_rng(9).integers(1, 9000, (2, 280, 300), dtype=np.uint16)
    with rasterio.open(
        tmp_path / "before.tif", "w", driver="GTiff", width=300, height=280, count=2, dtype="uint16",
        crs="EPSG:32632", transform=transform, nodata=0, compress="deflate",
    ) as scene:  # fmt: skip
        scene.write(pixels)
        scene.set_band_description(2, "B08")
    upscaler = Upscaler(create_model("bicubic"), Options(scale=scale, uncertainty=True))
    run = upscaler.run(read_image((tmp_path / "before.tif").read_bytes()))
    provenance = Provenance("edsr/3", "0f" * 32, {"scale": scale})
    (tmp_path / "after.tif").write_bytes(write_image(run.image, provenance))
    (tmp_path / "beside.tif").write_bytes(write_image(run.uncertainty, provenance))
    before = gdalinfo(tmp_path / "before.tif")
    for name, kind, nodata in (("after", "UInt16", 0), ("beside", "Float32", "NaN")):
        after = gdalinfo(tmp_path / f"{name}.tif")
        assert after["size"] == [int(300 * scale), int(280 * scale)]
        assert after["coordinateSystem"]["wkt"] == before["coordinateSystem"]["wkt"]
        for corner, place in before["cornerCoordinates"].items():
            np.testing.assert_allclose(after["cornerCoordinates"][corner], place, atol=1e-6)
        assert after["metadata"]["IMAGE_STRUCTURE"]["LAYOUT"] == "COG"
        assert "0f" * 32 in after["metadata"][""]["RAYSCALE"]
        assert [band["type"] for band in after["bands"]] == [kind] * 2
        assert after["bands"][1]["description"].endswith("B08")
        for band in after["bands"]:
            assert band["noDataValue"] == nodata
            # AVERAGE halves the sides, so the smallest fits into a tile of 512.
            assert band["overviews"][0]["size"] == [side // 2 for side in after["size"]]
