"""Scenes larger than memory: cut into windows, enlarged one by one, equal to the scene enlarged at once.

A window is its core plus the exact halo of the network, on the grain of the scale (``rayscale.inference.tiles``). What it
becomes depends on the scene and on nothing else, so that windows can be computed in any order and anywhere.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from rayscale.imaging.scene import Part, Scene, SceneWriter
from rayscale.inference.tiles import Tile, tiles
from rayscale.resampling import enlarged, exact_scale, nearest
from rayscale.settings import MIB

if TYPE_CHECKING:
    from rayscale.imaging import Provenance
    from rayscale.inference.upscaler import Upscaler

_WINDOW_BYTES = 128 * MIB
"""Float32 output of a window of the default size; computing it takes about three times as much."""

_SMALLEST_WINDOW = 64


def windows_of(scene: Scene, upscaler: Upscaler, side: int | None = None) -> list[Tile]:
    """The windows of a scene, row by row.

    Args:
        side: of the core of a window in source pixels; None is what a bounded memory allows, 1672 for three
            channels at x2.
    """
    scale = upscaler.scale
    if side is None:
        side = math.isqrt(int(_WINDOW_BYTES / (4 * scene.channels * scale**2)))
    return list(
        tiles(
            scene.height,
            scene.width,
            max(side, _SMALLEST_WINDOW),
            upscaler.model.halo(scale),
            exact_scale(scale).denominator,
        )
    )


def upscale_window(scene: Scene, upscaler: Upscaler, window: Tile) -> Part:
    """One of :func:`windows_of`, enlarged.

    Missing pixels of the halo are filled as in the whole scene: from measured ones up to ``fill_reach`` away, so that
    many more pixels are read around it. The network sees the window alone.
    """
    scale, spans = upscaler.scale, (window.rows, window.columns)
    reach = upscaler.fill_reach if scene.incomplete else 0
    read = [
        slice(max(span.low - reach, 0), min(span.high + reach, size))
        for span, size in zip(spans, (scene.height, scene.width), strict=True)
    ]
    image = scene.window(*read)
    core = [_within(part, span.start, span.stop) for part, span in zip(read, spans, strict=True)]
    source = image.pixels[tuple(core)]
    missing = None if image.missing is None else image.missing.cropped(*core)
    if missing is not None and missing.everything:
        pixels = nearest(source, scale)
    else:
        seen = [_within(part, span.low, span.high) for part, span in zip(read, spans, strict=True)]
        filled = upscaler.filled(image)[tuple(seen)]
        larger = upscaler.upscale(replace(image, pixels=filled, missing=None)).pixels
        pixels = larger[tuple(_enlarged(span.core, scale) for span in spans)]
        if missing is not None:
            pixels = missing.restored(pixels, source, scale)
    mask = scene.mask(*(slice(span.start, span.stop) for span in spans))
    return Part(
        row=enlarged(window.rows.start, scale),
        column=enlarged(window.columns.start, scale),
        pixels=pixels,
        mask=None if mask is None else nearest(mask, scale),
    )


def upscale_scene(
    upscaler: Upscaler,
    source: str | Path,
    target: str | Path,
    provenance: Provenance | None = None,
    *,
    window: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[int, int]:
    """Enlarge a GeoTIFF on disk into another, a Cloud-Optimised one that appears whole or not at all.

    Args:
        window: side of a window in source pixels; see :func:`windows_of`.
        progress: called with the number of windows done and of all, before the first and after each.

    Returns width and height of the result. Errors as of :class:`Scene` and :class:`SceneWriter`.
    """
    with Scene(source) as scene, SceneWriter(target, scene, upscaler.scale) as writer:
        windows = windows_of(scene, upscaler, window)
        for number, place in enumerate(windows):
            if progress is not None:
                progress(number, len(windows))
            writer.put(upscale_window(scene, upscaler, place))
        if progress is not None:
            progress(len(windows), len(windows))
        writer.finish(provenance)
        return writer.width, writer.height


def _within(read: slice, start: int, stop: int) -> slice:
    """The pixels from ``start`` to ``stop`` of the scene in what was read of it."""
    return slice(start - read.start, stop - read.start)


def _enlarged(core: slice, scale: float) -> slice:
    return slice(enlarged(core.start, scale), enlarged(core.stop, scale))
