"""Scenes larger than memory: cut into windows, enlarged one by one, equal to the scene enlarged at once.

A window is its core plus the exact halo of the network, on the grain of the scale (``rayscale.inference.tiles``). What it
becomes depends on the scene and on nothing else, so that windows can be computed in any order and anywhere.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from rayscale.imaging.missing import Missing
from rayscale.imaging.scene import Part, Scene, SceneWriter
from rayscale.inference.backprojection import Residual
from rayscale.inference.tiles import Span, Tile
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
    size = scene.height, scene.width
    grain = exact_scale(scale).denominator
    return Tile.whole(*size).cut(max(side, _SMALLEST_WINDOW), upscaler.halo, grain, size)


def upscale_window(scene: Scene, upscaler: Upscaler, window: Tile) -> tuple[Part, Residual | None]:
    """One of :func:`windows_of`, enlarged, and its share of the residual with ``consistency``.

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
    residual = Residual() if upscaler.consistency else None
    if missing is not None and missing.everything:
        pixels = nearest(source, scale)
    else:
        seen = [_within(part, span.low, span.high) for part, span in zip(read, spans, strict=True)]
        filled = upscaler.filled(image)[tuple(seen)]
        result = upscaler.run(
            replace(image, pixels=filled, missing=None), _counted(filled, spans, missing)
        )
        residual = result.residual
        pixels = result.image.pixels[tuple(_enlarged(*span.core, scale) for span in spans)]
        if missing is not None:
            pixels = missing.restored(pixels, source, scale)
    mask = scene.mask(*(slice(span.start, span.stop) for span in spans))
    part = Part(
        row=enlarged(window.rows.start, scale),
        column=enlarged(window.columns.start, scale),
        pixels=pixels,
        mask=None if mask is None else nearest(mask, scale),
    )
    return part, residual


def upscale_scene(
    upscaler: Upscaler,
    source: str | Path,
    target: str | Path,
    provenance: Provenance | None = None,
    *,
    window: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[int, int, Residual | None]:
    """Enlarge a GeoTIFF on disk into another, a Cloud-Optimised one that appears whole or not at all.

    Args:
        window: side of a window in source pixels; see :func:`windows_of`.
        progress: called with the number of windows done and of all, before the first and after each.

    Returns width and height of the result, and the residual with ``consistency``. Errors as of :class:`Scene` and
    :class:`SceneWriter`.
    """
    with Scene(source) as scene, SceneWriter(target, scene, upscaler.scale) as writer:
        windows = windows_of(scene, upscaler, window)
        residual = Residual() if upscaler.consistency else None
        for number, place in enumerate(windows):
            if progress is not None:
                progress(number, len(windows))
            part, share = upscale_window(scene, upscaler, place)
            writer.put(part)
            if residual is not None and share is not None:
                residual += share
        if progress is not None:
            progress(len(windows), len(windows))
        if provenance is not None and residual is not None:
            provenance = provenance.with_measures(residual=residual.describe())
        writer.finish(provenance)
        return writer.width, writer.height, residual


def _counted(
    seen: NDArray[Any], spans: tuple[Span, Span], missing: Missing | None
) -> NDArray[np.bool_]:
    """Which pixels of what the network sees make up the residual: the measured ones of the core."""
    counted = np.zeros((*seen.shape[:2], 1 if missing is None else missing.valid.shape[2]), bool)
    counted[slice(*spans[0].core), slice(*spans[1].core)] = (
        True if missing is None else missing.valid
    )
    return counted


def _within(read: slice, start: int, stop: int) -> slice:
    """The pixels from ``start`` to ``stop`` of the scene in what was read of it."""
    return slice(start - read.start, stop - read.start)


def _enlarged(start: int, stop: int, scale: float) -> slice:
    return slice(enlarged(start, scale), enlarged(stop, scale))
