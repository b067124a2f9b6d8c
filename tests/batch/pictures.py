"""Small pictures and their files."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import PIL.Image
import tifffile


def pixels(seed: int, *, shape: tuple[int, ...] = (12, 10, 3), dtype: Any = np.uint8) -> Any:
    top = np.iinfo(dtype).max
    return np.random.default_rng(seed).integers(0, top, shape, dtype=dtype, endpoint=True)


def encoded(array: Any, kind: str = "png") -> bytes:
    file = io.BytesIO()
    if kind == "tiff":
        tifffile.imwrite(file, array, photometric="rgb")
    else:
        PIL.Image.fromarray(array).save(file, kind)
    return file.getvalue()
