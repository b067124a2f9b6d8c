"""Tiny benchmarks, made here."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from rayscale.resampling import degrade

NAMES = ("barn", "lake", "mill")


@pytest.fixture
def benchmark(tmp_path):
    """A folder like ``Set5/x2`` and ``Set5/x3`` with three smooth colour pictures; ``{scale}`` is in its name."""
    rng = np.random.default_rng(0)
    for scale in (2, 3):
        for name in NAMES:
            noise = ndimage.gaussian_filter(rng.normal(size=(48, 60, 3)), (1.2, 1.2, 0))
            hr = (128 + 60 * noise / noise.std()).clip(0, 255).astype(np.uint8)
            for kind, pixels in (("HR", hr), ("LR", degrade(hr, scale))):
                folder = tmp_path / "Set5" / f"x{scale}" / kind
                folder.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(folder / f"{name}_{kind}.png")
    return str(tmp_path / "Set5" / "x{scale}")
