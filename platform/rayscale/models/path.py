"""The stages of a path: what a network does to an image, one thing after the other.

A path is the one description of a network from which three things are read: its run is the enlargement, its
:func:`reach` is the halo of a tile, and ``rayscale.inference.strips`` runs it with a few rows of the image at a time.
Besides the stages here it is made of PyTorch's convolutions, activations, normalisations and pixel shuffles.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from fractions import Fraction

import torch
from torch import Tensor, nn

from rayscale.resampling import exact_scale, upsample

CUBIC_REACH = 2
"""How far bicubic interpolation sees, in pixels of its input."""


class Pointwise(nn.Module):
    """Base of the stages that compute each pixel from itself alone."""


class Affine(Pointwise):
    """``gain * x + offset``, in float32 at least."""

    def __init__(self, gain: float, offset: float = 0.0) -> None:
        super().__init__()
        self.gain, self.offset = gain, offset

    def forward(self, x: Tensor) -> Tensor:
        return widen(x) * self.gain + self.offset


class Planes(Pointwise):
    """``(N, C, H, W)`` seen as images of ``channels`` channels: bands go alone through a network of one."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels

    def forward(self, x: Tensor) -> Tensor:
        return x.reshape(-1, self.channels, *x.shape[2:])


class Interpolate(nn.Module):
    """Bicubic enlargement, in float32 at least."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        return upsample(widen(x), self.scale)


class Skip(nn.Module):
    """``x + alpha * body(x)``; ``body`` keeps the size of the image. A subclass may join the two in another way."""

    def __init__(self, body: nn.Module, alpha: float = 1.0) -> None:
        super().__init__()
        self.body = body
        self.alpha = alpha

    def forward(self, x: Tensor) -> Tensor:
        return self.join(x, self.body(x))

    def join(self, x: Tensor, y: Tensor, out: Tensor | None = None) -> Tensor:
        """The output for an input ``x`` of which ``body`` made ``y``, pixel by pixel; ``out`` takes it, and may be ``y``."""
        return torch.add(x, y, alpha=self.alpha, out=out)


def widen(x: Tensor) -> Tensor:
    """``x`` in float32 at least."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def reach(path: Iterable[nn.Module]) -> int:
    """Halo in LR pixels of stages run one after the other, from the input to the output.

    Each convolution reaches half its kernel, on a grid that every pixel shuffle and interpolation made finer. Skips
    reach less than their bodies, so they do not count.
    """
    total, grid = Fraction(0), Fraction(1)
    for part in path:
        for stage in part.modules():
            if isinstance(stage, nn.Conv2d):
                total += int(stage.kernel_size[0]) // 2 / grid
            elif isinstance(stage, nn.PixelShuffle):
                grid *= stage.upscale_factor
            elif isinstance(stage, Interpolate):
                total += CUBIC_REACH / grid
                grid *= exact_scale(stage.scale)
    return math.ceil(total)
