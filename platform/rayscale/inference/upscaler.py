"""The one way to upscale: model, scale, device, precision, tiles and self-ensemble in one object.

Evaluation, batch and serving all go through :class:`Upscaler`. It keeps no state between calls, so that
concurrent requests cannot mix.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from rayscale.errors import ConfigError, InputError, RayscaleError, TooLargeError
from rayscale.imaging.levels import Levels
from rayscale.inference.engine import Precision, pick_device, pick_dtype
from rayscale.inference.ensemble import self_ensemble
from rayscale.inference.tiles import Tile, tiles
from rayscale.resampling import enlarge, enlarged, exact_scale, nearest
from rayscale.settings import get_settings

if TYPE_CHECKING:
    from rayscale.imaging import Image
    from rayscale.models.network import SuperResolver

Pixels = npt.NDArray[Any]

__all__ = ["Precision", "Upscaler"]

_SMALLEST_TILE = 16


class Upscaler:
    """Upscales images by one model at one scale.

    Args:
        model: the network; moved to ``device`` and set to evaluation mode.
        scale: one that the model serves; see ``SuperResolver.resolve_scale``.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:N``.
        precision: ``auto`` uses bfloat16 for 8-bit images on hardware that has it, float32 otherwise.
        tile: side of a tile's core in source pixels; the exact halo of the model comes on top. At a scale p/q a core
            is at least q.
        ensemble: average over the eight flips and transpositions (the "+" variants), at eight times the cost.

    Raises ConfigError for settings that are not possible.
    """

    def __init__(
        self,
        model: SuperResolver,
        scale: float,
        *,
        device: str = "auto",
        precision: Precision = "auto",
        tile: int = 192,
        ensemble: bool = False,
    ) -> None:
        if tile < _SMALLEST_TILE:
            raise ConfigError(f"tile {tile} is too small; use at least {_SMALLEST_TILE} pixels")
        self.scale = model.resolve_scale(scale)
        self.device = pick_device(device)
        self.precision: Precision = precision
        self.tile = tile
        self.ensemble = ensemble
        self.model = model.to(self.device).to(memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
        pick_dtype(precision, self.device, 8)  # a wrong name fails here, not at the first image

    def describe(self) -> dict[str, object]:
        """What determines the output besides the source and the weights."""
        return {
            "system": self.model.spec.system,
            "scale": self.scale,
            "precision": self.precision,
            "ensemble": self.ensemble,
        }

    def upscale(self, image: Image) -> Image:
        """The image ``scale`` times as large, in the same container, type and channels.

        Alpha is interpolated (a mask is not a texture). Resolution (DPI) grows with the scale, so that the
        printed size stays, and so does the geometry of the container. Missing pixels are filled for the network
        and missing again in the output; the slices of a volume are enlarged one by one.
        """
        self._check_size(image.height, image.width, image.frames)
        scale, missing, metadata = self.scale, image.missing, image.metadata
        alpha = None if image.alpha is None else enlarge(image.alpha, scale)
        dpi = None if image.dpi is None else (image.dpi[0] * scale, image.dpi[1] * scale)
        return replace(
            image,
            pixels=self._upscale_measured(image),
            alpha=alpha,
            dpi=dpi,
            missing=None if missing is None else missing.scaled(scale),
            metadata=None if metadata is None else metadata.scaled(scale),
        )

    def _upscale_measured(self, image: Image) -> Pixels:
        """Pixels of the enlarged image: the network where something was measured, the source elsewhere."""
        source, missing = image.pixels, image.missing
        if missing is not None and missing.everything:
            return nearest(source, self.scale, (source.ndim - 3, source.ndim - 2))
        filled = self.filled(image)
        if source.ndim == 3:
            output = self.upscale_pixels(filled, image.levels)
        else:
            output = np.stack([self.upscale_pixels(frame, image.levels) for frame in filled])
        return output if missing is None else missing.restored(output, source, self.scale)

    @property
    def fill_reach(self) -> int:
        """Pixels to where a missing value is looked for: what a network sees around a measured pixel lies nearer.

        It sees a square of ``halo`` to each side; the corners are the farthest, sqrt(2) ``halo`` away.
        """
        return math.isqrt(2 * self.model.halo(self.scale) ** 2) + 1

    def filled(self, image: Image) -> Pixels:
        """The pixels as the network shall see them, nothing missing; black where nothing was measured nearby."""
        if image.missing is None:
            return image.pixels
        blank = (0.0,) if image.levels is None else image.levels.black
        return image.missing.filled(image.pixels, self.fill_reach, blank)

    @torch.inference_mode()
    def upscale_pixels(self, pixels: Pixels, levels: Levels | None = None) -> Pixels:
        """Upscale ``(H, W, C)`` pixels to ``(sH, sW, C)`` of the same type, integers rounded and clipped.

        ``levels`` says which values are black and white; only uint8 and uint16 can do without. Fractions of a pixel
        in the size are cut, as everywhere here: it is ``floor(scale * size)``.
        """
        if pixels.ndim != 3 or (levels is None and pixels.dtype not in (np.uint8, np.uint16)):
            raise InputError(
                f"expected (H, W, C) pixels of uint8 or uint16, got shape {pixels.shape} of {pixels.dtype}"
            )
        levels = levels or Levels.of_type(pixels.dtype)
        self._check_size(*pixels.shape[:2])
        value_range = self.model.spec.value_range
        height, width = (enlarged(side, self.scale) for side in pixels.shape[:2])
        out = np.empty((height, width, pixels.shape[2]), pixels.dtype)
        for channels in self._groups(pixels.shape[2]):
            scaling = levels.of_channels(channels)
            planes = scaling.to_network(pixels[:, :, channels], value_range).transpose(2, 0, 1)
            x = torch.tensor(planes[None])
            y = self.predict(x, bits=levels.bits)
            if not torch.isfinite(y).all():
                y = self.predict(
                    x, bits=16
                )  # float32: overflow of a narrow type is no reason to fail
            if not torch.isfinite(y).all():
                raise RayscaleError(
                    "the network produced non-finite values for this image; its weights are damaged or "
                    "were trained on another value range"
                )
            values = y[0].permute(1, 2, 0).numpy()
            out[:, :, channels] = scaling.to_values(values, value_range, pixels.dtype)
        return out

    @torch.inference_mode()
    def predict(self, x: Tensor, *, bits: int = 16) -> Tensor:
        """The raw float32 output ``(N, C, sH, sW)`` on the CPU for ``x`` ``(N, C, H, W)`` in the model's value range.

        Tiled with the exact halo: equal to the whole image at once. ``bits`` is the depth that the precision
        has to serve; the default computes in float32.

        The self-ensemble needs an image that its flips leave on its own output grid. At a scale p/q that is one whose
        sides are multiples of q: others grow to it by repeating their last row and column, and what these made is
        cut off again.
        """
        dtype = pick_dtype(self.precision, self.device, bits)
        height, width = x.shape[-2:]
        grain = exact_scale(self.scale).denominator
        if self.ensemble:
            x = functional.pad(x, (0, -width % grain, 0, -height % grain), mode="replicate")
        halo = self.model.halo(self.scale)
        tall, wide = x.shape[-2:]
        out = torch.empty(*x.shape[:2], enlarged(tall, self.scale), enlarged(wide, self.scale))
        for tile in tiles(tall, wide, self.tile, halo, grain):
            self._predict_tile(x, out, tile, dtype)
        return out[..., : enlarged(height, self.scale), : enlarged(width, self.scale)]

    def _predict_tile(self, x: Tensor, out: Tensor, tile: Tile, dtype: torch.dtype) -> None:
        rows, columns = tile.rows, tile.columns
        part = x[..., rows.low : rows.high, columns.low : columns.high].to(self.device)
        part = part.contiguous(memory_format=torch.channels_last)
        y = (
            self_ensemble(lambda v: self._forward(v, dtype), part)
            if self.ensemble
            else (self._forward(part, dtype))
        )
        whole = (
            ...,
            self._enlarged(rows.start, rows.stop),
            self._enlarged(columns.start, columns.stop),
        )
        core = (
            ...,
            self._enlarged(rows.core.start, rows.core.stop),
            self._enlarged(columns.core.start, columns.core.stop),
        )
        out[whole] = y[core]

    def _enlarged(self, start: int, stop: int) -> slice:
        """The output pixels of the source pixels from ``start`` (a multiple of the grain) up to ``stop``."""
        return slice(enlarged(start, self.scale), enlarged(stop, self.scale))

    def _forward(self, x: Tensor, dtype: torch.dtype) -> Tensor:
        with torch.autocast(self.device.type, dtype, enabled=dtype != torch.float32):
            y: Tensor = self.model(x, self.scale)
        return y.float()

    def _groups(self, count: int) -> list[slice]:
        """The channels that the model takes together, of ``count``.

        Equal channel counts run together; a one-channel model runs band by band; the interpolating
        models take any count. Nothing is ever turned into RGB silently.
        """
        wanted = self.model.channels
        if count == wanted or self.model.any_channels:
            return [slice(0, count)]
        if wanted == 1:
            return [slice(i, i + 1) for i in range(count)]
        raise InputError(
            f"the image has {count} channel{'s' * (count != 1)}, the model {self.model.spec.system!r} was "
            f"made for {wanted}; use one of {count} or of 1 channel, or one that takes any number, as aplus does"
        )

    def _check_size(self, height: int, width: int, frames: int = 1) -> None:
        limit = get_settings().max_output_pixels
        tall, wide = enlarged(height, self.scale), enlarged(width, self.scale)
        if tall * wide * frames > limit:
            raise TooLargeError(
                f"{width}x{height} pixels{f' of {frames} slices' * (frames > 1)} at x{self.scale} make {wide}x{tall}, "
                f"over the limit of {limit} output pixels; raise RAYSCALE_MAX_OUTPUT_PIXELS or cut the image"
            )
