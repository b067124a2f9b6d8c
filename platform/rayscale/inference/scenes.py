"""Scenes larger than memory: cut into windows, enlarged one by one, equal to the scene enlarged at once.

A window is its core plus the exact halo of the network, on the grain of the scale (``rayscale.inference.tiles``). What it
becomes depends on the scene and on nothing else, so that windows can be computed in any order and anywhere.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from rayscale.errors import ConfigError
from rayscale.imaging.missing import MASK_REACH, enlarge_mask
from rayscale.imaging.scene import Part, Scene, SceneWriter
from rayscale.inference.backprojection import Residual
from rayscale.inference.tiles import Tile
from rayscale.inference.upscaler import UNCERTAINTY
from rayscale.resampling import enlarged, exact_scale

if TYPE_CHECKING:
    from rayscale.imaging import Provenance
    from rayscale.inference.upscaler import Upscaler


def windows_of(scene: Scene, upscaler: Upscaler, side: int | None = None) -> list[Tile]:
    """The windows of a scene, row by row.

    Args:
        side: of the core of a window in source pixels; None is what a bounded memory allows, 1672 for three
            channels at x2.
    """
    return upscaler.frames.windows((scene.height, scene.width), scene.channels, side=side)


def writer_of(scene: Scene, upscaler: Upscaler, target: str | Path) -> SceneWriter:
    """The writer for what :func:`upscale_window` makes of a scene."""
    labels = upscaler.repeats or bool(scene.labels)
    lossless = upscaler.options.consistency or labels
    return SceneWriter(target, scene, upscaler.scale, lossless=lossless, labels=labels)


@dataclass(frozen=True, eq=False)
class UpscaledWindow:
    """The core of a window, enlarged, and what was asked to be known of it, as in :class:`Upscaled`."""

    part: Part
    residual: Residual | None = None
    uncertainty: Part | None = None


def upscale_window(scene: Scene, upscaler: Upscaler, window: Tile) -> UpscaledWindow:
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
    residual = deviations = None
    if missing is not None and missing.everything:
        frame = upscaler.repeated(source)
        pixels, residual = frame.pixels, frame.residual
        if frame.deviations is not None:
            deviations = np.full_like(frame.deviations, np.nan)
    else:
        seen = [_within(part, span.low, span.high) for part, span in zip(read, spans, strict=True)]
        filled = upscaler.filled(image)[tuple(seen)]
        inner = tuple(slice(*span.core) for span in spans)
        counted = np.zeros((*window.shape, 1 if missing is None else missing.valid.shape[-1]), bool)
        counted[inner] = True if missing is None else missing.valid
        whole = None if image.missing is None else image.missing.cropped(*seen).reserving()
        larger = upscaler.run(replace(image, pixels=filled, missing=whole), counted)
        place = tuple(_enlarge(part, scale) for part in inner)
        pixels, residual = larger.image.pixels[place], larger.residual
        if larger.uncertainty is not None:
            deviations = larger.uncertainty.pixels[place]
        if missing is not None:
            pixels = missing.restored(pixels, source, scale, image.levels)
            if deviations is not None:
                deviations = np.where(missing.scaled(scale).valid, deviations, np.float32(np.nan))
    row, column = enlarged(window.rows.start, scale), enlarged(window.columns.start, scale)
    return UpscaledWindow(
        Part(row, column, pixels, _enlarge_mask(scene, window, scale)),
        residual,
        None if deviations is None else Part(row, column, deviations),
    )


def _enlarge_mask(scene: Scene, window: Tile, scale: float) -> NDArray[Any] | None:
    """The validity of the core of a window; as much around it is read as matters there."""
    if not scene.masked:
        return None
    grain = exact_scale(scale).denominator
    margin = -(-MASK_REACH // grain) * grain
    read = [
        slice(max(span.start - margin, 0), min(span.stop + margin, size))
        for span, size in zip(
            (window.rows, window.columns), (scene.height, scene.width), strict=True
        )
    ]
    mask = scene.mask(*read)
    assert mask is not None
    core = (
        _enlarge(_within(part, span.start, span.stop), scale)
        for part, span in zip(read, (window.rows, window.columns), strict=True)
    )
    return enlarge_mask(mask, scale)[tuple(core)]


@dataclass(frozen=True)
class UpscaledScene:
    """What :func:`upscale_scene` made: its size, how far it is from its source when shrunk (with ``consistency``), and
    the notes of the scene."""

    width: int
    height: int
    residual: Residual | None = None
    notes: tuple[str, ...] = ()


def upscale_scene(
    upscaler: Upscaler,
    source: str | Path,
    target: str | Path,
    provenance: Provenance | None = None,
    *,
    uncertainty: str | Path | None = None,
    window: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> UpscaledScene:
    """Enlarge a GeoTIFF on disk into another, a Cloud-Optimised one that appears whole or not at all.

    Args:
        provenance: gets the residual as a measure.
        uncertainty: the file to make of the standard deviations, in float32 and NaN where nothing was measured; for an
            upscaler that tells them, and only for such a one.
        window: side of a window in source pixels; see :func:`windows_of`.
        progress: called with the number of windows done and of all, before the first and after each.

    Raises ConfigError when only one of the two wants the uncertainty; further errors as in :class:`Scene`,
    :class:`SceneWriter` and :class:`Upscaler`.
    """
    if upscaler.options.uncertainty != (uncertainty is not None):
        raise ConfigError(
            "an upscaler with uncertainty needs a file to write it to, and such a file needs an upscaler with uncertainty; give both or neither"
        )
    with ExitStack() as stack:
        scene = stack.enter_context(Scene(source, handling=upscaler.handling))
        writer = stack.enter_context(writer_of(scene, upscaler, target))
        beside = None
        if uncertainty is not None:
            beside = SceneWriter(uncertainty, scene, upscaler.scale, deviations=True)
            stack.enter_context(beside)
        windows = windows_of(scene, upscaler, window)
        residual = Residual() if upscaler.options.consistency else None
        for number, place in enumerate(windows):
            if progress is not None:
                progress(number, len(windows))
            larger = upscale_window(scene, upscaler, place)
            writer.put(larger.part)
            if beside is not None and larger.uncertainty is not None:
                beside.put(larger.uncertainty)
            if residual is not None and larger.residual is not None:
                residual += larger.residual
        if progress is not None:
            progress(len(windows), len(windows))
        if provenance is not None and residual is not None:
            provenance = provenance.with_measures(residual=residual.describe())
        writer.finish(provenance)
        if beside is not None:
            beside.finish(provenance and provenance.with_measures(content=UNCERTAINTY))
        return UpscaledScene(writer.width, writer.height, residual, scene.notes)


def _within(read: slice, start: int, stop: int) -> slice:
    """The pixels from ``start`` to ``stop`` of the scene in what was read of it."""
    return slice(start - read.start, stop - read.start)


def _enlarge(core: slice, scale: float) -> slice:
    return slice(enlarged(core.start, scale), enlarged(core.stop, scale))
