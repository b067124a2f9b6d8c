"""Pictures without noise, for codecs that lose some."""

from __future__ import annotations

import numpy as np


def smooth(height: int, width: int) -> np.ndarray:
    """A smooth colour picture, (H, W, 3) uint8."""
    y, x = np.mgrid[:height, :width]
    planes = [np.sin(x / 9) + np.cos(y / 7), np.cos(x / 5), np.sin((x + y) / 11)]
    return np.stack([np.clip(127 + 60 * plane, 0, 255) for plane in planes], -1).astype(np.uint8)
