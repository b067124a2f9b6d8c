"""Networks that see luma alone, as everything before 2016 did: the base class, and its colour arithmetic."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Literal

from torch import Tensor, nn

from rayscale.errors import ConfigError
from rayscale.models.network import SuperResolver
from rayscale.models.path import Interpolate, Planes, Pointwise, Skip
from rayscale.models.spec import ModelSpec

# BT.601 as in MATLAB's rgb2ycbcr: Y of an image in [0, 1] lies in 16/255 .. 235/255.
_WEIGHTS = (65.481 / 255, 128.553 / 255, 24.966 / 255)
_OFFSET = 16 / 255
LUMA_GAIN = 255 / 219
"""What a change of Y adds to each of R, G and B when chroma is kept."""


class LumaResolver(SuperResolver):
    """A network of one channel that takes images of any number of them.

    Three channels are RGB: the network enlarges Y, chroma is bicubic, as the published evaluations do. Any other
    number is enlarged channel by channel.
    """

    any_channels = True

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__(spec)
        if spec.channels != 1:
            raise ConfigError(
                f"{spec.system} works on one channel (luma) and takes images of any number; leave channels at 1, "
                f"not {spec.channels}"
            )

    def training_view(self, x: Tensor) -> Tensor:
        """Y ``(N, 1, H, W)`` of RGB, any other number of channels as it is."""
        return x if x.shape[1] != 3 else luma(x, self.spec.value_range)


class PreUpsampled(LumaResolver, ABC):
    """Bicubic first, then layers that work at the target size: any scale in (1, 4].

    The scales of the specification are those the weights were trained for; at others they do what they can. A
    subclass sets ``layers`` and implements ``refine``.
    """

    scale_range = (1.0, 4.0)
    layers: nn.Sequential

    @abstractmethod
    def refine(self) -> nn.Module:
        """The stages from the bicubic enlargement of luma ``(N, 1, H, W)`` to what it should be, in ``[0, value_range]``."""

    def path(self, scale: float, channels: int) -> nn.Sequential:
        return self.around(self.refine(), scale, channels)

    def core(self, scale: float) -> nn.Module:
        """What follows bicubic, on luma at the target size."""
        return self.refine()

    def around(self, core: nn.Module, scale: float, channels: int) -> nn.Sequential:
        if channels == 3:
            return nn.Sequential(Interpolate(scale), RefineLuma(core, self.spec.value_range))
        return nn.Sequential(Planes(1), Interpolate(scale), core, Planes(channels))


class Luma(Pointwise):
    """Y ``(N, 1, H, W)`` of RGB."""

    def __init__(self, value_range: float) -> None:
        super().__init__()
        self.value_range = value_range

    def forward(self, x: Tensor) -> Tensor:
        return luma(x, self.value_range)


class RefineLuma(Skip):
    """RGB whose Y is replaced by what ``refine`` makes of it, chroma kept."""

    def __init__(self, refine: nn.Module, value_range: float) -> None:
        super().__init__(nn.Sequential(Luma(value_range), refine), LUMA_GAIN)
        self.value_range = value_range

    def join(self, x: Tensor, y: Tensor, out: Tensor | None = None) -> Tensor:
        return super().join(x, y - luma(x, self.value_range), out)


def luma(x: Tensor, value_range: float) -> Tensor:
    """Y ``(N, 1, H, W)`` of RGB ``(N, 3, H, W)`` in ``[0, value_range]``, as MATLAB's rgb2ycbcr computes it."""
    r, g, b = (weight * x[:, i : i + 1] for i, weight in enumerate(_WEIGHTS))
    return r + g + b + _OFFSET * value_range


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
