"""The eight orientations of TIFF and EXIF (tag 274): which one a file asks for, and making it upright.

Orientation is applied on reading and the tag dropped, so pixels are always as seen.
"""

from __future__ import annotations

from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from rayscale.errors import InputError
from rayscale.imaging.containers.ifd import Ifd

ORIENTATION_TAG = 274

T = TypeVar("T", bound=np.generic)


def upright(array: NDArray[T], orientation: int) -> NDArray[T]:
    """``array`` of shape (H, W, ...) turned as tag 274 asks; 5 to 8 swap height and width."""
    if orientation >= 5:
        array = array.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        array = array[::-1]
    if orientation in (2, 3, 6, 7):
        array = array[:, ::-1]
    return np.ascontiguousarray(array)


def upright_size(width: int, height: int, orientation: int) -> tuple[int, int]:
    """Width and height once upright."""
    return (height, width) if orientation >= 5 else (width, height)


def upright_dpi(dpi: tuple[float, float] | None, orientation: int) -> tuple[float, float] | None:
    """Horizontal and vertical resolution once upright."""
    return (dpi[1], dpi[0]) if dpi and orientation >= 5 else dpi


def exif_orientation(exif: bytes) -> int:
    """Orientation in a block of EXIF data (a small TIFF); 1 when absent or unreadable.

    A damaged EXIF block is the commonest damage in photographs and never touches the pixels, so it
    is not an error.
    """
    try:
        value = Ifd.first(exif).integer(ORIENTATION_TAG, 1)
    except InputError:
        return 1
    return value if 1 <= value <= 8 else 1
