"""Networks that see luma alone, as everything before 2016 did: the base class, and its colour arithmetic."""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor

from rayscale.errors import ConfigError
from rayscale.models.network import SuperResolver
from rayscale.models.spec import ModelSpec
from rayscale.resampling import upsample

# BT.601 as in MATLAB's rgb2ycbcr: Y of an image in [0, 1] lies in 16/255 .. 235/255.
_WEIGHTS = (65.481 / 255, 128.553 / 255, 24.966 / 255)
_OFFSET = 16 / 255
_GAIN = 255 / 219  # what a change of Y adds to each of R, G and B


class LumaResolver(SuperResolver):
    """A network of one channel that takes images of any number of them.

    Three channels are RGB: the network enlarges Y, chroma is bicubic, as the published evaluations do. Any other
    number is enlarged channel by channel. A subclass implements ``enlarge_luma`` and ``halo``.
    """

    any_channels = True

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__(spec)
        if spec.channels != 1:
            raise ConfigError(
                f"{spec.system} works on one channel (luma) and takes images of any number; leave channels at 1, "
                f"not {spec.channels}"
            )

    @abstractmethod
    def enlarge_luma(self, y: Tensor, scale: float) -> Tensor:
        """Enlarge ``(N, 1, H, W)`` in ``[0, value_range]``."""

    def enlarge(self, x: Tensor, scale: float) -> Tensor:
        if x.shape[1] != 3:
            planes = self.enlarge_luma(x.flatten(0, 1)[:, None], scale)
            return planes.reshape(*x.shape[:2], *planes.shape[2:])
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        y = self.training_view(wide)
        # With chroma kept, R, G and B all grow by the same multiple of what Y gains over bicubic.
        gain = self.enlarge_luma(y, scale) - upsample(y, scale)
        return upsample(wide, scale) + gain * _GAIN

    def training_view(self, x: Tensor) -> Tensor:
        """Y ``(N, 1, H, W)`` of RGB, any other number of channels as it is."""
        if x.shape[1] != 3:
            return x
        r, g, b = (weight * x[:, i : i + 1] for i, weight in enumerate(_WEIGHTS))
        return r + g + b + _OFFSET * self.spec.value_range
