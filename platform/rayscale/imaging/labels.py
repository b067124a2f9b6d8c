"""Which bands hold labels: class numbers and bit fields, between two of which there is no third.

A band is one by what its file says of it (name, colour table, layer type, intent), which the containers know, or by its
values: few, whole, far apart, in patches that border on each other without anything in between. Measurements of few values
have neighbouring ones. When in doubt, as where classes are numbered from 1 on, a band is a measurement, with a note.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rayscale.errors import UnsupportedError
from rayscale.options import Handling

MOST = 256
"""Different values that a band of labels may have; one with more is settled by its first part."""

_MANY = 64  # values without gaps, which settle a band as well: one of eight bits never has more than 256
_SAMPLE = 1 << 16
_PER_VALUE = 16  # pixels of each value on the average, or there is nothing to be seen
_COARSE = 0.6  # borders per pixel outside the largest class: patches of some pixels, no speckle
_SPARSE = 2 / 3  # of the places between smallest and largest value that are taken
_GAPS = 1 / 5  # of the distances from value to value; some outliers make a range wide, but no gaps
_LEAPS = 1 / 3  # of the borders that pass over a place
_DOUBTED = 32  # values that classes numbered one after the other may have, and be noted
_DOUBTFUL_LEAPS = 1 / 4

# Products of the field, as their bands are named: Sentinel-2 and its clouds, Landsat, MODIS, Planet, land cover.
_CODES = re.compile(
    r"(^|_)(scl|qa(10|20|60)|bqa|c?fmask|clm|msk_classi|qa_pixel|pixel_qa|qa_radsat|radsat_qa|sr_qa_aerosol|sr_aerosol|sr_cloud_qa|"
    r"cloud_qa|sur_refl_qc\w*|sur_refl_state\w*|state_(1km|500m)|qc_(day|night)|(detailed|summary)_?qa|datamask|udm2?|bit_?mask|"
    r"(cloud|snow|water|land)_?mask|scene_classification|lulc|land_?cover|lc_type\d|nlcd\w*|worldcover|corine)(_|$)"
)
_WHOLE = re.compile(
    r"qa|qc|flags?|mask|class(es)?|classification|categor(y|ies)|labels?|segmentation"
)


def named(name: str | None) -> str | None:
    """Why a band of this name or description holds labels; None when the name does not say so."""
    plain = re.sub(r"[^a-z0-9]+", "_", (name or "").lower()).strip("_")
    if _CODES.search(plain) or _WHOLE.fullmatch(plain):
        return f"its name is {(name or '')[:40]!r}"
    return None


@dataclass
class _Band:
    """What was seen of one band: how often each value occurs, and each step between neighbours of a row."""

    values: Counter[float] = field(default_factory=Counter)
    steps: Counter[float] = field(default_factory=Counter)


class Census:
    """Tells labels by their values, from the parts of a file in any order; memory does not grow with the file.

    Args:
        channels: of the file. apart: those that are not looked at, because more is known of them.
        few: a band of at most so many values is one of labels even where they are neighbours.
    """

    def __init__(self, channels: int, apart: Collection[int] = (), few: int = 0) -> None:
        self._bands = {channel: _Band() for channel in range(channels) if channel not in apart}
        self._few = few

    @property
    def settled(self) -> bool:
        """Whether further parts change nothing: no band can be one of labels any longer."""
        return not self._bands

    def add(self, pixels: NDArray[Any], valid: NDArray[np.bool_] | None = None) -> None:
        """Look at pixels ``(..., H, W, C)``, where they are valid: of the same shape, or of one channel for all."""
        for channel in list(self._bands):
            plane = pixels[..., channel]
            seen = None if valid is None else valid[..., channel if valid.shape[-1] > 1 else 0]
            if not self._count(self._bands[channel], plane, seen):
                del self._bands[channel]

    def reasons(self) -> dict[int, str]:
        """Channel to why it holds labels."""
        found = {channel: self._judge(band) for channel, band in self._bands.items()}
        return {channel: reason for channel, (reason, sure) in found.items() if reason and sure}

    def doubts(self) -> dict[int, str]:
        """Channel to why it may hold labels as well as measurements."""
        found = {channel: self._judge(band) for channel, band in self._bands.items()}
        return {channel: reason for channel, (reason, sure) in found.items() if reason and not sure}

    def _count(self, band: _Band, plane: NDArray[Any], valid: NDArray[np.bool_] | None) -> bool:
        """Add a part; False when the band holds no labels."""
        every = max(plane.size // _SAMPLE, 1)
        for step in (every, 1) if every > 1 else (1,):  # the many that settle at once cost little
            some = plane.ravel()[::step]
            if valid is not None:
                some = some[valid.ravel()[::step]]
            values, counts = np.unique(some, return_counts=True)
            if len(values) > MOST or (plane.dtype.kind == "f" and (values % 1 != 0).any()):
                return False
        band.values.update(dict(zip(values.tolist(), counts.tolist(), strict=True)))
        left, right = plane[..., :-1], plane[..., 1:]
        border = left != right
        if valid is not None:
            border &= valid[..., :-1] & valid[..., 1:]
        steps = np.abs(left[border].astype(np.float64) - right[border])
        band.steps.update(dict(zip(*(a.tolist() for a in np.unique(steps, return_counts=True)), strict=True)))  # fmt: skip
        if len(band.values) < _MANY:
            return True
        return len(band.values) <= MOST and _spread(band.values)[2] >= _GAPS

    def _judge(self, band: _Band) -> tuple[str | None, bool]:
        """Why a band is one of labels, and whether that is sure."""
        count, total = len(band.values), band.values.total()
        if count < 3 or total < _PER_VALUE * count:
            return None, False
        if band.steps.total() > _COARSE * (total - max(band.values.values())):
            return None, False
        values, step, gaps = _spread(band.values)
        told = f"only {count} different values, from {values[0]:g} to {values[-1]:g}"
        if count <= self._few:
            return told, True
        taken = count / ((values[-1] - values[0]) / step + 1)
        leaps = sum(number for size, number in band.steps.items() if size > 1.5 * step)
        if taken < _SPARSE and gaps >= _GAPS and leaps >= _LEAPS * band.steps.total():
            return f"{told}, with nothing in between", True
        if count <= _DOUBTED and leaps >= _DOUBTFUL_LEAPS * band.steps.total():
            return f"{told}, in patches", False
        return None, False


def _spread(values: Collection[float]) -> tuple[NDArray[np.float64], float, float]:
    """Two or more values in their order, the spacing of the places they may take, and how many of their distances are wider."""
    ordered = np.sort(np.array(list(values), np.float64))
    spacing = _spacing(ordered)
    gaps = np.count_nonzero(np.diff(ordered) > 1.5 * spacing) / (len(ordered) - 1)
    return ordered, spacing, gaps


def _spacing(values: NDArray[np.float64]) -> float:
    """The distance of evenly spaced values, some of which may be missing and each off by its rounding; 1 for others.

    So grey of four bits that was stretched to eight has no gaps.
    """
    low, high = values[0], values[-1]
    spacing = (high - low) / round((high - low) / np.diff(values).min())
    place = (values - low) / spacing
    even = (np.abs(place - np.rint(place)) * spacing <= 0.5 + 1e-9).all()
    return float(spacing) if even else 1.0


def settle(
    reasons: dict[int, str], doubts: dict[int, str], handling: Handling, name: Callable[[int], str]
) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """The channels to enlarge by nearest neighbour, which the user wants of those that hold labels or may do so; and notes
    of those that may.

    Args:
        reasons: channel to why it holds labels. doubts: to why it may.
        name: of a channel, for the messages.

    Raises:
        UnsupportedError: there are labels, and the user does not want them.
    """
    if handling.labels == "nearest":
        return tuple(sorted({*reasons, *doubts})), ()
    if reasons:
        channel = min(reasons)
        more = f" (and so do {len(reasons) - 1} more)" if len(reasons) > 1 else ""
        raise UnsupportedError(
            f"{name(channel)} holds classes or bit fields{more}: {reasons[channel]}. Class numbers must not be "
            "interpolated; use labels=nearest to enlarge them by nearest neighbour"
        )
    return (), doubtful(doubts, name)


def doubtful(doubts: dict[int, str], name: Callable[[int], str]) -> tuple[str, ...]:
    """The note of bands that may hold labels and are interpolated all the same."""
    if not doubts:
        return ()
    channel = min(doubts)
    more = f" (and {len(doubts) - 1} more)" if len(doubts) > 1 else ""
    return (
        f"{name(channel)}{more} holds {doubts[channel]}, and is interpolated; if they are classes, use "
        "labels=nearest",
    )


def survey(
    parts: Iterable[tuple[NDArray[Any], NDArray[np.bool_] | None]], census: Census
) -> Census:
    """The census of parts of a file, which is read no further than needed."""
    if not census.settled:
        for part in parts:
            census.add(*part)
            if census.settled:
                break
    return census
