"""PSNR and SSIM, each under a named protocol: a figure without its protocol cannot be compared.

Pixels are compared as integers after rounding, as they would be stored. Reading and averaging over data
sets lives in ``rayscale.evaluation``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rayscale.errors import InputError
from rayscale.imaging.image import Pixels

# BT.601 with the values of MATLAB's rgb2ycbcr: Y of 0..255 RGB lies in 16..235.
_LUMA = np.array([65.738, 129.057, 25.064]) / 256
_LUMA_OFFSET = 16.0

_WINDOW = 11
_SIGMA = 1.5


@dataclass(frozen=True)
class Protocol:
    """How two pictures are compared.

    Args:
        name: what reports and file names carry.
        description: one line for tables.
        luma: compare BT.601 Y; a picture of 1 channel is compared as it is.
        margin: pixels left out at each border beyond ``scale`` of them.
    """

    name: str
    description: str
    luma: bool
    margin: int = 0

    def shave(self, scale: float) -> int:
        """Pixels left out at each border; of a fractional scale, the next whole number."""
        return math.ceil(scale) + self.margin


EDSR_PAPER = Protocol(
    "edsr-paper-y",
    "BT.601 Y, shave = scale: Set5, Set14, B100 and Urban100 in the EDSR paper",
    luma=True,
)
RGB = Protocol("rgb", "all channels, shave = scale: the tables of BasicSR and mmagic", luma=False)
DIV2K = Protocol(
    "div2k-rgb", "all channels, shave = scale + 6: DIV2K in the EDSR paper", luma=False, margin=6
)

PROTOCOLS: dict[str, Protocol] = {item.name: item for item in (EDSR_PAPER, RGB, DIV2K)}


def psnr(a: Pixels, b: Pixels, protocol: Protocol, scale: float) -> float:
    """Peak signal-to-noise ratio in dB over all compared values at once; ``inf`` for equal pictures.

    Args:
        a, b: ``(H, W, C)``, both uint8 or both uint16; their full range is the peak.
        scale: of the enlargement that is judged, it sets the border left out.

    Raises:
        InputError: shapes or types differ, the picture is smaller than its borders, or luma is asked
            of neither 1 nor 3 channels.
    """
    first, second = _prepare(a, b, protocol, scale, smallest=1)
    mean_square = float(np.mean(np.square(first - second)))
    return math.inf if mean_square == 0 else 10 * math.log10(255.0**2 / mean_square)


def ssim(a: Pixels, b: Pixels, protocol: Protocol, scale: float) -> float:
    """Structural similarity (Wang et al. 2004), mean over positions and channels; 1 for equal pictures.

    As MATLAB's ssim_index: 11 x 11 Gaussian of sigma 1.5, only positions where the window fits,
    C1 = (0.01 L)^2, C2 = (0.03 L)^2. Arguments and errors as :func:`psnr`.
    """
    first, second = _prepare(a, b, protocol, scale, smallest=_WINDOW)
    return float(np.mean([_ssim_plane(x, y) for x, y in zip(first, second, strict=True)]))


def _prepare(
    a: Pixels, b: Pixels, protocol: Protocol, scale: float, smallest: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Both pictures as planes (C or 1, h, w) of 0..255 floats, shaved."""
    if a.shape != b.shape or a.dtype != b.dtype:
        raise InputError(
            f"cannot compare {a.dtype} {a.shape} with {b.dtype} {b.shape}: shapes and types must be equal"
        )
    if a.ndim != 3 or a.dtype not in (np.uint8, np.uint16):
        raise InputError(f"cannot measure {a.dtype} {a.shape}: needed uint8 or uint16 (H, W, C)")
    shave = protocol.shave(scale)
    height, width, channels = a.shape
    if min(height, width) < 2 * shave + smallest:
        raise InputError(
            f"{width} x {height} pixels are too few: protocol {protocol.name} at scale {scale:g} leaves out "
            f"{shave} at each border and needs {smallest} between"
        )
    if protocol.luma and channels not in (1, 3):
        raise InputError(
            f"protocol {protocol.name} measures grey or RGB, not {channels} channels; use {RGB.name}"
        )
    inner = slice(shave, -shave or None)
    unit = 255.0 / np.iinfo(a.dtype).max
    return _planes(a[inner, inner], protocol, unit), _planes(b[inner, inner], protocol, unit)


def _planes(pixels: Pixels, protocol: Protocol, unit: float) -> NDArray[np.float64]:
    if protocol.luma and pixels.shape[2] == 3:
        return np.asarray((pixels @ _LUMA) * unit + _LUMA_OFFSET)[None]
    return np.asarray(np.moveaxis(pixels, 2, 0) * np.float64(unit), order="C")


def _ssim_plane(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    """SSIM of one plane in stripes, so that the working set stays in the processor's cache."""
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    rows = x.shape[0] - _WINDOW + 1
    step = max(8, (1 << 16) // x.shape[1])
    total: float = 0.0
    for top in range(0, rows, step):
        part = slice(top, min(top + step, rows) + _WINDOW - 1)
        u, v = x[part], y[part]
        mean_u, mean_v = _blur(u), _blur(v)
        product = mean_u * mean_v
        squares = mean_u**2 + mean_v**2
        covariance = _blur(u * v) - product
        variances = _blur(u * u + v * v) - squares
        quality: NDArray[np.float64] = (2 * product + c1) * (2 * covariance + c2)
        quality /= (squares + c1) * (variances + c2)
        total += float(np.sum(quality))
    return total / float(rows * (x.shape[1] - _WINDOW + 1))


def _gaussian() -> NDArray[np.float64]:
    offsets = np.arange(_WINDOW) - _WINDOW // 2
    weights = np.exp(-(offsets**2) / (2 * _SIGMA**2))
    return np.asarray(weights / weights.sum())


_WEIGHTS = _gaussian()


def _blur(plane: NDArray[np.float64]) -> NDArray[np.float64]:
    """Gaussian window at every position where it fits: (h, w) to (h - 10, w - 10)."""
    half = _WINDOW // 2
    down, across = plane.shape[0] - 2 * half, plane.shape[1] - 2 * half
    tall = plane[half : half + down] * _WEIGHTS[half]
    for k in range(half):
        tall += (plane[k : k + down] + plane[2 * half - k : 2 * half - k + down]) * _WEIGHTS[k]
    wide: NDArray[np.float64] = tall[:, half : half + across] * _WEIGHTS[half]
    for k in range(half):
        wide += (
            tall[:, k : k + across] + tall[:, 2 * half - k : 2 * half - k + across]
        ) * _WEIGHTS[k]
    return wide
