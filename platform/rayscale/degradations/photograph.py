"""What happens to photographs: blur of any width and direction, noise, JPEG; all of it drawn for each image.

After Zhang et al. 2021 (BSRGAN, ICCV) and Wang et al. 2021 (Real-ESRGAN, ICCV Workshops), once and in a fixed order.
"""

from __future__ import annotations

import io
import math
from typing import ClassVar, Self

import numpy as np
import PIL.Image
from pydantic import Field, model_validator

from rayscale.degradations.stage import Floats, Limits, Random, Stage

Range = tuple[float, float]


class BlurNoiseJpeg(Stage):
    """A Gaussian blur before shrinking, Gaussian noise and JPEG after it.

    Attributes:
        blur: standard deviation along each of its two axes, in HR pixels, uniform.
        isotropic: how often both are the same; otherwise the axes lie in any direction.
        noise: standard deviation in 1/255 of the range of the type, uniform.
        grey: how often all channels have the same noise.
        jpeg: quality, uniform over whole numbers; ``none`` is without. Images of other than 1 or 3 channels are compressed
            channel by channel, those of more than 8 bits through 8.
    """

    name: ClassVar[str] = "blur_noise_jpeg"
    random: ClassVar[bool] = True
    ranges: ClassVar[tuple[str, ...]] = ("blur", "noise", "jpeg")

    blur: Range = (0.2, 3.0)
    isotropic: float = Field(default=0.5, ge=0, le=1)
    noise: Range = (1.0, 25.0)
    grey: float = Field(default=0.4, ge=0, le=1)
    jpeg: tuple[int, int] | None = (30, 95)

    @model_validator(mode="after")
    def _check(self) -> Self:
        for name, pair in (("blur", self.blur), ("noise", self.noise), ("jpeg", self.jpeg)):
            if pair is not None and not 0 <= pair[0] <= pair[1]:
                raise ValueError(f"{name} {pair[0]:g}..{pair[1]:g} must rise from 0 or more")
        if self.jpeg is not None and not 1 <= self.jpeg[0] <= self.jpeg[1] <= 100:
            raise ValueError("jpeg qualities lie between 1 and 100")
        if self.blur[1] > 20:
            raise ValueError(f"blur {self.blur[1]:g} is too wide; give at most 20 HR pixels")
        return self

    def before(self, x: Floats, random: Random | None) -> Floats:
        assert random is not None
        one, other, angle, kind = random.random(4)
        low, high = self.blur
        widths = (low + (high - low) * one, low + (high - low) * other)
        if kind < self.isotropic:
            widths, angle = (widths[0], widths[0]), 0.0
        return _convolve(x, gaussian(widths, math.pi * angle))

    def after(self, x: Floats, random: Random | None, limits: Limits) -> Floats:
        assert random is not None
        level, kind, quality = random.random(3)
        deviation = (self.noise[0] + (self.noise[1] - self.noise[0]) * level) / 255 * limits.range
        channels = 1 if kind < self.grey else x.shape[2]
        x = x + deviation * random.standard_normal((*x.shape[:2], channels))
        if self.jpeg is None:
            return x
        first, last = self.jpeg
        return compress(x, first + int(quality * (last - first + 1)), limits)

    def reach(self, scale: int) -> int:
        return 2 + math.ceil(4 * self.blur[1] / scale)


def gaussian(widths: tuple[float, float], angle: float) -> Floats:
    """A kernel of sum 1 with these standard deviations, the first along ``angle`` from the columns towards the rows."""
    radius = max(1, math.ceil(4 * max(widths)))
    y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    along = x * math.cos(angle) + y * math.sin(angle)
    across = y * math.cos(angle) - x * math.sin(angle)
    one, other = (max(width, 1e-3) for width in widths)
    kernel = np.exp(-0.5 * ((along / one) ** 2 + (across / other) ** 2))
    return np.asarray(kernel / kernel.sum())


def _convolve(x: Floats, kernel: Floats) -> Floats:
    from scipy.signal import oaconvolve

    radius = kernel.shape[0] // 2
    padded = np.pad(x, ((radius, radius), (radius, radius), (0, 0)), mode="edge")
    return np.asarray(oaconvolve(padded, kernel[..., None], mode="valid", axes=(0, 1)))


def compress(x: Floats, quality: int, limits: Limits) -> Floats:
    """``x`` after JPEG (libjpeg, 4:2:0 for colour), in its units."""
    scaled = (x - limits.black) * (255 / limits.range)
    bytes_ = np.clip(np.floor(scaled + 0.5), 0, 255).astype(np.uint8)
    if bytes_.shape[2] != 3:
        planes = [
            _jpeg(np.ascontiguousarray(plane), quality) for plane in np.moveaxis(bytes_, 2, 0)
        ]
        back = np.stack(planes, axis=2)
    else:
        back = _jpeg(bytes_, quality)
    return np.asarray(back * (limits.range / 255) + limits.black, np.float64)


def _jpeg(pixels: np.ndarray, quality: int) -> np.ndarray:
    buffer = io.BytesIO()
    PIL.Image.fromarray(pixels).save(buffer, "JPEG", quality=quality)
    return np.asarray(PIL.Image.open(buffer))
