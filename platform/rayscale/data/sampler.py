"""Which row, which crop, which flips: pure functions of ``(seed, step)``, the same for any number of workers.

A global batch has ``batch`` slots. Slot p owns one contiguous share of the rows and walks a fresh permutation of
it in every epoch, so a worker that fills some slots touches only their share of the shards. Nothing here
holds state: resuming at a step is asking for that step.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

Scale = TypeVar("Scale", int, float)

_PERMUTE, _AUGMENT, _SCALE, _STAND_IN = (
    1,
    2,
    3,
    5,
)  # independent streams of one seed; 4 is that of degradations


_STAND_INS = 64  # random rows that are tried before all


def _random(seed: int, purpose: int, step: int, slot: int = 0) -> np.random.Generator:
    """A counter-based generator (Philox 4x64-10): its place in the stream is given, not walked to."""
    key = np.array([seed % (1 << 64), purpose], dtype=np.uint64)
    counter = np.array([0, step, slot, 0], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=key, counter=counter))


def steps_per_epoch(rows: int, batch: int) -> int:
    """Steps in which every row is drawn at least once: ``ceil(rows / batch)``."""
    return -(-rows // batch)


def share(rows: int, batch: int, slot: int) -> tuple[int, int]:
    """First and one-past-last row of a slot: balanced within one row; with fewer rows than slots, one row each."""
    first = slot * rows // batch
    return first, max((slot + 1) * rows // batch, first + 1)


@lru_cache(maxsize=1024)
def _permutation(seed: int, epoch: int, slot: int, count: int) -> npt.NDArray[np.int64]:
    return _random(seed, _PERMUTE, epoch, slot).permutation(count)


def row_at(seed: int, step: int, slot: int, *, rows: int, batch: int) -> int:
    """The row that ``slot`` draws at ``step``.

    In each epoch every row comes once; where shares are uneven, the last step is filled up by slots that
    start over in their permutation.
    """
    return next(rows_from(seed, step, slot, rows=rows, batch=batch))


def rows_from(seed: int, step: int, slot: int, *, rows: int, batch: int) -> Iterator[int]:
    """The row that ``slot`` draws at ``step``, and those that take its place, in their order, where it cannot be read.

    First the others of its share, so that a worker keeps to its shards, then random ones, at last all.
    """
    first, last = share(rows, batch, slot)
    epoch, position = divmod(step, steps_per_epoch(rows, batch))
    order = _permutation(seed, epoch, slot, last - first)
    for turn in range(last - first):
        yield first + int(order[(position + turn) % (last - first)])
    yield from _random(seed, _STAND_IN, step, slot).integers(rows, size=_STAND_INS).tolist()
    yield from range(rows)


@dataclass(frozen=True)
class Draw:
    """Random numbers of one sample: a crop position as fractions in [0, 1) and the flips."""

    y: float
    x: float
    flip_rows: bool
    flip_columns: bool
    transpose: bool

    def offset(self, height: int, width: int, patch: int) -> tuple[int, int]:
        """Top left LR pixel of the patch, uniform over all positions inside ``height`` x ``width``."""
        return int(self.y * (height - patch + 1)), int(self.x * (width - patch + 1))

    def turn(self, pixels: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """A view of ``(C, p, p)`` flipped and transposed: the eight symmetries of the square, equally often."""
        if self.flip_rows:
            pixels = pixels[:, ::-1]
        if self.flip_columns:
            pixels = pixels[:, :, ::-1]
        return pixels.transpose(0, 2, 1) if self.transpose else pixels


def draws(seed: int, step: int, batch: int) -> list[Draw]:
    """The draws of every slot of a global batch; a worker takes those of its own slots."""
    values = _random(seed, _AUGMENT, step).random((batch, 5)).tolist()
    return [Draw(y, x, v < 0.5, h < 0.5, t < 0.5) for y, x, v, h, t in values]


def scale_at(seed: int, step: int, scales: Sequence[Scale]) -> Scale:
    """The one scale of a training step on several (MDSR), the same on every worker."""
    return scales[int(_random(seed, _SCALE, step).integers(len(scales)))]
