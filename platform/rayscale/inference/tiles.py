"""Cutting an image into tiles whose halo is the network's receptive field, so that no seam can exist.

A tile is computed from its core plus ``halo`` pixels on every side (less at the image's border, where the
network's own padding must act as it does on the whole image). With the halo at least as wide as the
receptive field, every output pixel of the core sees exactly the input it would see in the whole image.

At a scale p/q only every q-th source pixel begins where an output pixel does. So cores and reads begin and end at
multiples of q, the *grain* (or at the image's border), and a tile's output grid is that of the whole image.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise


@dataclass(frozen=True)
class Span:
    """One axis of a tile, in source pixels: the core ``[start, stop)`` inside the read ``[low, high)``."""

    start: int
    stop: int
    low: int
    high: int

    @property
    def core(self) -> slice:
        """The core relative to what was read."""
        return slice(self.start - self.low, self.stop - self.low)


@dataclass(frozen=True)
class Tile:
    """A rectangle of the image: rows and columns, each a :class:`Span`."""

    rows: Span
    columns: Span

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of what is read, halo included."""
        return self.rows.high - self.rows.low, self.columns.high - self.columns.low


def spans(size: int, core: int, halo: int, grain: int = 1) -> list[Span]:
    """Cover ``size`` pixels with cores of nearly equal length, none longer than ``core`` or one grain."""
    grains = -(-size // grain)
    count = -(-grains // max(core // grain, 1))
    edges = [min(grains * i // count * grain, size) for i in range(count + 1)]
    margin = -(-halo // grain) * grain
    return [
        Span(start, stop, max(start - margin, 0), min(stop + margin, size))
        for start, stop in pairwise(edges)
    ]


def tiles(height: int, width: int, core: int, halo: int, grain: int = 1) -> Iterator[Tile]:
    """The tiles of an image, row by row; one tile when the image fits into one core with its halo."""
    side = core + 2 * halo
    if height <= side and width <= side:
        core = side + grain  # a multiple of the grain may be larger than the image
    for rows in spans(height, core, halo, grain):
        for columns in spans(width, core, halo, grain):
            yield Tile(rows, columns)
