"""A sensor's point spread: a Gaussian by its gain at the Nyquist frequency of the LR pixels, band by band.

Aiazzi et al. 2006 (Photogramm. Eng. Remote Sens. 72): filters matched to the modulation transfer function (MTF) of the
sensor, of which one figure per band is published.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt
from pydantic import model_validator

from rayscale.degradations.sensors import SENSORS
from rayscale.degradations.stage import Floats, Stage
from rayscale.errors import ConfigError
from rayscale.resampling import weigh

_TAIL = 4.0  # standard deviations at which the kernel ends: 6e-5 of it lie beyond


class Mtf(Stage):
    """``gain``: one for all channels, or one for each. A ``sensor`` brings those of its ``bands``, or of all of them.

    The gain is exact at every scale: the width is that whose samples have it. Samples lie at the centres of LR pixels;
    edges are replicated.
    """

    name: ClassVar[str] = "mtf"
    shrinks: ClassVar[bool] = True

    sensor: str = ""
    bands: tuple[str, ...] = ()
    gain: tuple[float, ...] = ()

    @model_validator(mode="before")
    @classmethod
    def _find_gains(cls, values: Any) -> Any:
        if not isinstance(values, dict) or not values.get("sensor"):
            return values
        sensor = values["sensor"]
        if sensor not in SENSORS:
            raise ValueError(f"sensor {sensor!r} is not known; there are {', '.join(SENSORS)}")
        gains = SENSORS[sensor].gains
        bands = values.get("bands") or ()
        bands = (bands,) if isinstance(bands, str) else tuple(bands)
        if unknown := [band for band in bands if band not in gains]:
            raise ValueError(f"band {unknown[0]!r} is none of {sensor}: {', '.join(gains)}")
        found = tuple(gains[band] for band in bands or gains)
        return {**values, "gain": values.get("gain") or found}  # recorded: a table may be corrected

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not self.gain:
            raise ValueError(
                f"give the gain at Nyquist, such as gain=0.3, or a sensor: {', '.join(SENSORS)}"
            )
        if any(not 0 < gain < 1 for gain in self.gain):
            raise ValueError(f"gain {self.gain} must be above 0 and below 1")
        if self.bands and not self.sensor:
            raise ValueError("bands are those of a sensor; give sensor as well")
        return self

    def shrink(self, x: Floats, scale: int) -> Floats:
        gains = self._gains(x.shape[2])
        out = np.empty((x.shape[0] // scale, x.shape[1] // scale, x.shape[2]))
        for gain in set(gains):
            channels = [channel for channel, own in enumerate(gains) if own == gain]
            part: Any = x[..., channels]
            for axis in (0, 1):
                index, weight = _taps(x.shape[axis], scale, gain)
                part = weigh(part, axis, index, weight)
            out[..., channels] = part
        return out

    def reach(self, scale: int) -> int:
        return 1 + math.ceil(_TAIL * max(_spread(gain, scale) for gain in self.gain) / scale)

    def check(self, channels: int, scale: int) -> None:
        for gain in self._gains(channels):
            _spread(gain, scale)

    def _gains(self, channels: int) -> tuple[float, ...]:
        if len(self.gain) == 1:
            return self.gain * channels
        if len(self.gain) != channels:
            names = f" of {self.sensor}" if self.sensor else ""
            raise ConfigError(
                f"mtf has the gains of {len(self.gain)} bands{names}, but the images have {channels} channels; name the band "
                "of each channel, such as mtf:sensor=sentinel-2,bands=B4/B3/B2"
            )
        return self.gain


def _kernel(spread: float, scale: int) -> tuple[npt.NDArray[np.int64], Floats]:
    """HR pixels relative to the first of an LR pixel, and their weights."""
    centre = (scale - 1) / 2
    radius = max(_TAIL * spread, 0.5)
    offsets = np.arange(math.ceil(centre - radius), math.floor(centre + radius) + 1)
    weights = np.exp(-((offsets - centre) ** 2) / (2 * spread**2))
    return offsets, weights / weights.sum()


def _gain_of(spread: float, scale: int) -> float:
    """Gain of the samples at half a cycle per LR pixel."""
    offsets, weights = _kernel(spread, scale)
    return float((weights * np.cos(np.pi * (offsets - (scale - 1) / 2) / scale)).sum())


@lru_cache
def _spread(gain: float, scale: int) -> float:
    """Standard deviation in HR pixels of the Gaussian with this gain at Nyquist: ``scale sqrt(-2 ln gain) / pi``, sampled."""
    low, high = 0.1, 4.0 * scale
    if gain >= _gain_of(low, scale) or gain <= _gain_of(high, scale):
        raise ConfigError(
            f"a gain of {gain:g} at Nyquist is not possible at x{scale}; give one between {_gain_of(high, scale):.2g} and "
            f"{_gain_of(low, scale):.2g}"
        )
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if _gain_of(middle, scale) > gain else (low, middle)
    return middle


@lru_cache(maxsize=64)
def _taps(size: int, scale: int, gain: float) -> tuple[npt.NDArray[np.int64], Floats]:
    """HR pixels and their weights ``(size // scale, taps)``; edges are replicated."""
    offsets, weights = _kernel(_spread(gain, scale), scale)
    index = scale * np.arange(size // scale)[:, None] + offsets
    return np.clip(index, 0, size - 1), np.broadcast_to(weights, index.shape)
