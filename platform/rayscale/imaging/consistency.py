"""Agreement of an enlarged picture with its own source: needs no reference, so it works on any image."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rayscale.errors import InputError
from rayscale.imaging.fidelity import Values, peak, sam
from rayscale.imaging.fourier import displacement
from rayscale.resampling import downsample, enlarged


@dataclass(frozen=True)
class Consistency:
    """What shrinking the result back to the size of its source changed; 0 is perfect.

    ``reflectance``: mean absolute difference, as a fraction of white. ``spectral``: mean spectral angle in degrees.
    ``spatial``: displacement in source pixels.
    """

    reflectance: float
    spectral: float
    spatial: float


def consistency(sr: Values, lr: Values, scale: float) -> Consistency:
    """Compare ``sr`` ``(sH, sW, C)``, shrunk by MATLAB's bicubic, with its source ``lr`` ``(H, W, C)``.

    The three consistency measures of opensr-test (Aybar et al. 2024, "A comprehensive benchmark for optical remote
    sensing image super-resolution"), here with the shrinking that the benchmark sets were made by.

    Raises InputError when ``sr`` is not of the size and type that ``scale`` makes of ``lr``.
    """
    expected = (*(enlarged(size, scale) for size in lr.shape[:2]), *lr.shape[2:])
    if sr.shape != expected or sr.dtype != lr.dtype:
        raise InputError(
            f"{sr.dtype} {sr.shape} is not what scale {scale} makes of {lr.dtype} {lr.shape}: {expected}"
        )
    source = lr.astype(np.float64)
    shrunk = _shrink(sr.astype(np.float64), source.shape[:2], scale)
    return Consistency(
        reflectance=float(np.abs(shrunk - source).mean()) / peak(lr.dtype),
        spectral=sam(shrunk, source),
        spatial=math.hypot(*displacement(source, shrunk)),
    )


def _shrink(
    values: NDArray[np.float64], size: tuple[int, int], scale: float
) -> NDArray[np.float64]:
    import torch

    planes = torch.from_numpy(np.moveaxis(values, 2, 0))
    return np.asarray(np.moveaxis(downsample(planes, size, scale).numpy(), 0, 2))
