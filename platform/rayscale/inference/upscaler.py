"""The one way to upscale an image: its levels, gaps, labels, transparency and metadata go with it.

Evaluation, batch and serving all go through :class:`Upscaler`. Between calls it keeps nothing of an image, so that
concurrent requests cannot mix.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from copy import copy
from dataclasses import dataclass, replace
from itertools import repeat
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from rayscale.imaging import check_side
from rayscale.imaging.levels import Levels
from rayscale.imaging.missing import MASK_REACH
from rayscale.inference import backprojection
from rayscale.inference.backprojection import Residual
from rayscale.inference.frames import Frame, FrameUpscaler, Mask, Pixels
from rayscale.inference.predictor import Predictor
from rayscale.models.spec import NEAREST
from rayscale.options import Options
from rayscale.resampling import enlarge, enlarged, nearest

if TYPE_CHECKING:
    from rayscale.imaging import Handling, Image
    from rayscale.models.network import SuperResolver

UNCERTAINTY = "standard deviation over the eight outputs of the self-ensemble, in stored units"
"""What the provenance of a file of uncertainty says of its values."""


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


class Upscaler:
    """Upscales images by one model with one set of options; arguments and errors as in :class:`Predictor`."""

    def __init__(
        self,
        model: SuperResolver,
        options: Options,
        *,
        device: str = "auto",
        calibrate: bool = True,
        watch: Callable[[], None] | None = None,
    ) -> None:
        self.options = options
        self.predictor = Predictor(model, options, device=device, calibrate=calibrate, watch=watch)
        self.frames = FrameUpscaler(self.predictor)
        self.scale = self.predictor.scale

    def with_options(self, options: Options) -> Upscaler:
        """The same for options that differ in how files are handled; the predictor is shared."""
        made = copy(self)
        made.options = options
        return made

    @property
    def repeats(self) -> bool:
        """Whether the model is nearest neighbour: stored values are repeated, and none goes through a network."""
        return bool(self.predictor.model.spec.system == NEAREST)

    @property
    def handling(self) -> Handling:
        """How files are read for this model: labels are nothing to refuse for one that repeats pixels."""
        return replace(self.options, labels="nearest") if self.repeats else self.options

    def describe(self) -> dict[str, object]:
        """What determines the output besides the source and the weights."""
        options = self.options
        facts: dict[str, object] = {
            "system": self.predictor.model.spec.system,
            "precision": options.precision,
            "ensemble": options.ensemble,
            **options.to_dict(),
            "scale": self.scale,
        }
        if options.consistency:
            facts["consistency"] = f"{backprojection.ITERATIONS} back-projections"
        return facts

    def upscale(self, image: Image) -> Image:
        """The image ``scale`` times as large, in the same container, type and channels.

        Alpha is interpolated (a mask is not a texture), and colours under an alpha of 0 stay there. Resolution (DPI)
        grows with the scale, so that the printed size stays, and so does the geometry of the container. Missing pixels
        are filled for the network and missing again in the output; the slices of a volume are enlarged one by one.
        """
        return self.run(image).image

    def run(self, image: Image, counted: Mask | None = None) -> Upscaled:
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
        if self.options.consistency or image.labels:
            image = image.without_loss()  # else residual and labels would be those of other pixels
        self.frames.check_size(image.pixels, image.frames)
        check_side(
            image.container, enlarged(image.width, self.scale), enlarged(image.height, self.scale)
        )
        if self.options.uncertainty and image.metadata is not None:
            image.metadata.of_deviations()
        frame = self._upscale_measured(image, counted)
        larger = self.with_pixels(image, frame.pixels)
        uncertainty = None
        if frame.deviations is not None:
            uncertainty = larger.of_deviations(frame.deviations)
        return Upscaled(larger, frame.residual, uncertainty)

    def upscale_pixels(self, pixels: Pixels, levels: Levels | None = None) -> Pixels:
        """:meth:`FrameUpscaler.upscale` without anything missing: the pixels alone."""
        return self.frames.upscale(pixels, levels).pixels

    @property
    def fill_reach(self) -> int:
        """Pixels to where a missing value is looked for: what is seen around a measured pixel lies nearer.

        That is a square of ``halo`` to each side; its corners are the farthest, sqrt(2) ``halo`` away.
        """
        return math.isqrt(2 * self.frames.halo**2) + 1

    def filled(self, image: Image) -> Pixels:
        """The pixels as the network shall see them, nothing missing; black where nothing was measured nearby."""
        unseen = image.unseen
        if unseen is None:
            return image.pixels
        blank = (0.0,) if image.levels is None else image.levels.black
        reach = self.fill_reach + (MASK_REACH if image.alpha is not None else 0)
        return unseen.filled(image.pixels, reach, blank)

    def with_pixels(self, image: Image, pixels: Pixels) -> Image:
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

    def _upscale_measured(self, image: Image, counted: Mask | None) -> Frame:
        """Values of the enlarged image: the network where something was measured, the source elsewhere."""
        if image.labels:
            return self._beside_labels(image, counted)
        source, missing, unseen = image.pixels, image.missing, image.unseen
        if unseen is not None and unseen.everything:
            return self.repeated(source)
        filled, valid = self.filled(image), counted
        if unseen is not None:
            valid = unseen.valid if counted is None else unseen.valid & counted
        if source.ndim == 3:
            frame = self.frames.upscale(filled, image.levels, valid, missing)
        else:
            masks: Any = repeat(None)
            if valid is not None:
                masks = np.broadcast_to(valid, (*source.shape[:-1], valid.shape[-1]))
            frame = Frame.stack(
                [
                    self.frames.upscale(each, image.levels, mask, missing)
                    for each, mask in zip(filled, masks, strict=False)
                ]
            )
        if missing is None:
            return frame
        pixels = missing.restored(frame.pixels, source, self.scale, image.levels)
        return replace(frame, pixels=pixels)

    def _beside_labels(self, image: Image, counted: Mask | None) -> Frame:
        """The same for an image of which some channels are labels: those are repeated, and no part of any measure."""
        frame, measured = self.repeated(image.pixels), list(image.measured)
        if not measured:
            return frame
        if counted is not None and counted.shape[-1] > 1:
            counted = counted[..., measured]
        values = self._upscale_measured(image.of_channels(measured), counted)
        frame.pixels[..., measured] = values.pixels
        if frame.deviations is not None:
            frame.deviations[..., measured] = values.deviations
        return replace(frame, residual=values.residual)

    def repeated(self, source: Pixels) -> Frame:
        """Stored values, repeated; they differ from nothing, and no network doubts them."""
        pixels: NDArray[Any] = nearest(source, self.scale, (source.ndim - 3, source.ndim - 2))
        deviations = np.zeros(pixels.shape, np.float32) if self.options.uncertainty else None
        return Frame(pixels, Residual() if self.options.consistency else None, deviations)
