"""Which stored values a network sees as black and white: a stored, invertible rule per kind of file.

Networks are trained on pictures from black to white; files hold reflectances, Hounsfield units or metres. The
map between them is linear, the same for every tile, window and slice, never clipped on the way in, and named
in the provenance of the output.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rayscale.errors import InputError, UnsupportedError

Pixels = NDArray[Any]

PICTURE_TYPES = (np.dtype(np.uint8), np.dtype(np.uint16))
"""Types whose whole range is black to white without further ado."""

PIXEL_TYPES = tuple(np.dtype(name) for name in ("u1", "i1", "u2", "i2", "u4", "i4", "f4", "f8"))
"""Every type that is handled. 32-bit integers and float64 go through a float32 network: values keep about
seven digits of the range from black to white."""

_RESOLUTION = 2.0**-24
"""Of the range from black to white: where a network sees values that are nearer to each other as one."""

_LEFT_OUT = 0.001
"""Share of the values beyond black, and beyond white, where they are measured."""

_WAY_OUT = "declare a fill value as nodata or store it as NaN, or rescale the values"


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
    def of_setting(
        cls, dtype: np.dtype[Any], ends: tuple[float, float], found: Levels | None = None
    ) -> Levels:
        """Those that the user set, the same for every file of a collection; ``found`` in the file are the limits
        of what may be stored."""
        limits = None if found is None else found.limits
        bits = 8 if dtype == np.uint8 else 16
        black, white = ends
        return cls((black,), (white,), f"{black:g} to {white:g}, as set", bits, limits)

    @classmethod
    def of_data(cls, black: Pixels, white: Pixels, rule: str) -> Levels:
        """From the smallest to the largest value, per channel; a channel of one value gets a range of 1, or of what
        its type can tell apart where that is more."""
        low = tuple(float(value) for value in np.ravel(black))
        high = tuple(float(value) for value in np.ravel(white))
        high = tuple(
            b if b > a else max(a + 1, math.nextafter(a, math.inf))
            for a, b in zip(low, high, strict=True)
        )
        return cls(low, high, rule)

    @classmethod
    def of_picture(cls, pixels: Pixels) -> Levels:
        """Those of a picture ``(H, W, C)`` that says nothing of them.

        Eight bits are black to white by convention. Sixteen are not: instruments of ten or twelve bits store them as they
        come, and a network that sees three per cent of its range answers with its own bias. So they are measured.
        """
        if pixels.dtype == np.uint8:
            return cls.of_type(pixels.dtype)
        return cls.of_measured(pixels.dtype, [(pixels, True)], None, "of the picture", pixels.size)

    @classmethod
    def of_measured(
        cls,
        dtype: np.dtype[Any],
        parts: Iterable[tuple[Pixels, NDArray[np.bool_] | bool]],
        axes: tuple[int, ...] | None,
        whose: str,
        total: int,
    ) -> Levels:
        """Robust ends of all valid values, of which there may be none, over ``axes`` of every part.

        They leave out a thousandth of the values at each end, so that a saturated pixel moves nothing, and a fill that no one
        declared, however often it occurs. They are stored values, the same however the file is cut into parts, and scale with
        the values.

        Args:
            parts: pixels of type ``dtype``, and where they are valid.
            whose: values they are, for the rule.
            total: number of values of all parts, or per channel where ``axes`` leave channels apart; or more.

        Raises:
            InputError: one value lies so far from all others that a network would see these as one.
        """
        ends: list[_Ends] = []

        def watched() -> Iterable[tuple[Pixels, NDArray[np.bool_] | bool]]:
            for pixels, valid in parts:
                planes = _planes(pixels, valid, axes)
                ends.extend(_Ends(total) for _ in range(len(planes) - len(ends)))
                for band, plane in zip(ends, planes, strict=True):
                    band.add(plane)
                yield pixels, valid

        lows, highs = _extremes(dtype, watched(), axes)
        widest = cls.of_data(lows[0], highs[0], "")
        pairs, apart = [], False
        for band, (low, then), (high, before), whole in zip(
            ends,
            lows.T.tolist(),
            highs.T.tolist(),
            zip(widest.black, widest.white, strict=True),
            strict=True,
        ):
            least, most = band.find()
            if least >= most:
                least, most = whole
            # One value farther from all others than these from each other is a fill, or saturated: a network sees the others.
            inner = before - then
            if 0 < inner < then - low and least < then:
                least, apart = then, True
            if 0 < inner < high - before and most > before:
                most, apart = before, True
            pairs.append((least, most))
        rule = f"{_LEFT_OUT:.1%} to {1 - _LEFT_OUT:.1%} of the values {whose}"
        if apart:
            rule += ", without one that is far from all others"
        black, white = zip(*pairs, strict=True)
        bits = 8 if dtype == np.uint8 else 16
        found = cls(tuple(map(float, black)), tuple(map(float, white)), rule, bits)
        if dtype.kind == "f":  # known here, not in the middle of an upscale
            for end in (widest.black, widest.white):
                found.to_network(np.array(end, dtype), 255.0)
        return found

    def of_channels(self, channels: slice) -> Levels:
        """The levels of some of the channels."""
        if len(self.black) == 1:
            return self
        return replace(self, black=self.black[channels], white=self.white[channels])

    def to_network(self, pixels: Pixels, value_range: float) -> NDArray[np.float32]:
        """Stored ``(H, W, C)`` to float32, black at 0 and white at ``value_range``.

        Raises:
            InputError: a value lies so far from black and white that float32 cannot hold it.
        """
        black, gain = self._black_and_gain(pixels.dtype, value_range)
        if pixels.dtype.kind != "f":
            if not black.any():  # the common case, without a copy
                return np.asarray(pixels * gain, np.float32)
            return np.asarray((pixels - black) * gain, np.float32)
        with np.errstate(over="ignore", invalid="ignore"):  # told below
            seen = np.asarray((pixels - black) * gain, np.float32)
        lost = ~np.isfinite(seen)
        if lost.any():
            raise InputError(
                f"the value {pixels[lost][0]:g} is out of all proportion to the range from {min(self.black):g} to "
                f"{max(self.white):g} of the others; {_WAY_OUT}"
            )
        return seen

    def to_values(
        self, output: NDArray[np.float32], value_range: float, dtype: np.dtype[Any]
    ) -> Pixels:
        """The inverse, rounded and clipped for integer types; floating values may leave black to white.

        Raises:
            InputError: a floating value leaves its type as well.
        """
        black, gain = self._black_and_gain(dtype, value_range)
        with np.errstate(over="ignore", invalid="ignore"):  # told below
            values = output / gain
            values += black
            if dtype.kind in "iu":
                low, high = self._stored(dtype)
                np.clip(np.rint(values, out=values), low, high, out=values)
            return self.finite(values.astype(dtype))

    def finite(self, values: Pixels) -> Pixels:
        """``values`` in stored units, if all of them are finite.

        Raises:
            InputError: some are not, because they were next to the end of the type.
        """
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            raise InputError(
                f"values next to {np.finfo(values.dtype).max:g}, where {values.dtype} ends, leave it when enlarged; {_WAY_OUT}"
            )
        return values

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


class _Ends:
    """The lowest and highest values of a band, of which ``find`` tells those that leave out a share of all.

    Args:
        total: the most values that may come.
    """

    def __init__(self, total: int) -> None:
        self._kept = int(total * _LEFT_OUT) + 1
        self._count = 0
        self._low: Pixels | None = None
        self._high: Pixels | None = None

    def add(self, values: Pixels) -> None:
        """Take in a part, ``(n,)``."""
        self._count += len(values)
        for name, end in (("_low", 1), ("_high", -1)):
            before = getattr(self, name)
            both = values if before is None else np.concatenate([before, values])
            if len(both) > self._kept:
                both = (
                    np.partition(both, self._kept - 1)[: self._kept]
                    if end > 0
                    else np.partition(both, -self._kept)[-self._kept :]
                )
            setattr(self, name, both)

    def find(self) -> tuple[float, float]:
        """Black and white; two zeros without any value."""
        if not self._count or self._low is None or self._high is None:
            return 0.0, 0.0
        beyond = int(self._count * _LEFT_OUT)
        return float(np.sort(self._low)[beyond]), float(np.sort(self._high)[-1 - beyond])


def _extremes(
    dtype: np.dtype[Any],
    parts: Iterable[tuple[Pixels, NDArray[np.bool_] | bool]],
    axes: tuple[int, ...] | None,
) -> tuple[Pixels, Pixels]:
    """The smallest value of each band and the one next to it, ``(2, bands)``, and the largest likewise; 0 and 1 where there is
    none. They are known to be resolved when this returns."""
    kind = np.finfo(dtype) if dtype.kind == "f" else np.iinfo(dtype)
    least, most = (np.min, np.greater, kind.max), (np.max, np.less, kind.min)
    found = [(_two(*part, axes, *least), _two(*part, axes, *most)) for part in parts]
    lows = _two(np.concatenate([low for low, _ in found]), True, 0, *least)
    highs = _two(np.concatenate([high for _, high in found]), True, 0, *most)
    empty = lows[0] > highs[0]
    lows[:, empty], highs[:, empty] = 0, 1
    for band, (low, then, before, high) in enumerate(
        zip(*lows.tolist(), *highs[::-1].tolist(), strict=True), 1
    ):
        _check_range(band, low, then, before, high)
    return lows, highs


def _planes(
    pixels: Pixels, valid: NDArray[np.bool_] | bool, axes: tuple[int, ...] | None
) -> list[Pixels]:
    """The valid values of each channel, or of all together."""
    if axes is None:
        planes = [pixels]
    else:
        planes = [pixels[..., channel] for channel in range(pixels.shape[-1])]
    if valid is True:
        return [plane.ravel() for plane in planes]
    masks = np.broadcast_to(valid, pixels.shape)
    if axes is None:
        return [pixels[masks]]
    return [plane[masks[..., channel]] for channel, plane in enumerate(planes)]


def _two(values: Pixels, where: Any, axes: Any, end: Any, inside: Any, none: Any) -> Pixels:
    """The outermost valid value at one ``end`` and the one next to it, ``none`` where there is none."""
    first = end(values, axes, where=where, initial=none, keepdims=True)
    then = end(values, axes, where=where & inside(values, first), initial=none)
    return np.stack([np.ravel(first), np.ravel(then)])


def _check_range(band: int, low: float, then: float, before: float, high: float) -> None:
    """Refuse a band whose ends are out of all proportion to the other values: a fill that no one declared.

    ``then`` and ``before`` are the values next to ``low`` and ``high``.
    """
    step = (high - low) * _RESOLUTION
    without_ends = ((then, high), (low, before), (then, before))
    sizes = [max(abs(a), abs(b)) for a, b in without_ends]
    lost = [size for size in sizes if 0 < size < step]
    if low < high and lost:
        raise InputError(
            f"band {band} reaches from {low:g} to {high:g}, of which float32 resolves steps of {step:.2g}, "
            f"but all its other values lie within {max(lost):g} of 0; {_WAY_OUT}"
        )
