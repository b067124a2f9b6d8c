"""GeoTIFFs made for the tests; import after ``importorskip("rasterio")``."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import rasterio
from affine import Affine

from rayscale.imaging import Provenance, read_image, write_image
from rayscale.inference import Upscaler
from rayscale.models.systems import create_model
from rayscale.options import Options

P = TypeVar("P", str, Path)
UTM = Affine(10.0, 0, 546010.25, 0, -10.0, 5583837.75)


def save(
    path: P, pixels: np.ndarray, fill: Callable[[Any], None] = lambda dataset: None, **profile
) -> P:
    """A GeoTIFF of ``(H, W, C)`` pixels as rasterio writes it; ``fill`` puts more into the open dataset."""
    height, width, count = pixels.shape
    profile = {"crs": "EPSG:32632", "transform": UTM, **profile}
    with (
        rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True),
        rasterio.open(
            path, "w", driver="GTiff", width=width, height=height, count=count, dtype=pixels.dtype, **profile
        ) as dataset,
    ):  # fmt: skip
        dataset.write(np.moveaxis(pixels, 2, 0))
        fill(dataset)
    return path


RNG = np.random.default_rng(5)
PROVENANCE = Provenance("edsr/3", "0f" * 32, {"scale": 2})


def scene(pixels: np.ndarray, fill=lambda dataset: None, **profile) -> bytes:
    """A GeoTIFF of ``(H, W, C)`` pixels as rasterio writes it."""
    with rasterio.MemoryFile(ext=".tif") as file:
        save(file.name, pixels, fill, **profile)
        return bytes(file.read())


@contextmanager
def opened(data: bytes):
    with rasterio.MemoryFile(data) as file, file.open(driver="GTiff") as dataset:
        yield dataset


def upscaled(data: bytes, scale: int = 2) -> bytes:
    image = Upscaler(create_model("bicubic", scale=scale), Options(scale=scale)).upscale(
        read_image(data)
    )
    return write_image(image, PROVENANCE)


def noise(*shape: int, dtype="uint16", low=1000, high=9000) -> np.ndarray:
    return RNG.integers(low, high, shape).astype(dtype)


def corners(dataset) -> list[tuple[float, float]]:
    return [dataset.transform @ (x, y) for x in (0, dataset.width) for y in (0, dataset.height)]


ROTATED = Affine(17.3, 5.0, 100.0, 10.0, -8.7, 200.0)
