"""What of an image is trained on: its bands, the slices of a volume, in the numbers that a network sees later."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from rayscale.errors import UnsupportedError
from rayscale.imaging import Image
from rayscale.imaging.levels import PICTURE_TYPES, Levels

Pixels = npt.NDArray[Any]

_WHITE = 65535
_REACH = 32  # HR pixels; bicubic LR pixels see no farther at x8


def kind(image: Image, bands: Sequence[int] = ()) -> tuple[int, int]:
    """Channels, and 8 or 16 bits, of the pictures of an image."""
    return len(bands) or image.channels, image.bits if _is_plain(image) else 16


class Picture(NamedTuple):
    """Pixels ``(H, W, C)``, uint8 or uint16 from black to white, and where all channels were measured; None: everywhere."""

    pixels: Pixels
    valid: npt.NDArray[np.bool_] | None = None


def pictures(image: Image, bands: Sequence[int] = ()) -> list[Picture]:
    """The pictures of an image.

    Measurements (signed, floating, of fewer bits than their type) become 16 bit by the levels of their file, which are
    those that inference uses: a network meets the same numbers in both. Missing pixels are filled from the nearest measured
    ones, as inference fills them. A volume is its slices, without those of one value.

    Args:
        bands: numbers of the bands from 1, in the order wanted; all when empty.

    Raises:
        UnsupportedError: a band that is not there or holds labels, or a volume of one value.
    """
    if wrong := [band for band in bands if not 1 <= band <= image.channels]:
        raise UnsupportedError(f"has no band {wrong[0]}: its bands are 1 to {image.channels}")
    chosen = [band - 1 for band in bands] or range(image.channels)
    if labelled := [channel + 1 for channel in chosen if channel in image.labels]:
        raise UnsupportedError(
            f"band {labelled[0]} holds classes or bit fields, and LR images interpolate; take other bands"
        )
    pixels, valid = image.pixels, None
    if image.missing is not None and not image.missing.valid.all():
        pixels = image.missing.filled(pixels, _REACH)
        valid = np.broadcast_to(image.missing.valid, pixels.shape)
    if not _is_plain(image):
        assert image.levels is not None
        pixels = np.clip(np.rint(image.levels.to_network(pixels, _WHITE)), 0, _WHITE)
        pixels = pixels.astype(np.uint16)
    if bands:
        pixels, valid = pixels[..., chosen], None if valid is None else valid[..., chosen]
    if valid is not None:
        valid = np.logical_and.reduce(valid, axis=-1)
    if pixels.ndim == 3:
        return [Picture(pixels, valid)]
    found = [
        Picture(plane, None if valid is None else valid[number])
        for number, plane in enumerate(pixels)
    ]
    slices = [picture for picture in found if _varies(picture)]
    if not slices:
        raise UnsupportedError("every slice has one value only: there is nothing to learn")
    return slices


def _varies(picture: Picture) -> bool:
    values = picture.pixels if picture.valid is None else picture.pixels[picture.valid]
    return bool(values.size) and bool(values.min() < values.max())


def _is_plain(image: Image) -> bool:
    """Whether black and white are the ends of the type."""
    dtype = image.pixels.dtype
    if image.levels is None or dtype == np.uint8:
        return True
    whole = Levels.of_type(dtype) if dtype in PICTURE_TYPES else None
    return whole is not None and (whole.black, whole.white) == (
        image.levels.black,
        image.levels.white,
    )
