"""Iterative back-projection: an enlargement that, shrunk again, gives its source (Irani and Peleg 1991).

``SR += up(LR - down(SR))``, where down is MATLAB's antialiased bicubic and up its bicubic. The factor by which an
iteration leaves an error behind depends on its frequency, from nothing for smooth ones to about 3/4 for a
checkerboard of source pixels.

Every step is local, the end of the iterations too: an error too small to matter is left alone where it is, and when
all are, another iteration would change nothing. So tiles and windows with ``HALO`` more pixels on each side equal the
whole image.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rayscale.resampling import downsample, upsample

ITERATIONS = 10
"""What is left after these is below what rounding to whole numbers adds, but for pixels held by black or white."""

HALO = 4 * ITERATIONS + 2
"""Source pixels around a pixel that its correction and its residual may depend on.

Each kernel reaches less than 2 of them: two an iteration, one to measure what is left.
"""

TOLERANCE = 1 / 16
"""Stored units of an error that is left alone. Rounding adds up to 0.44, so what is shrunk still rounds to the source."""


@dataclass(frozen=True)
class Residual:
    """``|down(SR) - LR|`` over some source pixels, in stored units; residuals of parts add up to that of all.

    Attributes:
        maximum: the largest.
        squares: sum of the squares.
        values: how many, over all channels and slices; missing pixels do not count.
    """

    maximum: float = 0.0
    squares: float = 0.0
    values: int = 0

    @property
    def rms(self) -> float:
        """Root of the mean square, 0 for nothing."""
        return math.sqrt(self.squares / self.values) if self.values else 0.0

    def __add__(self, other: Residual) -> Residual:
        return Residual(
            max(self.maximum, other.maximum),
            self.squares + other.squares,
            self.values + other.values,
        )

    def describe(self) -> dict[str, float]:
        """Four digits of both, for provenance and JSON."""
        return {"max": float(f"{self.maximum:.4g}"), "rms": float(f"{self.rms:.4g}")}


def back_project(
    y: Tensor,
    x: Tensor,
    scale: float,
    tolerance: Tensor,
    limits: tuple[Tensor, Tensor] | None = None,
    iterations: int = ITERATIONS,
) -> Tensor:
    """Correct the enlargement ``y (N, C, sH, sW)`` of ``x (N, C, H, W)``, both floating in the same range.

    Args:
        tolerance: ``(C, 1, 1)``, errors of a source pixel that are left alone.
        limits: least and largest value ``(C, 1, 1)`` that can be stored; the correction stays between them, so that
            clipping afterwards cannot undo it.
        iterations: at most so many.
    """
    for _ in range(iterations):
        if limits is not None:
            y = y.clamp(*limits)
        error = x - downsample(y, x.shape[-2:], scale)
        error[error.abs() <= tolerance] = 0
        if not error.any():
            break
        y = y + upsample(error, scale)
    return y


def residual(
    sr: NDArray[Any], lr: NDArray[Any], scale: float, valid: NDArray[np.bool_] | None = None
) -> Residual:
    """How far ``sr (sH, sW, C)``, shrunk, is from its source ``lr (H, W, C)``, where ``valid`` (all when None)."""
    total = Residual()
    for channel in range(lr.shape[2]):
        fine = torch.from_numpy(sr[:, :, channel].astype(np.float64))
        error = downsample(fine, lr.shape[:2], scale).numpy() - lr[:, :, channel]
        if valid is not None:
            error = error[valid[:, :, channel if valid.shape[2] > 1 else 0]]
        largest = float(np.abs(error).max(initial=0))
        total += Residual(largest, float(np.square(error).sum()), error.size)
    return total
