"""Pixels in, larger pixels of the same type out: one picture or slice, by strips or windows of bounded memory."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rayscale.errors import InputError, NonFiniteOutputError
from rayscale.imaging import Header
from rayscale.imaging.levels import Levels
from rayscale.imaging.limits import check_output
from rayscale.imaging.missing import Missing
from rayscale.inference import backprojection
from rayscale.inference.backprojection import Residual, back_project
from rayscale.inference.predictor import Predictor
from rayscale.inference.tiles import Tile
from rayscale.resampling import enlarged, exact_scale

Pixels = NDArray[Any]
Mask = NDArray[np.bool_]

WINDOW_BYTES = 128 << 20
"""Float32 output of a window of the default size; with self-ensemble or back-projection half of it, as they hold several."""

_SMALLEST_WINDOW = 64


class _NonFiniteError(Exception):
    """Raised from within a strip whose values are not finite."""


@dataclass(frozen=True, eq=False)
class Frame:
    """An enlarged frame, or a volume of them, with residual and standard deviations if asked for."""

    pixels: Pixels
    residual: Residual | None = None
    deviations: Pixels | None = None

    @classmethod
    def stack(cls, frames: list[Frame]) -> Frame:
        """Those of a volume."""
        residuals = [frame.residual for frame in frames if frame.residual is not None]
        deviations = [frame.deviations for frame in frames if frame.deviations is not None]
        return cls(
            np.stack([frame.pixels for frame in frames]),
            sum(residuals, Residual()) if residuals else None,
            np.stack(deviations) if deviations else None,
        )


class FrameUpscaler:
    """Enlarges arrays ``(H, W, C)`` of stored values, whole or by windows that equal the whole."""

    def __init__(self, predictor: Predictor) -> None:
        self.predictor = predictor
        self.scale = predictor.scale
        self._consistency = predictor.options.consistency
        self._uncertainty = predictor.options.uncertainty

    @property
    def halo(self) -> int:
        """Source pixels around a pixel that its enlargement depends on: the margin of a window.

        Exact for the network, an upper bound for the back-projection. At a scale p/q windows begin at multiples of q.
        """
        if self._consistency:
            return self.predictor.halo + backprojection.HALO
        return self.predictor.reach

    @property
    def windowed(self) -> bool:
        """Whether a large picture goes window by window, as self-ensemble and back-projection need floats of all they
        see; without them only strips are floats."""
        return self.predictor.options.ensemble or self._consistency

    def windows(
        self, size: tuple[int, int], channels: int, *, side: int | None = None
    ) -> list[Tile]:
        """Windows of an image of ``size`` (H, W) whose enlargement takes a bounded memory, row by row.

        Args:
            side: of the core of a window in source pixels; None is what ``WINDOW_BYTES`` allow, 1672 for three channels
                at x2.
        """
        if side is None:
            # The ensemble, calibration and back-projection hold several of them at once.
            several = self.windowed or self.predictor.calibrates
            most = WINDOW_BYTES / 2 if several else WINDOW_BYTES
            side = math.isqrt(int(most / (4 * channels * self.scale**2)))
        grain = exact_scale(self.scale).denominator
        return Tile.whole(*size).cut(max(side, _SMALLEST_WINDOW), self.halo, grain, size)

    @torch.inference_mode()
    def upscale(
        self,
        pixels: Pixels,
        levels: Levels | None = None,
        valid: Mask | None = None,
        missing: Missing | None = None,
    ) -> Frame:
        """``(H, W, C)`` pixels to ``(sH, sW, C)`` of the same type, integers rounded and clipped, fractions of a pixel cut.

        Args:
            levels: which values are black and white; only uint8 and uint16 can do without.
            valid: ``(H, W, 1)`` or ``(H, W, C)``, the pixels that count for the residual, all when None.
            missing: what it reserves is not a value of the output: before the residual is measured.

        Raises InputError for another shape or type; TooLargeError; NonFiniteOutputError for values that are not finite.
        """
        if pixels.ndim != 3 or (levels is None and pixels.dtype not in (np.uint8, np.uint16)):
            raise InputError(
                f"expected (H, W, C) pixels of uint8 or uint16, got shape {pixels.shape} of {pixels.dtype}"
            )
        levels = levels or Levels.of_picture(pixels)
        self.check_size(pixels)
        splits = self.predictor.splits(pixels, levels)
        if not (self.predictor.calibrates or self.windowed or splits):
            out = self._stream(pixels, levels)
            if missing is not None:
                missing.spare(out, levels)
            return Frame(out)
        windows = self.windows(pixels.shape[:2], pixels.shape[2])
        if len(windows) == 1:
            return self._at_once(pixels, levels, valid, missing)
        out, deviations, residual = self._blank(pixels)
        for window in windows:
            seen = tuple(slice(span.low, span.high) for span in (window.rows, window.columns))
            core = tuple(slice(span.start, span.stop) for span in (window.rows, window.columns))
            inner = tuple(slice(*span.core) for span in (window.rows, window.columns))
            counted = np.zeros((*window.shape, 1 if valid is None else valid.shape[-1]), bool)
            counted[inner] = True if valid is None else valid[core]
            frame = self._at_once(pixels[seen], levels, counted, missing)
            place, made = (self._larger(part) for part in (core, inner))
            out[place] = frame.pixels[made]
            if deviations is not None and frame.deviations is not None:
                deviations[place] = frame.deviations[made]
            if residual is not None and frame.residual is not None:
                residual += frame.residual
        return Frame(out, residual, deviations)

    def check_size(self, pixels: Pixels, frames: int = 1) -> None:
        """Raise TooLargeError when the enlargement is over the limits."""
        height, width, channels = pixels.shape[-3:]
        bits = 8 * pixels.itemsize
        check_output(Header("", width, height, channels, bits, slices=frames), self.scale)

    def _blank(self, pixels: Pixels) -> tuple[Pixels, Pixels | None, Residual | None]:
        """Room for the enlargement, and for the standard deviations and the residual where they are asked for."""
        height, width = (enlarged(side, self.scale) for side in pixels.shape[:2])
        out = np.empty((height, width, pixels.shape[2]), pixels.dtype)
        deviations = np.empty(out.shape, np.float32) if self._uncertainty else None
        return out, deviations, Residual() if self._consistency else None

    def _larger(self, part: tuple[slice, ...]) -> tuple[slice, ...]:
        """The output pixels of a part of the source that begins at multiples of the grain."""
        return tuple(
            slice(enlarged(side.start, self.scale), enlarged(side.stop, self.scale))
            for side in part
        )

    def _stream(self, pixels: Pixels, levels: Levels) -> Pixels:
        """The enlarged pixels, of which only strips are ever floats."""
        out, _, _ = self._blank(pixels)
        for channels in self.predictor.groups(pixels.shape[2]):
            scaling = levels.of_channels(channels)
            self._stream_group(pixels[..., channels], scaling, out[..., channels], levels.bits)
        return out

    def _stream_group(self, taken: Pixels, scaling: Levels, made: Pixels, bits: int) -> None:
        value_range = self.predictor.model.spec.value_range

        def read(rows: slice, columns: slice) -> Tensor:
            planes = scaling.to_network(taken[rows, columns], value_range).transpose(2, 0, 1)
            return torch.tensor(planes[None])

        def write(rows: slice, columns: slice, y: Tensor) -> None:
            if not self.predictor.is_sound(y):
                raise _NonFiniteError
            values = y[0].permute(1, 2, 0).float().cpu().numpy()
            made[rows, columns] = scaling.to_values(values, value_range, made.dtype)

        for depth in (bits, 16):  # overflow of a narrow type is not a reason to fail
            parts = self.predictor.parts(taken.shape[2], depth)
            try:
                return parts.run((taken.shape[0], taken.shape[1]), read, write)
            except _NonFiniteError:
                continue
        raise NonFiniteOutputError

    def _at_once(
        self, pixels: Pixels, levels: Levels, valid: Mask | None, missing: Missing | None
    ) -> Frame:
        """The enlargement of a picture or window whose floats fit into memory several times."""
        value_range = self.predictor.model.spec.value_range
        out, deviations, _ = self._blank(pixels)
        for channels in self.predictor.groups(pixels.shape[2]):
            scaling = levels.of_channels(channels)
            planes = scaling.to_network(pixels[:, :, channels], value_range).transpose(2, 0, 1)
            x = torch.tensor(planes[None])
            # Back-projection keeps more than the means.
            y, spread = self.predictor.enlarge(x, levels.bits, keep_means=not self._consistency)
            if self._consistency:
                y = self._back_projected(y, x, scaling, pixels.dtype)
            values = y[0].permute(1, 2, 0).numpy()
            out[:, :, channels] = scaling.to_values(values, value_range, pixels.dtype)
            if deviations is not None and spread is not None:
                apart = spread[0].permute(1, 2, 0).numpy()
                with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
                    apart = apart / scaling.unit(value_range, pixels.dtype)
                deviations[:, :, channels] = scaling.finite(apart)
        if missing is not None:
            missing.spare(out, levels)
        residual = None
        if self._consistency:
            residual = backprojection.residual(out, pixels, self.scale, valid)
        return Frame(out, residual, deviations)

    def _back_projected(self, y: Tensor, x: Tensor, scaling: Levels, dtype: Any) -> Tensor:
        """``y`` corrected until it gives ``x`` when shrunk; what can be stored stays so."""
        value_range = self.predictor.model.spec.value_range
        # Floats have no unit: that of 16 bits from black to white, below which float32 has little to say, stands in.
        unit = scaling.unit(value_range, dtype) if dtype.kind in "iu" else np.zeros(1, np.float32)
        tolerance = backprojection.TOLERANCE * np.maximum(unit, value_range / 65535)
        bounds = scaling.bounds(value_range, dtype)
        limits = None if bounds is None else (_planes(bounds[0]), _planes(bounds[1]))
        return back_project(y, x, self.scale, _planes(tolerance), limits)


def _planes(values: Pixels) -> Tensor:
    """One value, or one per channel, to be combined with ``(N, C, H, W)``."""
    return torch.from_numpy(np.asarray(values, np.float32).reshape(-1, 1, 1))
