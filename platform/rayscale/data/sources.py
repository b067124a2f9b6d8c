"""What becomes of one source image: its sub-images, as HR and as LR of every scale.

A picture is cut whole, a pair with the LR images it brought, a GeoTIFF by windows, so that memory does not grow with the
scene. Where pixels are missing, sub-images are taken beside them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from rayscale.data.config import PrepareConfig
from rayscale.data.cutting import Cut, columns, complete, crop, cuts, take
from rayscale.data.pictures import Picture, kind, pictures
from rayscale.errors import InputError, UnsupportedError, quantity
from rayscale.imaging import Image, ending_of, read_image
from rayscale.imaging.scene import Scene, is_scene
from rayscale.imaging.sidecars import heed, tags_of, tags_of_file
from rayscale.pairs import check_registration, fit
from rayscale.resampling import bands
from rayscale.storage import Store
from rayscale.storage.local import LocalStore

Pixels = npt.NDArray[Any]
_SCENE_ENDINGS = (".tif", ".tiff")


class SkippedError(InputError):
    """An image from which no sub-image can be cut."""


@dataclass(frozen=True)
class Block:
    """Sub-images of one image that are stored together.

    Attributes:
        places: where they lie. parts: their pixels ``(h, w, C)`` by scale, 1 being HR.
        sums: sum and sum of squares of the HR pixels that no other block counts, ``(2, C)`` of Python integers.
        pixels: how many these are.
        windows: sub-images there would be if no pixel were missing. incomplete: those where some are.
        pictures: how many pictures begin here: 1, and 0 for a further window of a scene.
    """

    places: list[Cut]
    parts: dict[int, list[Pixels]]
    sums: npt.NDArray[Any]
    pixels: int
    windows: int
    incomplete: int
    pictures: int = 1

    def pieces(self, most: int) -> Iterator[Block]:
        """The sub-images in runs of at most so many bytes of HR pixels, or of one; sums and counts are those of all."""
        hr, begin, held = self.parts[1], 0, 0
        for number, part in enumerate(hr):
            if held and held + part.nbytes > most:
                yield self._piece(slice(begin, number))
                begin, held = number, 0
            held += part.nbytes
        yield self._piece(slice(begin, len(hr)))

    def _piece(self, rows: slice) -> Block:
        parts = {scale: every[rows] for scale, every in self.parts.items()}
        return replace(self, places=self.places[rows], parts=parts)


def open_source(store: Store, key: str, scratch: Path) -> Path | None:
    """A file of this machine that holds the GeoTIFF ``key``, fetched into ``scratch`` if need be; None for other images."""
    if ending_of(key) not in _SCENE_ENDINGS:
        return None
    if isinstance(store, LocalStore):
        store.stat(key)
        path = store.root / key
    else:
        path = scratch / f"source{ending_of(key)}"
        store.fetch(key, path)
    return path if is_scene(path) else None


def kind_of(store: Store, key: str, config: PrepareConfig, scratch: Path) -> tuple[int, int]:
    """Channels and bits of the pictures of an image; errors as in ``read_image``."""
    path = open_source(store, key, scratch)
    if path is None:
        return kind(read_image(store.read(key), handling=config.handling), config.bands)
    with Scene(path, handling=config.handling) as scene:
        return kind(_corner(scene), config.bands)


def cut_image(
    store: Store,
    key: str,
    config: PrepareConfig,
    expected: Kind,
    scratch: Path,
    beside: Sequence[str] = (),
) -> Iterator[Block]:
    """The sub-images of one image, LR made by bicubic; ``beside`` are the keys of its sidecars.

    Raises:
        SkippedError: it is smaller than the minimum.
        InputError: it cannot be used, as one of another kind than ``expected``.
    """
    path = open_source(store, key, scratch)
    if path is not None:
        heed(key, beside, tags_of_file(path) if beside else (), store.read)
        yield from _cut_scene(path, config, expected)
        return
    image = _read(store, key, beside, config)
    found = pictures(image, config.bands)
    expected.check(*kind(image, config.bands))
    for picture in found:
        yield _cut_picture(picture, config)


def cut_pair(
    store: Store,
    key: str,
    lows: Mapping[int, tuple[Store, str]],
    config: PrepareConfig,
    expected: Kind,
    beside: Mapping[str, Sequence[str]],
) -> Iterator[Block]:
    """The sub-images of one pair: HR, and the LR image of each scale, cropped to what all of them share.

    Raises:
        SkippedError, InputError: as :func:`cut_image`, and where HR and LR do not fit.
    """
    image = _read(store, key, beside.get(key, ()), config)
    expected.check(*kind(image, config.bands))
    hr = _single(image, config)
    found: dict[int, Picture] = {}
    height, width = hr.pixels.shape[:2]
    for scale, (place, low_key) in lows.items():
        try:
            low = _read(place, low_key, beside.get(low_key, ()) if place == store else (), config)
            if low.pixels.dtype != image.pixels.dtype:
                raise UnsupportedError(
                    f"is {low.pixels.dtype}, but its HR image {image.pixels.dtype}"
                )
            low = replace(low, levels=image.levels)  # the same numbers for the same values
            expected.check(*kind(low, config.bands))
            lr = _single(low, config)
            high, wide = fit(lr.pixels, hr.pixels, scale)[1].shape[:2]
        except InputError as error:
            raise type(error)(f"{low_key}: {error}") from error
        found[scale] = lr
        height, width = min(height, high), min(width, wide)
    height, width = (side // config.grain * config.grain for side in (height, width))
    _check_minimum(height, width, hr.pixels.shape, config)
    pixels = hr.pixels[:height, :width]
    valid = None if hr.valid is None else hr.valid[:height, :width].copy()
    versions = {1: pixels}
    for scale, lr in found.items():
        low_pixels = versions[scale] = lr.pixels[: height // scale, : width // scale]
        if config.registration == "check":
            try:
                check_registration(low_pixels, pixels, scale)
            except InputError as error:
                raise InputError(
                    f"{lows[scale][1]}: {error}; mend the pair, or take it as it is with registration=trust"
                ) from error
        if lr.valid is not None:
            rows, across = (slice(side // scale) for side in (height, width))
            seen = lr.valid[rows, across].repeat(scale, 0).repeat(scale, 1)
            valid = seen if valid is None else valid & seen
    yield _cut_versions(versions, valid, config)


@dataclass(frozen=True)
class Kind:
    """Channels and bits that every image of a dataset has, and who decided it (in words; "" for the user)."""

    channels: int
    bits: int
    measure: str = ""

    def check(self, channels: int, bits: int) -> None:
        """Raise UnsupportedError for an image of another kind."""
        if (channels, bits) != (self.channels, self.bits):
            like = f" (as {self.measure})" if self.measure else ""
            raise UnsupportedError(
                f"has {quantity(channels, 'channel')} of {bits} bits in a dataset of {quantity(self.channels, 'channel')} of "
                f"{self.bits} bits{like}; convert it, or prepare such images as a dataset of their own with "
                f"channels {channels} and bits {bits}"
            )


def _read(store: Store, key: str, beside: Sequence[str], config: PrepareConfig) -> Image:
    """The image; UnsupportedError where a file beside it makes its pixels something else, as a mask does."""
    data = store.read(key)
    heed(key, beside, tags_of(data) if beside else (), store.read)
    return read_image(data, handling=config.handling)


def _single(image: Image, config: PrepareConfig) -> Picture:
    if image.pixels.ndim != 3:
        raise UnsupportedError("pairs are single pictures; split a volume into its slices")
    return pictures(image, config.bands)[0]


def _cut_picture(picture: Picture, config: PrepareConfig) -> Block:
    pixels = crop(picture.pixels, config.grain)
    _check_minimum(pixels.shape[0], pixels.shape[1], picture.pixels.shape, config)
    valid = None if picture.valid is None else crop(picture.valid, config.grain)
    return _cut_versions(
        dict(columns(pixels, config.stored_scales, config.degradation)), valid, config
    )


def _cut_versions(
    versions: Mapping[int, Pixels], valid: npt.NDArray[np.bool_] | None, config: PrepareConfig
) -> Block:
    pixels = versions[1]
    windows = cuts(pixels.shape[0], pixels.shape[1], config.size, config.step)
    places, incomplete = _whole(windows, valid, config)
    sums, count = _measure(
        Picture(pixels, valid), Cut(0, 0, *pixels.shape[:2] if places else (0, 0))
    )
    parts = {
        scale: [take(whole, place, scale) for place in places] for scale, whole in versions.items()
    }
    return Block(places, parts, sums, count, len(windows), incomplete)


def _cut_scene(path: Path, config: PrepareConfig, expected: Kind) -> Iterator[Block]:
    """Window by window, each with the pixels around it that its LR pixels see, so that all are those of the whole."""
    with Scene(path, handling=config.handling) as scene:
        expected.check(*kind(_corner(scene), config.bands))
        if config.degradation.needs_whole:
            raise UnsupportedError(
                f"is a scene, which is cut by windows, but {config.degradation} needs whole images; take mtf for satellite "
                "images"
            )
        height, width = (
            side // config.grain * config.grain for side in (scene.height, scene.width)
        )
        _check_minimum(height, width, (scene.height, scene.width), config)
        windows = cuts(height, width, config.size, config.step)
        next_y, next_x = _next({w.y for w in windows}, height), _next({w.x for w in windows}, width)
        first = True
        reach = max(config.degradation.reach(scale) for scale in config.scales)
        margin = (reach + 1) * config.grain
        for window in windows:
            top, left = max(0, window.y - margin), max(0, window.x - margin)
            bottom = min(height, window.y + window.height + margin)
            right = min(width, window.x + window.width + margin)
            image = scene.window(slice(top, bottom), slice(left, right))
            (picture,) = pictures(image, config.bands)
            here = replace(window, y=window.y - top, x=window.x - left)
            places, incomplete = _whole([here], picture.valid, config)
            scales = config.stored_scales if places else ()
            parts = {
                scale: [take(whole, place, scale) for place in places]
                for scale, whole in columns(picture.pixels, scales, config.degradation)
            }
            own = Cut(here.y, here.x, next_y[window.y] - window.y, next_x[window.x] - window.x)
            sums, count = _measure(picture, own)
            places = [replace(place, y=place.y + top, x=place.x + left) for place in places]
            yield Block(places, parts, sums, count, 1, incomplete, int(first))
            first = first and not places


def _next(starts: set[int], end: int) -> dict[int, int]:
    """Where the next window begins, by the start of each: its own pixels are those before."""
    ordered = sorted(starts)
    return dict(zip(ordered, [*ordered[1:], end], strict=True))


def _measure(picture: Picture, place: Cut) -> tuple[npt.NDArray[Any], int]:
    """Sums as of ``_sums`` over the pixels of a place that are not missing, and how many they are."""
    pixels = take(picture.pixels, place, 1)
    valid = None if picture.valid is None else take(picture.valid, place, 1)
    sums, count = np.zeros((2, pixels.shape[2]), dtype=object), 0
    for band in bands(len(pixels), max(pixels.shape[1], 1)):
        part = pixels[band]
        measured = part.reshape(-1, part.shape[2]) if valid is None else part[valid[band]]
        sums, count = sums + _sums(measured), count + len(measured)
    return sums, count


def _whole(
    windows: list[Cut], valid: npt.NDArray[np.bool_] | None, config: PrepareConfig
) -> tuple[list[Cut], int]:
    """Sub-images without a missing pixel, and how many of the windows have one."""
    if valid is None:
        return windows, 0
    found = [complete(valid, window, config.grain, config.minimum) for window in windows]
    incomplete = sum(parts != [window] for parts, window in zip(found, windows, strict=True))
    return [place for parts in found for place in parts], incomplete


def _corner(scene: Scene) -> Image:
    """One pixel, which tells the kind of all."""
    return scene.window(slice(0, 1), slice(0, 1))


def _check_minimum(height: int, width: int, shape: tuple[int, ...], config: PrepareConfig) -> None:
    if min(height, width) < max(config.minimum, config.grain):
        raise SkippedError(
            f"{shape[1]}x{shape[0]} pixels, cropped to a multiple of {config.grain}, are less than the minimum of "
            f"{config.minimum}"
        )


def _sums(pixels: Pixels) -> npt.NDArray[Any]:
    """Sum and sum of squares per channel of ``(n, C)``, ``(2, C)`` of Python integers, by histogram: exact."""
    rows = []  # int64 is enough: a channel of 2^31 16-bit pixels would be needed to leave it
    for channel in range(pixels.shape[1]):
        histogram = np.bincount(pixels[:, channel])
        values = np.flatnonzero(histogram)
        weights = histogram[values]
        rows.append([int((weights * values).sum()), int((weights * values * values).sum())])
    return np.array(rows, dtype=object).T
