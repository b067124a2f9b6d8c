"""Small pictures of one shape through the network together: of these the cost of a call is the larger part."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from rayscale.errors import InputError, RayscaleError
from rayscale.imaging.levels import Levels
from rayscale.inference.upscaler import Upscaler
from rayscale.resampling import enlarged

if TYPE_CHECKING:
    from rayscale.imaging import Image


@torch.inference_mode()
def upscale_pack(upscaler: Upscaler, images: Sequence[Image]) -> list[Image]:
    """:meth:`Upscaler.upscale` of pictures of one shape and type, those of uint8 in one batch.

    Values are those of single calls up to the rounding of floating-point sums, which may come out otherwise in a batch.
    Raises InputError for pictures that differ, and for some with gaps, labels or levels of their own.
    """
    first, options = images[0], upscaler.options
    if any(
        (image.pixels.shape, image.pixels.dtype) != (first.pixels.shape, first.pixels.dtype)
        for image in images
    ):
        raise InputError("a batch needs pictures of one shape and pixel type")
    if first.pixels.dtype != np.uint8:
        return [upscaler.upscale(image) for image in images]  # whose levels are their own
    if first.pixels.ndim != 3 or any(
        image.levels or image.missing or image.labels for image in images
    ):
        raise InputError("a batch needs whole pictures without levels of their own and labels")
    if options.consistency or options.uncertainty or upscaler.repeats:
        return [upscaler.upscale(image) for image in images]  # which are about one image each
    upscaler.frames.check_size(first.pixels)
    predictor, levels = upscaler.predictor, Levels.of_type(first.pixels.dtype)
    value_range = predictor.model.spec.value_range
    pixels = np.stack([upscaler.filled(image) for image in images])
    height, width = (enlarged(side, upscaler.scale) for side in pixels.shape[1:3])
    out = np.empty((len(images), height, width, first.channels), pixels.dtype)
    for channels in predictor.groups(first.channels):
        planes = levels.to_network(pixels[..., channels], value_range).transpose(0, 3, 1, 2)
        try:
            y, _ = predictor.enlarge(torch.tensor(planes), levels.bits)
            sound = bool(torch.isfinite(y).all())
        except RayscaleError:
            sound = False
        if not sound:
            return [upscaler.upscale(image) for image in images]  # only some of them may fail
        values = y.permute(0, 2, 3, 1).numpy()
        out[..., channels] = levels.to_values(values, value_range, pixels.dtype)
    return [upscaler.with_pixels(image, each) for image, each in zip(images, out, strict=True)]
