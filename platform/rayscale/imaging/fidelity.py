"""How true values are, beyond PSNR and SSIM: the measures of remote sensing and of medicine.

Each compares an enlarged picture with its reference, both ``(H, W, C)`` of uint8, uint16 or floating values, any
number of channels. What the frequencies tell is in ``fourier``, agreement with the source in ``consistency``.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rayscale.errors import InputError

Values = NDArray[Any]

_REACH = 3  # pixels that cPSNR lets the picture be displaced by, in each direction


def peak(dtype: np.dtype[Any]) -> float:
    """White: the largest value of an integer type, 1 for floating reflectances and intensities."""
    return float(np.iinfo(dtype).max) if dtype.kind in "iu" else 1.0


def as_pair(a: Values, b: Values) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Both as float64; InputError unless they are ``(H, W, C)`` of one shape and type."""
    if a.ndim != 3 or a.shape != b.shape or a.dtype != b.dtype:
        raise InputError(
            f"cannot compare {a.dtype} {a.shape} with {b.dtype} {b.shape}: needed twice (height, width, channels) "
            "of one shape and type"
        )
    return a.astype(np.float64), b.astype(np.float64)


def cpsnr(sr: Values, hr: Values) -> float:
    """PSNR in dB, corrected for brightness and displacement; ``inf`` for a picture that is right up to these.

    The score of the PROBA-V challenge (Maertens et al. 2019, "Super-resolution of PROBA-V images using
    convolutional neural networks"): ``sr`` without a border of 3 pixels is compared with the 49 windows of that
    size in ``hr``, the mean difference of each channel removed; the best counts. All pixels count as clear.

    Raises InputError for less than 7 x 7 pixels, and as :func:`as_pair`.
    """
    first, second = as_pair(sr, hr)
    height, width = (size - 2 * _REACH for size in first.shape[:2])
    if min(height, width) < 1:
        raise InputError(
            f"{first.shape[1]} x {first.shape[0]} pixels are too few for cPSNR, which needs {2 * _REACH + 1} "
            "in each direction"
        )
    inner = first[_REACH:-_REACH, _REACH:-_REACH]
    shifts = range(2 * _REACH + 1)
    # The mean square of a difference without its mean is its variance.
    mean_square = min(
        (second[y : y + height, x : x + width] - inner).var(axis=(0, 1)).mean()
        for y in shifts
        for x in shifts
    )
    return math.inf if mean_square == 0 else 10 * math.log10(peak(sr.dtype) ** 2 / mean_square)


def nrmse(sr: Values, hr: Values) -> float:
    """Root mean square error over the root mean square of the reference: 0 for equal pictures.

    Raises InputError for a reference of zeros, and as :func:`as_pair`.
    """
    first, second = as_pair(sr, hr)
    norm = np.linalg.norm(second)
    if norm == 0:
        raise InputError("NRMSE has no meaning for a reference of zeros; leave this image out")
    return float(np.linalg.norm(first - second) / norm)


def sam(sr: Values, hr: Values) -> float:
    """Spectral angle (Yuhas et al. 1992): mean over pixels of the angle between two spectra, in degrees.

    It ignores brightness, so it says nothing of a single channel (0). Two empty spectra are equal (0), an empty one
    is at a right angle to any other. Errors as :func:`as_pair`.
    """
    first, second = (_directions(values) for values in as_pair(sr, hr))
    # Kahan's form is exact where the arc cosine loses half of its digits: at small angles.
    apart = np.linalg.norm(first - second, axis=2)
    together = np.linalg.norm(first + second, axis=2)
    return float(np.degrees(2 * np.arctan2(apart, together)).mean())


def _directions(values: NDArray[np.float64]) -> NDArray[np.float64]:
    norm = np.linalg.norm(values, axis=2, keepdims=True)
    return np.asarray(np.divide(values, norm, out=np.zeros_like(values), where=norm > 0))


def ergas(sr: Values, hr: Values, scale: float) -> float:
    """Relative global error of synthesis (Wald 2000): ``100 / scale * sqrt(mean over bands (RMSE / mean)^2)``.

    0 is perfect; good fusion is below 3. ``1 / scale`` is the ratio of the pixel sizes, high over low resolution.
    Raises InputError for a band whose reference has a mean of 0, and as :func:`as_pair`.
    """
    first, second = as_pair(sr, hr)
    mean = second.mean(axis=(0, 1))
    if not mean.all():
        band = int(np.flatnonzero(mean == 0)[0])
        raise InputError(
            f"ERGAS has no meaning where a reference band has a mean of 0, as band {band} (the first is 0); "
            "leave this image out"
        )
    mean_square = np.square(first - second).mean(axis=(0, 1))
    return float(100 / scale * math.sqrt((mean_square / mean**2).mean()))
