"""The one way to upscale: model, scale, device, precision, tiles and self-ensemble in one object.

Evaluation, batch and serving all go through :class:`Upscaler`. Between calls it keeps nothing of an image, so that
concurrent requests cannot mix.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import repeat
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from rayscale.errors import ConfigError, InputError, RayscaleError
from rayscale.imaging import Header, check_side
from rayscale.imaging.levels import Levels
from rayscale.imaging.limits import check_output
from rayscale.imaging.missing import MASK_REACH, Missing
from rayscale.inference import backprojection, excess, localmean
from rayscale.inference.backprojection import Residual, back_project
from rayscale.inference.engine import Precision, pick_device, pick_dtype
from rayscale.inference.ensemble import ensemble_moments, padded, self_ensemble
from rayscale.inference.flatfield import FlatField
from rayscale.inference.folding import folded
from rayscale.inference.localmean import keep_local_means
from rayscale.inference.parts import SMALLEST, Parts
from rayscale.inference.tiles import Tile
from rayscale.models.spec import NEAREST
from rayscale.resampling import enlarge, enlarged, exact_scale, nearest, upsample

if TYPE_CHECKING:
    from rayscale.imaging import Handling, Image
    from rayscale.models.network import SuperResolver

Pixels = NDArray[Any]

__all__ = ["UNCERTAINTY", "Precision", "Upscaled", "Upscaler"]

UNCERTAINTY = "standard deviation over the eight outputs of the self-ensemble, in stored units"
"""What the provenance of a file of uncertainty says of its values."""

WINDOW_BYTES = 128 << 20
"""Float32 output of a window of the default size; with self-ensemble or back-projection half of it, as they hold several."""

_SMALLEST_WINDOW = 64

_NON_FINITE = "the network produced non-finite values for this image; its weights are damaged or were trained on another value range"


class _NonFiniteError(Exception):
    """Raised from within a strip whose values are not finite."""


@dataclass(frozen=True, eq=False)
class Upscaled:
    """An enlarged image and what was asked to be known of it.

    Attributes:
        residual: how far it is from its source when shrunk, with ``consistency``.
        uncertainty: the standard deviations of its values over the self-ensemble, with ``uncertainty``.
    """

    image: Image
    residual: Residual | None = None
    uncertainty: Image | None = None

    @property
    def measures(self) -> dict[str, Any]:
        """What provenance tells of this output."""
        return {} if self.residual is None else {"residual": self.residual.describe()}


@dataclass(frozen=True, eq=False)
class _Values:
    """Pixels of an enlarged image or of one of its frames, with residual and standard deviations if asked for."""

    pixels: Pixels
    residual: Residual | None = None
    deviations: Pixels | None = None

    @classmethod
    def stacked(cls, frames: list[_Values]) -> _Values:
        """Those of a volume."""
        residuals = [frame.residual for frame in frames if frame.residual is not None]
        deviations = [frame.deviations for frame in frames if frame.deviations is not None]
        return cls(
            np.stack([frame.pixels for frame in frames]),
            sum(residuals, Residual()) if residuals else None,
            np.stack(deviations) if deviations else None,
        )


class Upscaler:
    """Upscales images by one model at one scale.

    Args:
        model: the network; moved to ``device`` and set to evaluation mode. Its weights must not change any more.
        scale: one that the model serves; see ``SuperResolver.resolve_scale``.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:N``.
        precision: ``auto`` uses bfloat16 for 8-bit images on hardware that has it, float32 otherwise.
        tile: columns of a panel, or side of a tile for a network without a path, in source pixels; the exact halo of
            the model comes on top. At a scale p/q it is at least q. None is what is fast (1024, and 192 for tiles);
            less takes less memory. Where memory is short it is halved as often as needed.
        ensemble: average over the eight flips and transpositions (the "+" variants), at eight times the cost.
        consistency: correct the output by back-projection until it gives the source when shrunk.
        uncertainty: the standard deviation over the eight of the ensemble, before any correction; implies ``ensemble``.
        calibrate: keep the radiometry of the source (``flatfield``, ``localmean``, ``excess``). Without it the network is taken
            as it is, as published figures are.
        watch: called, unless None, before each strip or tile, in the thread of the call; what it raises ends the work.

    Raises ConfigError for settings that are not possible.
    """

    def __init__(
        self,
        model: SuperResolver,
        scale: float,
        *,
        device: str = "auto",
        precision: Precision = "auto",
        tile: int | None = None,
        ensemble: bool = False,
        consistency: bool = False,
        uncertainty: bool = False,
        calibrate: bool = True,
        watch: Callable[[], None] | None = None,
    ) -> None:
        if tile is not None and tile < SMALLEST:
            raise ConfigError(f"tile {tile} is too small; use at least {SMALLEST} pixels")
        self.scale = model.resolve_scale(scale)
        self.device = pick_device(device)
        self.precision: Precision = precision
        self.tile = tile
        self.ensemble = ensemble or uncertainty
        self.consistency = consistency
        self.uncertainty = uncertainty
        # Whoever wants to know how far the eight differ asks for each alone.
        self._single = (
            Upscaler(model, scale, device=device, precision=precision, tile=tile, watch=watch)
            if uncertainty
            else None
        )
        self.watch = watch
        self._calibrates = calibrate and not model.keeps_means
        self._splits = calibrate and not model.linear
        self.model = model.to(self.device).to(memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
        self._paths: dict[int, nn.Module | None] = {}
        self._flats: dict[tuple[int, torch.dtype], FlatField | None] = {}
        pick_dtype(precision, self.device, 8)  # a wrong name fails here, not at the first image

    @property
    def halo(self) -> int:
        """Source pixels around a pixel that its enlargement depends on: what a window of a scene needs as a margin.

        Exact for the network, an upper bound for the back-projection. At a scale p/q windows begin at multiples of q.
        """
        margin: int = self.model.halo(self.scale)
        if self.consistency:
            return margin + backprojection.HALO
        return margin + localmean.reach(self.scale) if self._calibrates else margin

    @property
    def windowed(self) -> bool:
        """Whether a large picture goes window by window, as self-ensemble and back-projection need floats of all they see;
        without them only strips are floats."""
        return self.ensemble or self.consistency

    @property
    def repeats(self) -> bool:
        """Whether the model is nearest neighbour: stored values are repeated, and none goes through a network."""
        return bool(self.model.spec.system == NEAREST)

    def reading(self, handling: Handling) -> Handling:
        """How files are read for this model: labels are nothing to refuse for one that repeats pixels."""
        return replace(handling, labels="nearest") if self.repeats else handling

    def describe(self) -> dict[str, object]:
        """What determines the output besides the source and the weights."""
        facts: dict[str, object] = {
            "system": self.model.spec.system,
            "scale": self.scale,
            "precision": self.precision,
            "ensemble": self.ensemble,
        }
        if self.consistency:
            facts["consistency"] = f"{backprojection.ITERATIONS} back-projections"
        return facts

    def upscale(self, image: Image) -> Image:
        """The image ``scale`` times as large, in the same container, type and channels.

        Alpha is interpolated (a mask is not a texture), and colours under an alpha of 0 stay there. Resolution (DPI) grows with the scale, so that the
        printed size stays, and so does the geometry of the container. Missing pixels are filled for the network
        and missing again in the output; the slices of a volume are enlarged one by one.
        """
        return self.run(image).image

    def run(self, image: Image, counted: NDArray[np.bool_] | None = None) -> Upscaled:
        """``upscale``, with the residual and the uncertainty that were asked for.

        Args:
            counted: ``(H, W, 1)`` or ``(H, W, C)``, the pixels that make up the residual, of which missing ones never
                count; None for all. The core of a window: with a margin of ``halo``, windows add up to the whole.

        Raises UnsupportedError, before anything is computed, for the uncertainty of an image whose container has no
        place for it, and for the consistency of one whose container would lose it.
        """
        if image.levels is None and image.pixels.dtype != np.uint8:
            image = replace(image, levels=Levels.of_picture(image.pixels))
        if self.repeats:
            image = replace(image, labels=tuple(range(image.channels)))
        if self.consistency or image.labels:
            image = image.without_loss()  # else residual and labels would be those of other pixels
        self._check_size(image.pixels, image.frames)
        check_side(
            image.container, enlarged(image.width, self.scale), enlarged(image.height, self.scale)
        )
        metadata = image.metadata
        if self._single is not None and metadata is not None:
            metadata.of_deviations()
        values = self._upscale_measured(image, counted)
        larger = self._with_pixels(image, values.pixels)
        uncertainty = None
        if values.deviations is not None:
            uncertainty = larger.of_deviations(values.deviations)
        return Upscaled(larger, values.residual, uncertainty)

    @torch.inference_mode()
    def upscale_many(self, images: Sequence[Image]) -> list[Image]:
        """``upscale`` of pictures of one shape and type (uint8 or uint16), through the network in one batch.

        Of small pictures this saves the cost of a call each. Values are those of :meth:`upscale` up to the rounding of
        floating-point sums, which may come out otherwise in a batch.
        """
        first = images[0]
        if any(
            (image.pixels.shape, image.pixels.dtype) != (first.pixels.shape, first.pixels.dtype)
            for image in images
        ):
            raise InputError("a batch needs pictures of one shape and pixel type")
        if first.pixels.dtype != np.uint8:
            return [self.upscale(image) for image in images]  # whose levels are their own
        if first.pixels.ndim != 3 or any(
            image.levels or image.missing or image.labels for image in images
        ):
            raise InputError("a batch needs whole pictures without levels of their own and labels")
        if self.consistency or self._single is not None or self.repeats:
            return [self.upscale(image) for image in images]  # which are about one image each
        self._check_size(first.pixels)
        levels, value_range = Levels.of_type(first.pixels.dtype), self.model.spec.value_range
        pixels = np.stack([self.filled(image) for image in images])
        height, width = (enlarged(side, self.scale) for side in pixels.shape[1:3])
        out = np.empty((len(images), height, width, first.channels), pixels.dtype)
        for channels in self._groups(first.channels):
            planes = levels.to_network(pixels[..., channels], value_range).transpose(0, 3, 1, 2)
            x = torch.tensor(planes)
            y = self._calibrated(self.predict(x, bits=levels.bits), x, levels.bits)
            if not torch.isfinite(y).all():
                return [self.upscale(image) for image in images]  # only some of them may fail
            values = y.permute(0, 2, 3, 1).numpy()
            out[..., channels] = levels.to_values(values, value_range, pixels.dtype)
        return [self._with_pixels(image, each) for image, each in zip(images, out, strict=True)]

    def _with_pixels(self, image: Image, pixels: Pixels) -> Image:
        """The enlarged file: ``pixels``, and all the rest enlarged here."""
        scale, missing, metadata = self.scale, image.missing, image.metadata
        alpha = None if image.alpha is None else enlarge(image.alpha, scale)
        dpi = None if image.dpi is None else (image.dpi[0] * scale, image.dpi[1] * scale)
        if alpha is not None and image.unseen is not missing:
            hidden = alpha == 0
            pixels[hidden] = nearest(image.pixels, scale)[hidden]
        return replace(
            image,
            pixels=pixels,
            alpha=alpha,
            dpi=dpi,
            missing=None if missing is None else missing.scaled(scale),
            metadata=None if metadata is None else metadata.scaled(scale),
        )

    def _upscale_measured(self, image: Image, counted: NDArray[np.bool_] | None) -> _Values:
        """Values of the enlarged image: the network where something was measured, the source elsewhere."""
        if image.labels:
            return self._beside_labels(image, counted)
        source, missing, unseen = image.pixels, image.missing, image.unseen
        if unseen is not None and unseen.everything:
            pixels = nearest(source, self.scale, (source.ndim - 3, source.ndim - 2))
            deviations = None if self._single is None else np.zeros(pixels.shape, np.float32)
            return _Values(pixels, Residual() if self.consistency else None, deviations)
        filled, valid = self.filled(image), counted
        if unseen is not None:
            valid = unseen.valid if counted is None else unseen.valid & counted
        if source.ndim == 3:
            values = self._upscale_frame(filled, image.levels, valid, missing)
        else:
            masks = (
                repeat(None)
                if valid is None
                else np.broadcast_to(valid, (*source.shape[:-1], valid.shape[-1]))
            )
            values = _Values.stacked(
                [
                    self._upscale_frame(frame, image.levels, mask, missing)
                    for frame, mask in zip(filled, masks, strict=False)
                ]
            )
        if missing is None:
            return values
        pixels = missing.restored(values.pixels, source, self.scale, image.levels)
        return replace(values, pixels=pixels)

    def _beside_labels(self, image: Image, counted: NDArray[np.bool_] | None) -> _Values:
        """The same for an image of which some channels are labels: those are repeated, and no part of any measure."""
        source, measured = image.pixels, list(image.measured)
        pixels = nearest(source, self.scale, (source.ndim - 3, source.ndim - 2))
        deviations = None if self._single is None else np.zeros(pixels.shape, np.float32)
        residual = Residual() if self.consistency else None
        if measured:
            if counted is not None and counted.shape[-1] > 1:
                counted = counted[..., measured]
            values = self._upscale_measured(image.of_channels(measured), counted)
            pixels[..., measured], residual = values.pixels, values.residual
            if deviations is not None:
                deviations[..., measured] = values.deviations
        return _Values(pixels, residual, deviations)

    @property
    def fill_reach(self) -> int:
        """Pixels to where a missing value is looked for: what is seen around a measured pixel lies nearer.

        That is a square of ``halo`` to each side; its corners are the farthest, sqrt(2) ``halo`` away.
        """
        return math.isqrt(2 * self.halo**2) + 1

    def filled(self, image: Image) -> Pixels:
        """The pixels as the network shall see them, nothing missing; black where nothing was measured nearby."""
        unseen = image.unseen
        if unseen is None:
            return image.pixels
        blank = (0.0,) if image.levels is None else image.levels.black
        reach = self.fill_reach + (MASK_REACH if image.alpha is not None else 0)
        return unseen.filled(image.pixels, reach, blank)

    def upscale_pixels(self, pixels: Pixels, levels: Levels | None = None) -> Pixels:
        """Upscale ``(H, W, C)`` pixels to ``(sH, sW, C)`` of the same type, integers rounded and clipped.

        ``levels`` says which values are black and white; only uint8 and uint16 can do without. Fractions of a pixel
        in the size are cut, as everywhere here: it is ``floor(scale * size)``.
        """
        return self._upscale_frame(pixels, levels).pixels

    @torch.inference_mode()
    def _upscale_frame(
        self,
        pixels: Pixels,
        levels: Levels | None,
        valid: NDArray[np.bool_] | None = None,
        missing: Missing | None = None,
    ) -> _Values:
        """``upscale_pixels`` with all that is to be known; only ``valid`` pixels count for the residual.

        What ``missing`` reserves is no value of the output: before the residual is measured.
        """
        if pixels.ndim != 3 or (levels is None and pixels.dtype not in (np.uint8, np.uint16)):
            raise InputError(
                f"expected (H, W, C) pixels of uint8 or uint16, got shape {pixels.shape} of {pixels.dtype}"
            )
        levels = levels or Levels.of_picture(pixels)
        self._check_size(pixels)
        splits = self._splits and excess.exceeds(pixels, levels)
        if not (self._calibrates or self.windowed or splits):
            out = self._streamed(pixels, levels)
            if missing is not None:
                missing.spare(out, levels)
            return _Values(out)
        windows = self.windows(pixels.shape[:2], pixels.shape[2])
        if len(windows) == 1:
            return self._at_once(pixels, levels, valid, missing)
        height, width = (enlarged(side, self.scale) for side in pixels.shape[:2])
        out = np.empty((height, width, pixels.shape[2]), pixels.dtype)
        deviations = None if self._single is None else np.empty(out.shape, np.float32)
        residual = Residual() if self.consistency else None
        for window in windows:
            seen = tuple(slice(span.low, span.high) for span in (window.rows, window.columns))
            core = tuple(slice(span.start, span.stop) for span in (window.rows, window.columns))
            inner = tuple(slice(*span.core) for span in (window.rows, window.columns))
            counted = np.zeros((*window.shape, 1 if valid is None else valid.shape[-1]), bool)
            counted[inner] = True if valid is None else valid[core]
            values = self._at_once(pixels[seen], levels, counted, missing)
            place, made = (self._larger(part) for part in (core, inner))
            out[place] = values.pixels[made]
            if deviations is not None and values.deviations is not None:
                deviations[place] = values.deviations[made]
            if residual is not None and values.residual is not None:
                residual += values.residual
        return _Values(out, residual, deviations)

    def windows(
        self, size: tuple[int, int], channels: int, *, side: int | None = None
    ) -> list[Tile]:
        """Windows of an image of ``size`` (H, W) whose enlargement takes a bounded memory, row by row.

        Args:
            side: of the core of a window in source pixels; None is what ``WINDOW_BYTES`` allow, 1672 for three channels
                at x2.
        """
        if side is None:
            # The ensemble and back-projection hold several of them at once.
            several = self.windowed or self._calibrates
            most = WINDOW_BYTES / 2 if several else WINDOW_BYTES
            side = math.isqrt(int(most / (4 * channels * self.scale**2)))
        grain = exact_scale(self.scale).denominator
        return Tile.whole(*size).cut(max(side, _SMALLEST_WINDOW), self.halo, grain, size)

    def _larger(self, part: tuple[slice, ...]) -> tuple[slice, ...]:
        """The output pixels of a part of the source that begins at multiples of the grain."""
        return tuple(
            slice(enlarged(side.start, self.scale), enlarged(side.stop, self.scale))
            for side in part
        )

    def _streamed(self, pixels: Pixels, levels: Levels) -> Pixels:
        """The enlarged pixels, of which only strips are ever floats."""
        value_range = self.model.spec.value_range
        height, width = (enlarged(side, self.scale) for side in pixels.shape[:2])
        out = np.empty((height, width, pixels.shape[2]), pixels.dtype)
        for channels in self._groups(pixels.shape[2]):
            scaling, taken, made = (
                levels.of_channels(channels),
                pixels[..., channels],
                out[..., channels],
            )

            def read(
                rows: slice, columns: slice, taken: Pixels = taken, scaling: Levels = scaling
            ) -> Tensor:
                planes = scaling.to_network(taken[rows, columns], value_range).transpose(2, 0, 1)
                return torch.tensor(planes[None])

            def write(
                rows: slice,
                columns: slice,
                y: Tensor,
                made: Pixels = made,
                scaling: Levels = scaling,
            ) -> None:
                if not self._is_sound(y):
                    raise _NonFiniteError
                values = y[0].permute(1, 2, 0).float().cpu().numpy()
                made[rows, columns] = scaling.to_values(values, value_range, made.dtype)

            # Overflow of a narrow type is no reason to fail.
            for bits in (levels.bits, 16):
                parts = self._parts(taken.shape[2], bits)
                try:
                    parts.run((pixels.shape[0], pixels.shape[1]), read, write)
                    break
                except _NonFiniteError:
                    continue
            else:
                raise RayscaleError(_NON_FINITE)
        return out

    def _at_once(
        self,
        pixels: Pixels,
        levels: Levels,
        valid: NDArray[np.bool_] | None,
        missing: Missing | None,
    ) -> _Values:
        """The enlargement of a picture or window whose floats fit into memory several times."""
        value_range = self.model.spec.value_range
        height, width = (enlarged(side, self.scale) for side in pixels.shape[:2])
        out = np.empty((height, width, pixels.shape[2]), pixels.dtype)
        deviations = None if self._single is None else np.empty(out.shape, np.float32)
        for channels in self._groups(pixels.shape[2]):
            scaling = levels.of_channels(channels)
            planes = scaling.to_network(pixels[:, :, channels], value_range).transpose(2, 0, 1)
            x = torch.tensor(planes[None])
            seen, beyond = excess.split(x, value_range) if self._splits else (x, None)
            y, spread = self._finite(seen, levels.bits)
            y = self._calibrated(y, seen, levels.bits)
            if beyond is not None:
                y += upsample(beyond, self.scale)
            if self.consistency:
                y = self._back_projected(y, x, scaling, pixels.dtype)
            values = y[0].permute(1, 2, 0).numpy()
            out[:, :, channels] = scaling.to_values(values, value_range, pixels.dtype)
            if deviations is not None and spread is not None:
                apart = spread[0].permute(1, 2, 0).numpy()
                with np.errstate(
                    over="ignore", divide="ignore", invalid="ignore"
                ):  # told by finite
                    apart = apart / scaling.unit(value_range, pixels.dtype)
                deviations[:, :, channels] = scaling.finite(apart)
        if missing is not None:
            missing.spare(out, levels)
        residual = None
        if self.consistency:
            residual = backprojection.residual(out, pixels, self.scale, valid)
        return _Values(out, residual, deviations)

    def _finite(self, x: Tensor, bits: int) -> tuple[Tensor, Tensor | None]:
        """Output and standard deviation (None unless asked for) in the range of the model.

        Raises RayscaleError when the output is not finite in float32 either.
        """
        for depth in (bits, 16):  # overflow of a narrow type is no reason to fail
            y, spread = self._moments(x, depth)
            if self._is_sound(y):
                return y, spread
        raise RayscaleError(_NON_FINITE)

    def _is_sound(self, y: Tensor) -> bool:
        """Whether the network did its part; interpolation always does, and values that leave their type are told by levels."""
        return self.model.linear or bool(torch.isfinite(y).all())

    def _moments(self, x: Tensor, bits: int) -> tuple[Tensor, Tensor | None]:
        single = self._single
        if single is None:
            return self.predict(x, bits=bits), None
        height, width = (enlarged(side, self.scale) for side in x.shape[-2:])
        mean, spread = (
            moment[..., :height, :width]
            for moment in ensemble_moments(
                lambda view: single.predict(view, bits=bits), padded(x, self.scale)
            )
        )
        return mean, spread

    def _back_projected(self, y: Tensor, x: Tensor, scaling: Levels, dtype: Any) -> Tensor:
        """``y`` corrected until it gives ``x`` when shrunk; what can be stored stays so."""
        value_range = self.model.spec.value_range
        # Floats have no unit: that of 16 bits from black to white, below which float32 has little to say, stands in.
        unit = scaling.unit(value_range, dtype) if dtype.kind in "iu" else np.zeros(1, np.float32)
        tolerance = backprojection.TOLERANCE * np.maximum(unit, value_range / 65535)
        bounds = scaling.bounds(value_range, dtype)
        limits = None if bounds is None else (_planes(bounds[0]), _planes(bounds[1]))
        return back_project(y, x, self.scale, _planes(tolerance), limits)

    @torch.inference_mode()
    def predict(self, x: Tensor, *, bits: int = 16) -> Tensor:
        """The raw float32 output ``(N, C, sH, sW)`` on the CPU for ``x`` ``(N, C, H, W)`` in the model's value range.

        Computed part by part, equal to the whole image at once. ``bits`` is the depth that the precision has to serve;
        the default computes in float32.

        The self-ensemble needs an image that its flips leave on its own output grid. At a scale p/q that is one whose
        sides are multiples of q: others grow to it by repeating their last row and column, and what these made is
        cut off again.

        Raises OutOfMemoryError when not even the smallest parts fit into memory.
        """
        parts = self._parts(x.shape[1], bits)
        if not self.ensemble:
            return parts.enlarge(x)
        height, width = x.shape[-2:]
        out = self_ensemble(parts.enlarge, padded(x, self.scale))
        return out[..., : enlarged(height, self.scale), : enlarged(width, self.scale)]

    def _parts(self, channels: int, bits: int) -> Parts:
        """How images of ``channels`` channels and ``bits`` bits go through the network."""
        dtype = pick_dtype(self.precision, self.device, bits)
        path = self._path(channels)
        return Parts(self.model, path, self.scale, self.device, dtype, self.tile, self.watch)

    def _calibrated(self, y: Tensor, x: Tensor, bits: int) -> Tensor:
        """``y``, in place, with the radiometry of ``x``: what is flat stays flat, and local means are kept."""
        if not self._calibrates:
            return y
        flat = self._flat(x.shape[1], pick_dtype(self.precision, self.device, bits))
        if flat is not None:
            flat.subtract(y, x)
        # Back-projection keeps more than the means.
        return y if self.consistency else keep_local_means(y, x, self.scale)

    def _flat(self, channels: int, dtype: torch.dtype) -> FlatField | None:
        """The flat field of the network for images of ``channels`` channels, measured once and kept."""
        if (channels, dtype) not in self._flats:
            flat = FlatField.measure(self.model, self.scale, channels, dtype)
            if flat is not None and self.ensemble:
                flat = flat.averaged()
            self._flats[channels, dtype] = flat
        return self._flats[channels, dtype]

    def _path(self, channels: int) -> nn.Module | None:
        """The path of the network for images of ``channels`` channels, folded once and kept."""
        if channels not in self._paths:
            path = self.model.path(self.scale, channels)
            self._paths[channels] = None if path is None else folded(path)
        return self._paths[channels]

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
            f"made for {wanted}; use one for {f'{count} or for 1' if count > 1 else '1'}, or one for any number, as aplus is"
        )

    def _check_size(self, pixels: Pixels, frames: int = 1) -> None:
        height, width, channels = pixels.shape[-3:]
        bits = 8 * pixels.itemsize
        check_output(Header("", width, height, channels, bits, slices=frames), self.scale)


def _planes(values: Pixels) -> Tensor:
    """One value, or one per channel, to be combined with ``(N, C, H, W)``."""
    return torch.from_numpy(np.asarray(values, np.float32).reshape(-1, 1, 1))
