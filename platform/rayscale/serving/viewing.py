"""What a viewer needs of a decoded picture: levels of half the size each, tiles of them as PNG, values at a point.

The levels lie in files that are mapped into memory, so a tile of 100 megapixels costs no more than one of a thumbnail.
"""

from __future__ import annotations

import io
import math
import os
import shutil
import sys
import tempfile
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
from numpy.typing import NDArray

from rayscale.errors import InputError, NotFoundError
from rayscale.imaging import Image
from rayscale.imaging.coordinates import (
    aspect_of,
    channel_names,
    is_bottom_up,
    locate,
    units_of,
    window_of,
)
from rayscale.imaging.image import Metadata
from rayscale.imaging.levels import Levels
from rayscale.resampling import downsample
from rayscale.serving.errors import UnavailableError

TILE = 512
"""Pixels of a side."""

_SAMPLED = 1 << 18
"""Values by which a stretch is measured."""

# Viridis (matplotlib, CC0) at seven places.
_COLOURS = np.array(
    [[68, 1, 84], [68, 57, 131], [49, 104, 142], [33, 145, 140], [53, 183, 121], [144, 215, 67], [253, 231, 37]],
    np.float32,
)  # fmt: skip


@dataclass(frozen=True)
class Stretch:
    """How values become colours.

    Attributes:
        bands: one channel, or three as red, green and blue.
        black, white: stored values, one for each of the bands; black above white inverts.
        heat: colours of a scale for one band, transparent at black, in place of grey.
    """

    bands: tuple[int, ...]
    black: tuple[float, ...]
    white: tuple[float, ...]
    heat: bool = False

    def __post_init__(self) -> None:
        if len(self.bands) not in (1, 3):
            raise InputError(f"bands must be one or three, not {len(self.bands)}")
        if not len(self.bands) == len(self.black) == len(self.white):
            raise InputError("black and white must have a value for each of the bands")

    def paint(self, values: NDArray[Any], alpha: NDArray[np.uint8] | None) -> PIL.Image.Image:
        """Colours of ``values (h, w, C)``; ``alpha (h, w)`` is 0 where there are none."""
        chosen = values[..., list(self.bands)].astype(np.float32)
        black, white = (np.array(ends, np.float32) for ends in (self.black, self.white))
        span = white - black
        seen = (chosen - black) / np.where(span == 0, 1, span)
        seen = np.clip(np.nan_to_num(seen), 0, 1)
        if self.heat:
            at = seen[..., 0]
            places = np.linspace(0, 1, len(_COLOURS))
            colours = [np.interp(at, places, _COLOURS[:, part]) for part in range(3)]
            clear = np.clip(at * 510, 0, 255)
            if alpha is not None:
                clear = np.minimum(clear, alpha)
            return PIL.Image.fromarray(np.stack([*colours, clear], -1).astype(np.uint8), "RGBA")
        shown = np.rint(seen * 255).astype(np.uint8)
        if alpha is None:
            return PIL.Image.fromarray(shown[..., 0] if len(self.bands) == 1 else shown)
        shown = np.broadcast_to(shown, (*shown.shape[:2], 3))
        return PIL.Image.fromarray(np.dstack([shown, alpha]), "RGBA")


@dataclass(frozen=True)
class _Span:
    """What a tile shows along one side.

    Attributes:
        stored: the pixels that it is made of, with neighbours where it is stretched.
        start, stop: of these, what it shows. shown: its own pixels.
    """

    stored: slice
    start: float
    stop: float
    shown: int

    @classmethod
    def of(cls, part: int, stored: int, shown: int) -> _Span:
        """Of tile ``part`` of a side that shows ``stored`` pixels as ``shown``; beyond the picture it shows none."""
        first, last = part * TILE, min((part + 1) * TILE, shown)
        if part < 0 or last <= first:
            return cls(slice(0, 0), 0, 0, 0)
        low, high = first * stored / shown, last * stored / shown
        margin = 0 if stored == shown else 1
        begin = max(math.floor(low) - margin, 0)
        end = min(math.ceil(high) + margin, stored)
        return cls(slice(begin, end), low - begin, high - begin, last - first)


class Picture:
    """A decoded picture or volume and its levels, in a folder that goes with it.

    Levels and tiles are upright; rows are counted as in the file, of which those of a NIfTI go up (``flipped``). Tiles show
    pixels as they lie in space: where these are not square, the longer side is stretched (``aspect`` is height over width).

    Args:
        image: its pixels are let go of.
        slices: the metadata of each slice, where each is a file of its own.
    """

    def __init__(self, image: Image, slices: Sequence[Metadata | None] = ()) -> None:
        self._slices = slices
        self._folder = Path(tempfile.mkdtemp(prefix="rayscale-view-"))
        self._end = weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)
        self.metadata = image.metadata
        self.dpi = image.dpi
        self.levels_of_file = image.levels
        self.flipped = is_bottom_up(image.metadata)
        self.aspect = aspect_of(image)
        self.bytes = 0
        self._exact = bool(image.labels)
        pixels = image.pixels if image.pixels.ndim == 4 else image.pixels[None]
        coverage = _coverage(image)
        if self.flipped:
            pixels = pixels[:, ::-1]
            coverage = None if coverage is None else coverage[:, ::-1]
        self.levels = self._build("pixels", pixels, exact=self._exact)
        self.coverage = None if coverage is None else self._build("coverage", coverage, exact=True)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Slices, height, width, channels."""
        slices, height, width, channels = self.levels[0].shape
        return slices, height, width, channels

    @property
    def shown(self) -> tuple[int, int]:
        """Height and width that its tiles make together."""
        _, height, width, _ = self.shape
        return round(height * max(self.aspect, 1)), round(width * max(1 / self.aspect, 1))

    def describe(self) -> dict[str, Any]:
        """Sizes, channels and the stretches to choose from, as the page takes them."""
        slices, height, width, channels = self.shape
        return {
            "slices": slices,
            "width": width,
            "height": height,
            "shown_width": self.shown[1],
            "shown_height": self.shown[0],
            "levels": len(self.levels),
            "flipped": self.flipped,
            "type": str(self.levels[0].dtype),
            "channels": channel_names(self.metadata, channels),
            "units": [asdict(unit) for unit in units_of(self.metadata, channels)],
            "stretches": self.stretches(),
        }

    def stretches(self) -> dict[str, dict[str, list[float]]]:
        """Black and white of each channel, by the name of a rule; the first is what a reader of the file expects."""
        found: dict[str, dict[str, list[float]]] = {}
        channels = self.shape[-1]
        told, window = self.levels_of_file, window_of(self.metadata)
        if window is not None and channels == 1:
            found["window of the file"] = {"black": [window[0]], "white": [window[1]]}
        whole = self.levels[0].dtype == np.uint8
        if whole:
            found["as stored"] = {"black": [0.0] * channels, "white": [255.0] * channels}
        elif told is not None:
            black, white = (list(np.broadcast_to(e, channels)) for e in (told.black, told.white))
            found["levels of the file"] = {
                "black": list(map(float, black)),
                "white": list(map(float, white)),
            }
        values = self._sample()
        for name, low, high in (("2 to 98 %", 2, 98), ("smallest to largest", 0, 100)):
            ends = [
                np.percentile(band, [low, high]) if band.size else np.array([0.0, 1.0])
                for band in values
            ]
            found[name] = {
                "black": [float(end[0]) for end in ends],
                "white": [float(max(end[1], np.nextafter(end[0], np.inf))) for end in ends],
            }
        if channels > 3 or (channels == 3 and not whole):
            # Of a scene few of the values are bright: the range of its values shows it, that of the file is dark.
            found = {"2 to 98 %": found.pop("2 to 98 %"), **found}
        return found

    def tile(self, level: int, column: int, row: int, index: int, stretch: Stretch) -> bytes:
        """A tile as PNG; ``level`` 0 is the smallest. Raises NotFoundError beyond the picture."""
        slices, _, _, channels = self.shape
        if not 0 <= level < len(self.levels) or not 0 <= index < slices:
            raise NotFoundError(f"there is no level {level} of slice {index}")
        if not all(0 <= band < channels for band in stretch.bands):
            raise NotFoundError(f"bands are counted from 0 to {channels - 1}")
        at = len(self.levels) - 1 - level
        sides = zip((row, column), self.levels[at].shape[1:3], self.shown, strict=True)
        down, across = (_Span.of(part, stored, -(-shown >> at)) for part, stored, shown in sides)
        if min(down.shown, across.shown) < 1:
            raise NotFoundError(f"there is no tile {column}, {row} at level {level}")
        values = self.levels[at][index, down.stored, across.stored]
        alpha = None
        if self.coverage is not None:
            alpha = self.coverage[at][index, down.stored, across.stored, 0]
        picture = stretch.paint(np.asarray(values), alpha)
        if (across.shown, down.shown) != picture.size:
            resample = (
                PIL.Image.Resampling.NEAREST if self._exact else PIL.Image.Resampling.BILINEAR
            )
            box = (across.start, down.start, across.stop, down.stop)
            picture = picture.resize((across.shown, down.shown), resample, box)
        out = io.BytesIO()
        picture.save(out, "png", compress_level=1)
        return out.getvalue()

    def values(self, index: int, row: int, column: int) -> list[float | None]:
        """Stored values of a pixel, None where none was measured. Raises NotFoundError beyond the picture."""
        slices, height, width, _ = self.shape
        if not (0 <= index < slices and 0 <= row < height and 0 <= column < width):
            raise NotFoundError("the point lies beyond the picture")
        at = height - 1 - row if self.flipped else row
        if self.coverage is not None and not self.coverage[0][index, at, column, 0]:
            return [None] * self.shape[-1]
        stored = self.levels[0][index, at, column].tolist()
        return [value if np.isfinite(value) else None for value in stored]

    def plane(self, index: int, channel: int) -> NDArray[np.float64]:
        """The values of a slice in the order of the file, ``(H, W)``."""
        values = np.asarray(self.levels[0][index, ..., channel], np.float64)
        return values[::-1] if self.flipped else values

    def place(self, index: int, row: int, column: int) -> dict[str, Any] | None:
        """Coordinates of a pixel."""
        if self._slices:
            place = locate(self._slices[index], 0, row, column)
        else:
            place = locate(self.metadata, index, row, column)
        return None if place is None else asdict(place)

    def _sample(self) -> list[NDArray[Any]]:
        """Measured values of each channel, from the largest level that is small enough, of several slices."""
        slices, _, _, channels = self.shape
        some = np.unique(np.linspace(0, slices - 1, min(slices, 9)).astype(int))
        at = next(
            (n for n, level in enumerate(self.levels) if level[0, ..., 0].size <= _SAMPLED), -1
        )
        values = np.asarray(self.levels[at][some])
        valid = np.isfinite(values).all(-1)
        if self.coverage is not None:
            valid &= np.asarray(self.coverage[at][some])[..., 0] > 0
        return [values[valid][:, channel] for channel in range(channels)]

    def _build(self, name: str, pixels: NDArray[Any], exact: bool) -> list[NDArray[Any]]:
        """The levels, largest first, as mapped files."""
        levels = [self._map(f"{name}-0", pixels.shape, pixels.dtype)]
        levels[0][...] = pixels
        while max(levels[-1].shape[1:3]) > TILE:
            before = levels[-1]
            slices, height, width, channels = before.shape
            shape = (slices, -(-height // 2), -(-width // 2), channels)
            level = self._map(f"{name}-{len(levels)}", shape, pixels.dtype)
            for index in range(slices):
                for top in range(0, shape[1], TILE):
                    part = before[index, 2 * top : 2 * (top + TILE)]
                    level[index, top : top + TILE] = _halve(part, exact)
            levels.append(level)
        return levels

    def _map(self, name: str, shape: Sequence[int], dtype: np.dtype[Any]) -> NDArray[Any]:
        path = self._folder / f"{name}.npy"
        try:
            made = np.lib.format.open_memmap(path, "w+", dtype, tuple(shape))
            reserve(path)
        except OSError as error:
            raise UnavailableError(
                f"{path.parent.parent} has no room to show a picture of this size: {error.strerror or error}; send it "
                "to /v1/upscale, or give the service a larger TMPDIR"
            ) from error
        self.bytes += made.nbytes
        return made


def reserve(path: Path) -> None:
    """Take the room of a mapped file now: where a disk is full, writing to the map would end the process."""
    if sys.platform == "linux":
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)


def disagreement(before: Picture, after: Picture, scale: float) -> Picture:
    """``|down(after) - before|`` in stored units, slice by slice, shrunk by MATLAB's bicubic; the largest of the channels."""
    slices, height, width, channels = before.shape
    out = np.zeros((slices, height, width, 1), np.float32)
    for index in range(slices):
        for channel in range(channels):
            larger: Any = after.plane(
                index, channel
            )  # the arithmetic takes arrays as well as tensors
            apart = np.abs(
                downsample(larger, (height, width), scale) - before.plane(index, channel)
            )
            out[index, ..., 0] = np.fmax(out[index, ..., 0], apart)
    top = float(np.nanmax(out)) if np.isfinite(out).any() else 1.0
    levels = Levels((0.0,), (max(top, 1e-9),), "to the largest")
    image = Image(out, container="tiff", levels=levels, metadata=before.metadata, dpi=before.dpi)
    return Picture(image)


class Pictures:
    """Pictures that were looked at last, up to a number of bytes on disk. Each is decoded once, one at a time."""

    def __init__(self, most_bytes: int) -> None:
        self._most = most_bytes
        self._kept: OrderedDict[tuple[str, str], Picture] = OrderedDict()
        self._lock = threading.Lock()
        self._decoding = threading.Lock()

    def get(self, key: tuple[str, str], make: Callable[[], Picture]) -> Picture:
        """The picture of a result and layer, made by ``make`` where it is not kept."""
        found = self._find(key)
        if found is not None:
            return found
        with self._decoding:  # decoded pixels are large: those of one at a time are in memory
            found = self._find(key)
            if found is None:
                found = make()
                with self._lock:
                    self._kept[key] = found
                    while len(self._kept) > 1 and self._bytes() > self._most:
                        self._kept.popitem(last=False)
        return found

    def _find(self, key: tuple[str, str]) -> Picture | None:
        with self._lock:
            found = self._kept.get(key)
            if found is not None:
                self._kept.move_to_end(key)
            return found

    def _bytes(self) -> int:
        return sum(picture.bytes for picture in self._kept.values())


def _halve(part: NDArray[Any], exact: bool) -> NDArray[Any]:
    """Half the size: the mean of four pixels, or one of them of class numbers and masks; edges are repeated."""
    if exact:
        return part[::2, ::2]
    height, width, _ = part.shape
    padded = np.pad(part, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
    sums = sum(padded[y::2, x::2].astype(np.float64) for y in (0, 1) for x in (0, 1)) / 4
    return np.asarray(sums if part.dtype.kind == "f" else np.rint(sums)).astype(part.dtype)


def _coverage(image: Image) -> NDArray[np.uint8] | None:
    """255 where something was measured, or alpha, ``(N, H, W, 1)``; None where all was."""
    shape = (image.frames, image.height, image.width, 1)
    covered = None
    if image.missing is not None and not image.missing.valid.all():
        valid = image.missing.valid.any(-1, keepdims=True)
        covered = np.where(np.broadcast_to(valid.reshape(-1, *shape[1:]), shape), 255, 0)
    if image.alpha is not None:
        alpha = (image.alpha / (np.iinfo(image.alpha.dtype).max / 255)).reshape(shape)
        covered = alpha if covered is None else np.minimum(alpha, covered)
    return None if covered is None else covered.astype(np.uint8)
