"""Geometry of sub-images: where an image is cut so that HR and LR of every scale align exactly."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from rayscale.degradations import Degradation
from rayscale.resampling import modcrop

Pixels = npt.NDArray[Any]


@dataclass(frozen=True)
class Cut:
    """One sub-image: offset in the source image and sides, all in HR pixels and multiples of every scale."""

    y: int
    x: int
    height: int
    width: int


def starts(length: int, size: int, step: int) -> list[int]:
    """Offsets of windows of ``size`` that cover ``length``: every ``step``, and one that ends at the end."""
    if length <= size:
        return [0]
    return [*range(0, length - size, step), length - size]


def cuts(height: int, width: int, size: int, step: int) -> list[Cut]:
    """The sub-images of an image, rows first; a side below ``size`` is kept whole."""
    return [
        Cut(y, x, min(size, height), min(size, width))
        for y in starts(height, size, step)
        for x in starts(width, size, step)
    ]


def complete(valid: npt.NDArray[np.bool_], cut: Cut, grain: int, minimum: int) -> list[Cut]:
    """The sub-image if every pixel of it is valid, else its quarters that are, and theirs.

    Sides are multiples of ``grain`` and at least ``minimum``.
    """
    part = valid[cut.y : cut.y + cut.height, cut.x : cut.x + cut.width]
    if part.all():
        return [cut]
    height, width = (side // 2 // grain * grain for side in (cut.height, cut.width))
    if min(height, width) < max(minimum, grain) or not part.any():
        return []
    return [
        found
        for y in (cut.y, cut.y + cut.height - height)
        for x in (cut.x, cut.x + cut.width - width)
        for found in complete(valid, Cut(y, x, height, width), grain, minimum)
    ]


def columns(
    pixels: Pixels, scales: tuple[int, ...], degradation: Degradation
) -> Iterator[tuple[int, Pixels]]:
    """The whole image ``(H, W, C)`` at each of the scales, degraded but for 1, of one common HR crop.

    Sides must be multiples of every scale. LR comes from the whole image, so that a sub-image's LR border sees
    its true neighbours, as in the benchmark sets.
    """
    for scale in scales:
        yield scale, pixels if scale == 1 else degradation.apply(pixels, scale)


def take(pixels: Pixels, cut: Cut, scale: int) -> Pixels:
    """The part of an image of ``scale`` (1 is HR) under a sub-image: a view ``(h, w, C)``."""
    return pixels[
        cut.y // scale : (cut.y + cut.height) // scale,
        cut.x // scale : (cut.x + cut.width) // scale,
    ]


def crop(pixels: Pixels, grain: int) -> Pixels:
    """Crop at the bottom and right to multiples of ``grain``; may be empty for tiny images."""
    if min(pixels.shape[:2]) < grain:
        return pixels[:0, :0]
    return modcrop(pixels, grain)
