"""Scenes larger than memory: cut into windows, enlarged one by one, equal to the scene enlarged at once.

A window is its core plus the exact halo of the network, on the grain of the scale (``rayscale.inference.tiles``). What it
becomes depends on the scene and on nothing else, so that windows can be computed in any order and anywhere.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from rayscale.errors import ConfigError
from rayscale.imaging.scene import Part, Scene, SceneWriter
from rayscale.inference.backprojection import Residual
from rayscale.inference.tiles import Tile
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
    """One of :func:`windows_of`, enlarged, and what remains of its core by back-projection, if that was asked for.

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
    residual = None
    if missing is not None and missing.everything:
        pixels = nearest(source, scale)
        residual = Residual() if upscaler.consistency else None
    else:
        seen = [_within(part, span.low, span.high) for part, span in zip(read, spans, strict=True)]
        filled = upscaler.filled(image)[tuple(seen)]
        inner = tuple(slice(*span.core) for span in spans)
        counted = np.zeros((*window.shape, 1 if missing is None else missing.valid.shape[-1]), bool)
        counted[inner] = True if missing is None else missing.valid
        larger = upscaler.run(replace(image, pixels=filled, missing=None), counted)
        pixels = larger.image.pixels[tuple(_enlarged(part, scale) for part in inner)]
        residual = larger.residual
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


@dataclass(frozen=True)
class UpscaledScene:
    """What :func:`upscale_scene` made: its size, and how far it is from its source when shrunk, with ``consistency``."""

    width: int
    height: int
    residual: Residual | None = None


def upscale_scene(
    upscaler: Upscaler,
    source: str | Path,
    target: str | Path,
    provenance: Provenance | None = None,
    *,
    window: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> UpscaledScene:
    """Enlarge a GeoTIFF on disk into another, a Cloud-Optimised one that appears whole or not at all.

    Args:
        provenance: gets the residual as a measure.
        window: side of a window in source pixels; see :func:`windows_of`.
        progress: called with the number of windows done and of all, before the first and after each.

    Raises ConfigError for an upscaler that shall tell the uncertainty; further errors as of :class:`Scene`,
    :class:`SceneWriter` and :class:`Upscaler`.
    """
    if upscaler.uncertainty:
        raise ConfigError(
            "the uncertainty of a scene is not written by windows; upscale it as an image in memory, or do without"
        )
    with Scene(source) as scene, SceneWriter(target, scene, upscaler.scale) as writer:
        windows = windows_of(scene, upscaler, window)
        residual = Residual() if upscaler.consistency else None
        for number, place in enumerate(windows):
            if progress is not None:
                progress(number, len(windows))
            part, left = upscale_window(scene, upscaler, place)
            writer.put(part)
            if residual is not None and left is not None:
                residual += left
        if progress is not None:
            progress(len(windows), len(windows))
        if provenance is not None and residual is not None:
            provenance = provenance.with_measures(residual=residual.describe())
        writer.finish(provenance)
        return UpscaledScene(writer.width, writer.height, residual)


def _within(read: slice, start: int, stop: int) -> slice:
    """The pixels from ``start`` to ``stop`` of the scene in what was read of it."""
    return slice(start - read.start, stop - read.start)


def _enlarged(core: slice, scale: float) -> slice:
    return slice(enlarged(core.start, scale), enlarged(core.stop, scale))
