"""The rows of a dataset, and what they must be."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from rayscale.data import Dataset, PrepareConfig
from rayscale.data.cutting import Cut
from rayscale.data.shards import read_places

Images = Callable[..., Path]
Noise = Callable[..., np.ndarray]
SMALL = PrepareConfig(size=48, step=36, minimum=24, images_per_shard=2)


def rows_of(folder: Path, scale: int) -> list[tuple[str, Cut, np.ndarray, np.ndarray]]:
    """Key, place, LR and HR ``(h, w, C)`` of every row."""
    dataset = Dataset(folder, scale)
    keys = [shard.columns["1"].key for shard in dataset.manifest.shards]
    places = [place for key in keys for place in read_places(folder / key)]
    return [
        (key, place, *(side.transpose(1, 2, 0) for side in dataset.pair(row)))
        for row, (key, place) in enumerate(places)
    ]


def inside(pixels: np.ndarray, place: Cut, scale: int = 1) -> np.ndarray:
    y, x = place.y // scale, place.x // scale
    return pixels[y : y + place.height // scale, x : x + place.width // scale]
