"""The one way to upscale: model, scale, device, precision, tiles and self-ensemble in one object.

Evaluation, batch and serving all go through :class:`Upscaler`. It keeps no state between calls, so that
concurrent requests cannot mix.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from rayscale.errors import ConfigError, InputError, RayscaleError, TooLargeError
from rayscale.inference.engine import Precision, pick_device, pick_dtype
from rayscale.inference.ensemble import self_ensemble
from rayscale.inference.tiles import Tile, tiles
from rayscale.resampling import enlarge, enlarged, exact_scale
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
        """The image ``scale`` times as large, in the same container, depth and channels.

        Alpha is interpolated (a mask is not a texture). Resolution (DPI) grows with the scale, so that the
        printed size stays.
        """
        self._check_size(image.height, image.width)
        alpha = None if image.alpha is None else enlarge(image.alpha, self.scale)
        dpi = None if image.dpi is None else (image.dpi[0] * self.scale, image.dpi[1] * self.scale)
        return replace(image, pixels=self.upscale_pixels(image.pixels), alpha=alpha, dpi=dpi)

    @torch.inference_mode()
    def upscale_pixels(self, pixels: Pixels) -> Pixels:
        """Upscale ``(H, W, C)`` uint8 or uint16 pixels to ``(sH, sW, C)`` of the same dtype, rounded and clipped.

        Fractions of a pixel in the size are cut, as everywhere here: it is ``floor(scale * size)``.
        """
        if pixels.ndim != 3 or pixels.dtype not in (np.uint8, np.uint16):
            raise InputError(
                f"expected (H, W, C) pixels of uint8 or uint16, got shape {pixels.shape} of {pixels.dtype}"
            )
        self._check_size(*pixels.shape[:2])
        peak = float(np.iinfo(pixels.dtype).max)
        bits = 8 * pixels.dtype.itemsize
        planes = self._to_planes(pixels)
        value_range = self.model.spec.value_range
        height, width = (enlarged(side, self.scale) for side in pixels.shape[:2])
        out = np.empty((height, width, pixels.shape[2]), pixels.dtype)
        for group, channels in planes:
            x = torch.tensor(group, dtype=torch.float32).mul_(value_range / peak)
            y = self.predict(x, bits=bits)
            if not torch.isfinite(y).all():
                y = self.predict(
                    x, bits=16
                )  # float32: overflow of a narrow type is no reason to fail
            if not torch.isfinite(y).all():
                raise RayscaleError(
                    "the network produced non-finite values for this image; its weights are damaged or "
                    "were trained on another value range"
                )
            y = y.mul_(peak / value_range).round_().clamp_(0, peak)[0].permute(1, 2, 0)
            out[:, :, channels] = y.numpy().astype(pixels.dtype)
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

    def _to_planes(self, pixels: Pixels) -> list[tuple[Pixels, slice]]:
        """``(1, C, H, W)`` groups the model accepts, with the channels each one fills.

        Equal channel counts run together; a one-channel model runs band by band; the interpolating
        models take any count. Nothing is ever turned into RGB silently.
        """
        count, wanted = pixels.shape[2], self.model.channels
        planes = np.ascontiguousarray(np.moveaxis(pixels, -1, 0))[None]
        if count == wanted or self.model.any_channels:
            return [(planes, slice(0, count))]
        if wanted == 1:
            return [(planes[:, i : i + 1], slice(i, i + 1)) for i in range(count)]
        raise InputError(
            f"the image has {count} channel{'s' * (count != 1)}, the model {self.model.spec.system!r} was "
            f"made for {wanted}; use a model of {count} or of 1 channel"
        )

    def _check_size(self, height: int, width: int) -> None:
        limit = get_settings().max_output_pixels
        tall, wide = enlarged(height, self.scale), enlarged(width, self.scale)
        if tall * wide > limit:
            raise TooLargeError(
                f"{width}x{height} pixels at x{self.scale} make {wide}x{tall}, over the limit of {limit} output "
                "pixels; raise RAYSCALE_MAX_OUTPUT_PIXELS or cut the image"
            )
