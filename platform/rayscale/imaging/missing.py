"""Pixels without a measurement: filled before the network, so that none spoils its neighbourhood, and restored after.

Filling and restoring take the nearest pixel. What a file calls missing (nodata, NaN, a mask, padding) is known to its
container.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rayscale.imaging.levels import Levels
from rayscale.resampling import blend, nearest

Pixels = NDArray[Any]

MASK_REACH = 3
"""Source pixels around a pixel of a mask that its enlargement depends on: one, and as far as that is filled from."""


@dataclass(frozen=True, eq=False)
class Missing:
    """Which pixels of an image are missing.

    Attributes:
        valid: True where a value was measured; the shape of the pixels, or with one channel that holds for all.
        reserved: first and last of the values that stand for missing in the file (nodata, padding), None when a mask
            or NaN says so.
    """

    valid: NDArray[np.bool_] = field(repr=False)
    reserved: tuple[float, float] | None = None

    @classmethod
    def where(
        cls, valid: NDArray[np.bool_], reserved: tuple[float, float] | None = None
    ) -> Missing | None:
        """None when nothing is missing and no value is reserved."""
        return cls(valid, reserved) if reserved is not None or not valid.all() else None

    @property
    def everything(self) -> bool:
        """Whether no pixel at all was measured: the network has nothing to see."""
        return not self.valid.any()

    def cropped(self, rows: slice, columns: slice) -> Missing:
        """The same for a part of the image."""
        return Missing(self.valid[..., rows, columns, :], self.reserved)

    def filled(self, pixels: Pixels, reach: int, blank: Sequence[float] = (0.0,)) -> Pixels:
        """``pixels`` with every missing value replaced by the nearest measured one of its plane.

        Args:
            reach: pixels to where a measured value is looked for. What lies farther becomes blank, so that no value
                depends on anything farther away, and a part of an image is filled as the whole is.
            blank: the value of pixels out of reach; one for all channels, or one per channel.
        """
        if self.valid.all():
            return pixels
        from scipy.ndimage import distance_transform_edt

        out = pixels.copy()
        blanks = np.broadcast_to(np.asarray(blank).astype(pixels.dtype), pixels.shape[-1:])
        for place, valid in self._planes():
            rows, columns = np.nonzero(~valid)
            plane = out[place]
            empty = blanks[place[-1]] if plane.ndim == 2 else blanks
            if len(rows) and valid.any():
                nearest_to = distance_transform_edt(
                    ~valid, return_distances=False, return_indices=True
                )
                above, beside = nearest_to[:, rows, columns]
                near = (above - rows) ** 2 + (beside - columns) ** 2 <= reach**2
                plane[rows[near], columns[near]] = plane[above[near], beside[near]]
                rows, columns = rows[~near], columns[~near]
            plane[rows, columns] = empty
        return out

    def restored(
        self, output: Pixels, source: Pixels, scale: float, levels: Levels | None = None
    ) -> Pixels:
        """``output``, with what was missing in ``source`` as it was, and no measured pixel of a reserved value."""
        self.spare(output, levels)
        valid = np.broadcast_to(self._enlarge(self.valid, scale), output.shape)
        missing = ~valid
        if missing.any():
            output[missing] = self._enlarge(source, scale)[missing]
        return output

    def spare(self, output: Pixels, levels: Levels | None = None) -> None:
        """Change reserved values of ``output`` to the next that are free, within the limits of ``levels``."""
        if self.reserved is None:
            return
        first, last = np.asarray(self.reserved).astype(output.dtype)
        taken = (output >= first) & (output <= last)
        if taken.any():
            limits = None if levels is None else levels.limits
            output[taken] = _beside(output[taken], first, last, limits)

    def reserving(self) -> Missing | None:
        """The same reserved values for an image of which nothing is missing; None without any."""
        return Missing.where(np.ones_like(self.valid), self.reserved)

    def scaled(self, scale: float) -> Missing:
        """The same for the enlarged image."""
        return Missing(self._enlarge(self.valid, scale), self.reserved)

    @staticmethod
    def _enlarge(array: Pixels, scale: float) -> Pixels:
        return nearest(array, scale, (array.ndim - 3, array.ndim - 2))

    def _planes(self) -> Iterator[tuple[Any, NDArray[np.bool_]]]:
        """Index into the pixels and mask ``(H, W)`` of every plane; a shared mask keeps its channels together."""
        valid = self.valid
        for frame in np.ndindex(valid.shape[:-3]):
            shared = valid.shape[-1] == 1
            for channel in range(valid.shape[-1]):
                yield (*frame, ..., *(() if shared else (channel,))), valid[(*frame, ..., channel)]


def enlarge_mask(mask: Pixels, scale: float) -> Pixels:
    """A mask or an alpha band ``(H, W)``, enlarged: 0 by nearest, as missing pixels are, and what is visible by bilinear
    interpolation among visible pixels alone. So a mask of one value stays one, and a soft edge stays soft."""
    larger = nearest(mask, scale)
    visible = mask > 0
    if visible.any() and np.ptp(mask[visible]):
        filled = Missing(visible[:, :, None]).filled(mask[:, :, None], MASK_REACH)[:, :, 0]
        larger = np.where(larger > 0, blend(filled, scale), larger)
    return larger


def _beside(values: Pixels, first: Any, last: Any, limits: tuple[float, float] | None) -> Pixels:
    """The nearer of the two values around ``first`` to ``last`` that may be written: in the type, and within the limits."""
    if values.dtype.kind == "f":
        with np.errstate(over="ignore"):  # told by the ends of the type
            below, above = np.nextafter(first, -np.inf), np.nextafter(last, np.inf)
        lowest, highest = np.finfo(values.dtype).min, np.finfo(values.dtype).max
    else:
        below, above = int(first) - 1, int(last) + 1
        ends = np.iinfo(values.dtype)
        lowest, highest = (ends.min, ends.max) if limits is None else limits
    if below < lowest:
        below = above
    if above > highest:
        above = below
    exact = values.astype(np.float64)
    beside = np.where(exact - first < last - exact, below, above)
    return np.asarray(beside, values.dtype)
