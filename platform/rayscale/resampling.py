"""The arithmetic of resampling: MATLAB's ``imresize``, in both directions.

Every learned figure of this field was measured on low-resolution images made by MATLAB's bicubic
(Keys 1981, a = -0.5) whose kernel is widened by the scale when shrinking. OpenCV's and Pillow's
bicubic differ from it by several grey levels, which spoils results. Tensors or arrays in and out; what
an image *is* lives in ``rayscale.imaging``, the interpolating models in ``rayscale.models``.
"""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from rayscale.errors import ConfigError, InputError

if TYPE_CHECKING:
    from torch import Tensor

Method = Literal["bicubic", "bilinear"]
Pixels = npt.NDArray[Any]

# Half the support of each kernel, in source pixels when enlarging.
_RADIUS = {"bicubic": 2.0, "bilinear": 1.0}

_BAND = 1 << 20
"""Values of a picture that are floats at a time."""


def _kernel(x: npt.NDArray[np.float64], method: Method) -> npt.NDArray[np.float64]:
    x = np.abs(x)
    if method == "bilinear":
        return np.clip(1.0 - x, 0.0, None)
    near = 1.5 * x**3 - 2.5 * x**2 + 1.0
    far = -0.5 * x**3 + 2.5 * x**2 - 4.0 * x + 2.0
    return np.where(x <= 1.0, near, np.where(x <= 2.0, far, 0.0))


def exact_scale(scale: float) -> Fraction:
    """The scale as the fraction p/q it stands for, q at most 100.

    Every ``q`` source pixels become ``p`` target pixels, so whatever starts at a multiple of ``q`` lies on the grid of
    the whole image: that is what lets any scale be tiled exactly. Raises ConfigError for a scale that is not
    positive, or not such a fraction (2.5 and 1.33 are, so is 4/3 when given with 7 digits).
    """
    if not 0 < scale < 1000:  # also false for NaN
        raise ConfigError(
            f"scale {scale} is not possible; give a number above 0 and below 1000, such as 2"
        )
    fraction = Fraction(scale).limit_denominator(100)
    if abs(float(fraction) - scale) > 1e-6:
        raise ConfigError(
            f"scale {scale} has too many digits; round it to two decimals, such as {scale:.2f}"
        )
    return fraction


def enlarged(size: int, scale: float) -> int:
    """Pixels of a side of ``size`` after enlarging: ``floor(scale * size)``, computed exactly."""
    return int(size * exact_scale(scale))


@lru_cache(maxsize=64)
def _taps(
    size: int, target: int, scale: float, method: Method
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Source indices and weights ``(target, taps)`` of a 1-D resize; edges are replicated."""
    if size < 1 or target < 1:
        raise InputError(f"cannot resize {size} to {target} pixels; both must be at least 1")
    widen = min(scale, 1.0)  # < 1 only when shrinking: that is the antialiasing
    radius = _RADIUS[method] / widen
    centre = (np.arange(target) + 0.5) / scale - 0.5
    first = np.floor(centre - radius).astype(np.int64) + 1
    index = first[:, None] + np.arange(int(np.ceil(2 * radius)) + 1)
    weight = widen * _kernel(widen * (centre[:, None] - index), method)
    weight /= weight.sum(axis=1, keepdims=True)
    used = np.flatnonzero(np.abs(weight).max(axis=0) > 0)
    return np.clip(index[:, used], 0, size - 1), weight[:, used]


def _resize_axis(x: Any, axis: int, target: int, method: Method, scale: float | None = None) -> Any:
    """Resize one axis of a tensor or an array, one kernel tap at a time to bound the memory.

    ``scale`` is ``target / size`` unless given: the grids of a side of 7 at 1.5 and of 10 pixels made of 7 differ.
    """
    size = x.shape[axis]
    return weigh(x, axis, *_taps(size, target, scale or target / max(size, 1), method))


def weigh(x: Any, axis: int, index: npt.NDArray[np.int64], weight: npt.NDArray[np.float64]) -> Any:
    """Along one axis of ``x``, the sum over taps of what lies at ``index (target, taps)``, times ``weight``."""
    shape = [1] * x.ndim
    shape[axis] = len(index)
    total: Any = None
    for tap in range(index.shape[1]):
        if isinstance(x, np.ndarray):
            part = np.take(x, index[:, tap], axis=axis) * weight[:, tap].reshape(shape)
        else:
            import torch

            rows = torch.from_numpy(index[:, tap].copy()).to(x.device)
            factor = torch.from_numpy(weight[:, tap].copy()).to(x.device, x.dtype)
            part = x.index_select(axis, rows) * factor.reshape(shape)
        total = part if total is None else total + part
    return total


def resize(x: Tensor, size: tuple[int, int], method: Method = "bicubic") -> Tensor:
    """Resize a floating tensor ``(..., H, W)`` to ``size = (h, w)`` as MATLAB's ``imresize`` does.

    Pixels are areas (no corner alignment), the kernel is widened when shrinking, edges are replicated.
    Values may leave the input range, as bicubic does; the caller rounds and clips.
    """
    tall: Tensor = _resize_axis(x, x.ndim - 2, size[0], method)
    wide: Tensor = _resize_axis(tall, x.ndim - 1, size[1], method)
    return wide


def upsample(x: Tensor, scale: float, method: Method = "bicubic") -> Tensor:
    """Enlarge a floating tensor ``(..., H, W)`` to ``enlarged(H, scale)`` by ``enlarged(W, scale)``.

    ``imresize(x, scale)`` of MATLAB, except that a fraction of a pixel at the end is cut, not filled.
    """
    exact = exact_scale(scale)
    for axis in (x.ndim - 2, x.ndim - 1):
        x = _resize_axis(x, axis, int(x.shape[axis] * exact), method, float(exact))
    return x


def downsample(
    x: Tensor, size: tuple[int, ...], scale: float, method: Method = "bicubic"
) -> Tensor:
    """The way back of ``upsample``: shrink a floating tensor ``(..., sH, sW)`` to ``size``, ``(H, W)``, on its grid.

    As ``resize``, of which it differs where a fraction of a pixel was cut: pixels stay where they were, and the edge
    is replicated for what is missing of the last.
    """
    exact = float(1 / exact_scale(scale))
    for axis, target in zip((x.ndim - 2, x.ndim - 1), size, strict=True):
        x = _resize_axis(x, axis, target, method, exact)
    return x


def shrink(pixels: Tensor, size: tuple[int, int]) -> Tensor:
    """``resize`` of an integer tensor (uint8, uint16): computed in float32, rounded and clipped to its dtype."""
    import torch

    x = resize(pixels.to(torch.float32), size)
    return x.add_(0.5).floor_().clamp_(0, torch.iinfo(pixels.dtype).max).to(pixels.dtype)


def bands(rows: int, values: int) -> Iterator[slice]:
    """The rows of a picture in runs, where each takes ``values`` floats.

    The float64 of a whole picture would take eight times the memory of its bytes, several times.
    """
    step = max(_BAND // max(values, 1), 1)
    for start in range(0, rows, step):
        yield slice(start, start + step)


def round_like(x: npt.NDArray[np.float64], dtype: np.dtype[Any]) -> Pixels:
    """Round half up and clip to an integer ``dtype``; floating types are only cast."""
    if dtype.kind == "f":
        return x.astype(dtype)
    limits = np.iinfo(dtype)
    return np.clip(np.floor(x + 0.5), limits.min, limits.max).astype(dtype)


def modcrop(pixels: Pixels, scale: int) -> Pixels:
    """Crop ``(H, W, C)`` at the bottom and right to multiples of ``scale``."""
    height, width = pixels.shape[:2]
    if height < scale or width < scale:
        raise InputError(
            f"an image of {width}x{height} pixels is smaller than the scale {scale}; "
            "use a larger image or a smaller scale"
        )
    return pixels[: height - height % scale, : width - width % scale]


def degrade(pixels: Pixels, scale: int) -> Pixels:
    """The low-resolution image ``(H // scale, W // scale, C)`` of the benchmark sets, same dtype.

    Bit-exact with the stored LR files of Set5 and Set14: bicubic, rows first, rounded and clipped to the
    pixel type between the two passes, edges replicated. The image is cropped to a multiple of ``scale`` first.
    """
    if scale < 1:
        raise ConfigError(f"scale {scale} is not possible; it must be at least 1")
    hr = modcrop(pixels, scale)
    height, width = (side // scale for side in hr.shape[:2])
    index, weight = _taps(hr.shape[0], height, height / hr.shape[0], "bicubic")
    lr = np.empty((height, width, *hr.shape[2:]), hr.dtype)
    for band in bands(height, hr[:1].size):
        low = round_like(weigh(hr, 0, index[band], weight[band]), hr.dtype)
        lr[band] = round_like(_resize_axis(low, 1, width, "bicubic"), hr.dtype)
    return lr


def shrink_floats(x: npt.NDArray[np.float64], scale: int) -> npt.NDArray[np.float64]:
    """``degrade`` without rounding: float64 ``(H, W, C)`` with sides that are multiples of ``scale``."""
    for axis in (0, 1):
        x = _resize_axis(x, axis, x.shape[axis] // scale, "bicubic")
    return x


def enlarge(pixels: Pixels, scale: float, method: Method = "bicubic") -> Pixels:
    """``upsample`` for ``(H, W, C)`` or ``(H, W)`` arrays; rounded and clipped to their dtype."""
    exact = exact_scale(scale)
    height, width = (int(side * exact) for side in pixels.shape[:2])
    index, weight = _taps(pixels.shape[0], height, float(exact), method)
    out = np.empty((height, width, *pixels.shape[2:]), pixels.dtype)
    for band in bands(height, out[:1].size):
        tall = weigh(pixels, 0, index[band], weight[band])
        out[band] = round_like(_resize_axis(tall, 1, width, method, float(exact)), pixels.dtype)
    return out


def blend(array: Pixels, scale: float) -> Pixels:
    """Enlarge ``(H, W)`` on the grid of :func:`upsample` between the two nearest pixels of each axis; rounded to its dtype.

    Bilinear, with weights from integers: what becomes of a part of an array is to the last bit what becomes of it in the whole.
    """
    exact = exact_scale(scale)
    p, q = exact.numerator, exact.denominator
    x = array.astype(np.float64)
    for axis in (0, 1):
        size = x.shape[axis]
        place = (
            2 * np.arange(int(size * exact)) + 1
        ) * q - p  # of the centre, in 1 / (2 p) of a pixel
        below = place // (2 * p)
        weight = (place % (2 * p) / (2 * p)).reshape((-1, 1) if axis == 0 else (1, -1))
        low, high = (np.take(x, np.clip(at, 0, size - 1), axis) for at in (below, below + 1))
        x = low * (1 - weight) + high * weight
    return round_like(x, array.dtype)


def nearest(array: Pixels, scale: float, axes: tuple[int, int] = (0, 1)) -> Pixels:
    """Enlarge two axes on the grid of :func:`upsample` by repeating pixels: for masks and labels, of any type."""
    for axis in axes:
        array = np.take(array, nearest_places(array.shape[axis], scale), axis=axis)
    return array


def nearest_places(size: int, scale: float) -> npt.NDArray[np.int64]:
    """The source pixel under the centre ``(i + 1/2) / scale`` of each target pixel of a side of ``size``, in integers."""
    exact = exact_scale(scale)
    p, q = exact.numerator, exact.denominator
    return (2 * np.arange(int(size * exact)) + 1) * q // (2 * p)
