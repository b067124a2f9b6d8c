"""GeoTIFFs made for the tests; import after ``importorskip("rasterio")``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import rasterio
from affine import Affine

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
