"""Networks that see luma alone, as everything before 2016 did: the base class, and its colour arithmetic."""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import Literal

import torch
from torch import Tensor, nn

from rayscale.errors import ConfigError
from rayscale.models.network import SuperResolver, reach
from rayscale.models.spec import ModelSpec
from rayscale.resampling import exact_scale, upsample

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


class PreUpsampled(LumaResolver):
    """Bicubic first, then layers that work at the target size: any scale in (1, 4].

    The scales of the specification are those the weights were trained for; at others they do what they can. A
    subclass sets ``layers`` and implements ``refine``.
    """

    scale_range = (1.0, 4.0)
    layers: nn.Sequential

    @abstractmethod
    def refine(self, y: Tensor) -> Tensor:
        """Luma ``(N, 1, H, W)`` from its bicubic enlargement of the same size, in ``[0, value_range]``."""

    def enlarge_luma(self, y: Tensor, scale: float) -> Tensor:
        wide = y.to(torch.promote_types(y.dtype, torch.float32))
        return self.refine(upsample(wide, scale))

    def halo(self, scale: float) -> int:
        exact = exact_scale(self.resolve_scale(scale))
        return math.ceil(reach([self.layers]) / exact) + 2  # bicubic reaches 2 LR pixels


def he_conv(
    inputs: int,
    outputs: int,
    kernel: int,
    padding_mode: Literal["zeros", "replicate"] = "zeros",
) -> nn.Conv2d:
    """A convolution that keeps the size of the image, with the initial weights of He et al. 2015 and no bias yet."""
    layer = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, padding_mode=padding_mode)
    nn.init.kaiming_normal_(layer.weight)
    assert layer.bias is not None
    nn.init.zeros_(layer.bias)
    return layer
