"""What lies far beyond black and white: no network sees it.

Networks learned from values between black and white. A little beyond they go on as before, but a hot pixel or a fill that no one
declared, of a thousand times that range, comes out as rings of many times the range over all that they see around it. So they see
values up to one range beyond either end. What is left of those few, zero elsewhere, is enlarged by bicubic interpolation, which
reaches two pixels, and added: the value is kept, and its neighbours are those of a picture without it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from rayscale.imaging.levels import Levels

BEYOND = 1.0
"""Ranges from black to white that a value may lie beyond them and still go through a network as it is."""


def exceeds(pixels: NDArray[Any], levels: Levels) -> bool:
    """Whether any of the stored ``(H, W, C)`` is not for a network."""
    black, white = np.asarray(levels.black), np.asarray(levels.white)
    margin = BEYOND * (white - black)
    least, most = np.sort([black - margin, white + margin], axis=0)
    return bool((pixels.min((0, 1)) < least).any() or (pixels.max((0, 1)) > most).any())


def split(x: Tensor, value_range: float) -> tuple[Tensor, Tensor | None]:
    """``x (N, C, H, W)``, black at 0 and white at ``value_range``, as what a network sees and what is left, None for nothing."""
    least, most = -BEYOND * value_range, (1 + BEYOND) * value_range
    low, high = x.aminmax()
    if low >= least and high <= most:
        return x, None
    seen = x.clamp(least, most)
    return seen, x - seen
