"""Cutting an image into tiles whose halo is the network's receptive field, so that no seam can exist.

A tile is computed from its core plus ``halo`` pixels on every side (less at the image's border, where the
network's own padding must act as it does on the whole image). With the halo at least as wide as the
receptive field, every output pixel of the core sees exactly the input it would see in the whole image.

At a scale p/q only every q-th source pixel begins where an output pixel does. So cores and reads begin and end at
multiples of q, the *grain* (or at the image's border), and a tile's output grid is that of the whole image.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise, product


@dataclass(frozen=True)
class Span:
    """One axis of a tile, in source pixels: the core ``[start, stop)`` inside the read ``[low, high)``."""

    start: int
    stop: int
    low: int
    high: int

    @property
    def core(self) -> tuple[int, int]:
        """Start and stop of the core relative to what was read."""
        return self.start - self.low, self.stop - self.low

    def cut(self, core: int, halo: int, grain: int, size: int) -> list[Span]:
        """Cover this core by cores of nearly equal length, none longer than ``core`` or one grain.

        ``size`` is that of the image. What is read by one such core with its halo is not cut.
        """
        margin = -(-halo // grain) * grain
        longest = max(core // grain, 1)
        if self.high - self.low <= longest * grain + 2 * margin:
            return [self]
        first, grains = self.start // grain, -(-(self.stop - self.start) // grain)
        count = -(-grains // longest)
        edges = [min((first + grains * i // count) * grain, self.stop) for i in range(count + 1)]
        return [
            Span(start, stop, max(start - margin, 0), min(stop + margin, size))
            for start, stop in pairwise(edges)
        ]


@dataclass(frozen=True)
class Tile:
    """A rectangle of the image: rows and columns, each a :class:`Span`."""

    rows: Span
    columns: Span

    @classmethod
    def whole(cls, height: int, width: int) -> Tile:
        """The tile that is the image."""
        return cls(Span(0, height, 0, height), Span(0, width, 0, width))

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of what is read, halo included."""
        return self.rows.high - self.rows.low, self.columns.high - self.columns.low

    def cut(
        self, core: int, halo: int, grain: int, size: tuple[int, int], *, rows: bool = True
    ) -> list[Tile]:
        """This tile in smaller ones, row by row, each axis as :meth:`Span.cut`; with ``rows`` false in columns only."""
        tall = self.rows.cut(core, halo, grain, size[0]) if rows else [self.rows]
        wide = self.columns.cut(core, halo, grain, size[1])
        return [Tile(*spans) for spans in product(tall, wide)]
