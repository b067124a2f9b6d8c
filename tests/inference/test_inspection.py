"""What is told of a file is what an upscale of it does."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import rasterio
from PIL import Image as PillowImage
from rasterio.transform import from_origin

from rayscale.inference.inspection import inspect_file
from rayscale.options import Options


def scene(path: Path, nodata: float | None = None, dtype: str = "uint16") -> Path:
    profile = {"driver": "GTiff", "width": 20, "height": 10, "count": 2, "dtype": dtype}
    place = {"crs": "EPSG:32632", "transform": from_origin(500000, 5400000, 10, 10)}
    with rasterio.open(path, "w", **profile, **place, nodata=nodata) as file:
        file.write(np.arange(400).reshape(2, 10, 20).astype(dtype))
        file.set_band_description(1, "B04")
    return path


def test_a_scene_is_told_with_its_ground(tmp_path: Path) -> None:
    found = inspect_file(scene(tmp_path / "a.tif"), Options(scale=3, levels=(0, 10000)))
    assert (found.container, found.width, found.height, found.channels) == ("geotiff", 20, 10, 2)
    assert found.metadata["crs"] == "EPSG:32632"
    assert found.metadata["transform"] == [10, 0, 500000, 0, -10, 5400000]
    assert found.metadata["bands"][0] == {"name": "B04"}
    assert found.levels is not None
    assert (found.levels["black"], found.levels["white"]) == ((0,), (10000,))
    assert (found.output_width, found.output_height, found.windowed) == (60, 30, True)
    assert found.refusal is None


def test_nan_as_nodata_stays_valid_json(tmp_path: Path) -> None:
    path = scene(tmp_path / "a.tif", nodata=float("nan"), dtype="float32")
    found = inspect_file(path, Options(scale=2)).to_dict()
    assert json.loads(json.dumps(found, allow_nan=False))["metadata"]["nodata"] == "nan"


def test_a_picture_is_told_as_its_header_says(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    PillowImage.new("RGBA", (7, 5)).save(path, dpi=(300, 300))
    found = inspect_file(path, Options(scale=2))
    assert (found.container, found.channels, found.alpha) == ("png", 3, True)
    assert found.metadata["dpi"] == pytest.approx([300, 300], rel=1e-3)
    assert found.levels is not None
    assert found.levels["white"] == (255,)
    assert (found.output_width, found.output_height) == (14, 10)


@pytest.mark.parametrize(
    ("content", "reason"), [(b"", "empty"), (b"GIF89a" + bytes(50), "GIF"), (b"hello", "image")]
)
def test_a_refusal_is_a_finding(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(content)
    found = inspect_file(path, Options(scale=2))
    assert found.refusal is not None
    assert reason in found.refusal
    assert found.container is None


def test_labels_and_memory_are_told(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    profile = {"driver": "GTiff", "width": 20, "height": 10, "count": 2, "dtype": "uint8"}
    place = {"crs": "EPSG:32632", "transform": from_origin(500000, 5400000, 10, 10)}
    with rasterio.open(path, "w", **profile, **place) as file:
        file.write(np.arange(400).reshape(2, 10, 20).astype(np.uint8))
        file.set_band_description(2, "SCL")
    assert "SCL" in str(inspect_file(path, Options(scale=2)).refusal)
    found = inspect_file(path, Options(scale=2, labels="nearest"))
    assert (found.refusal, found.labels, found.memory_bytes) == (None, [1], None)
    PillowImage.new("L", (50, 50)).save(tmp_path / "b.png")
    found = inspect_file(tmp_path / "b.png", Options(scale=2))
    assert found.memory_bytes is not None
    assert found.memory_bytes > 100 * 100
