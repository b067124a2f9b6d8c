"""Which stored values a network sees as black and white: a stored, invertible rule per kind of file.

Networks are trained on pictures from black to white; files hold reflectances, Hounsfield units or metres. The
map between them is linear, the same for every tile, window and slice, never clipped on the way in, and named
in the provenance of the output.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rayscale.errors import UnsupportedError

Pixels = NDArray[Any]

PICTURE_TYPES = (np.dtype(np.uint8), np.dtype(np.uint16))
"""Types whose whole range is black to white without further ado."""

PIXEL_TYPES = tuple(np.dtype(name) for name in ("u1", "i1", "u2", "i2", "u4", "i4", "f4", "f8"))
"""Every type that is handled. 32-bit integers and float64 go through a float32 network: values keep about
seven digits of the range from black to white."""


@dataclass(frozen=True)
class Levels:
    """The linear map from stored values to the range of a network.

    Attributes:
        black, white: stored values that become 0 and 1; one for all channels, or one per channel.
        rule: how they were found, for the provenance.
        bits: depth that the arithmetic must keep; 8 lets ``auto`` precision use bfloat16.
        limits: smallest and largest value that may be written; None is the range of an integer type, and no
            limit for floating types.
    """

    black: tuple[float, ...]
    white: tuple[float, ...]
    rule: str
    bits: int = 16
    limits: tuple[float, float] | None = None

    @classmethod
    def of_type(cls, dtype: np.dtype[Any], bits: int | None = None) -> Levels:
        """Black at 0, white at the largest value of ``bits`` bits (those of the type when None).

        Raises:
            UnsupportedError: a type other than uint8 and uint16 says nothing of black and white.
        """
        if dtype not in PICTURE_TYPES:
            raise UnsupportedError(
                f"pixels are {dtype}; only uint8 and uint16 are handled without levels of their own"
            )
        bits = bits or dtype.itemsize * 8
        white = float((1 << bits) - 1)
        return cls((0.0,), (white,), f"0 to {white:.0f}, the range of {bits} bit", bits, (0, white))

    @classmethod
    def of_data(cls, black: Pixels, white: Pixels, rule: str) -> Levels:
        """From the smallest to the largest value, per channel; a channel of one value gets a range of 1."""
        low = tuple(float(value) for value in np.ravel(black))
        high = tuple(float(value) for value in np.ravel(white))
        high = tuple(b if b > a else a + 1 for a, b in zip(low, high, strict=True))
        return cls(low, high, rule)

    def of_channels(self, channels: slice) -> Levels:
        """The levels of some of the channels."""
        if len(self.black) == 1:
            return self
        return replace(self, black=self.black[channels], white=self.white[channels])

    def to_network(self, pixels: Pixels, value_range: float) -> NDArray[np.float32]:
        """Stored ``(H, W, C)`` to float32, black at 0 and white at ``value_range``."""
        black, gain = self._black_and_gain(pixels.dtype, value_range)
        if not black.any():  # the common case, without a copy
            return np.asarray(pixels * gain, np.float32)
        return np.asarray((pixels - black) * gain, np.float32)

    def to_values(
        self, output: NDArray[np.float32], value_range: float, dtype: np.dtype[Any]
    ) -> Pixels:
        """The inverse, rounded and clipped for integer types; floating values may leave black to white."""
        black, gain = self._black_and_gain(dtype, value_range)
        values = output / gain
        values += black
        if dtype.kind in "iu":
            low, high = self._stored(dtype)
            np.clip(np.rint(values, out=values), low, high, out=values)
        return values.astype(dtype)

    def unit(self, value_range: float, dtype: np.dtype[Any]) -> NDArray[np.float32]:
        """What one stored unit is in the range of a network, one for all channels or one per channel."""
        return np.abs(self._black_and_gain(dtype, value_range)[1]).astype(np.float32)

    def bounds(
        self, value_range: float, dtype: np.dtype[Any]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]] | None:
        """Least and largest value of a network, for all channels or per channel, that integers can store; None for floats."""
        if dtype.kind == "f":
            return None
        black, gain = self._black_and_gain(dtype, value_range)
        low, high = self._stored(dtype)
        ends = np.sort([(low - black) * gain, (high - black) * gain], axis=0).astype(np.float32)
        return ends[0], ends[1]

    def describe(self) -> dict[str, Any]:
        """What the provenance says."""
        return {key: asdict(self)[key] for key in ("rule", "black", "white")}

    def _stored(self, dtype: np.dtype[Any]) -> tuple[float, float]:
        return self.limits or (np.iinfo(dtype).min, np.iinfo(dtype).max)

    def _black_and_gain(self, dtype: np.dtype[Any], value_range: float) -> tuple[Pixels, Pixels]:
        # float32 holds 16-bit integers exactly; wider types need float64 before the difference is taken.
        exact = np.float32 if dtype.itemsize <= 2 else np.float64
        black = np.asarray(self.black, np.float64)
        gain = value_range / (np.asarray(self.white, np.float64) - black)
        return black.astype(exact), gain.astype(exact)
