"""Convolutions with nothing but pixel shuffles between them, computed as one.

The upsamplers of EDSR and MDSR have no activation: convolution, shuffle and convolution together are linear, the same map as
one 5x5 convolution at the size of the source and one shuffle. That needs less work, at x4 a third less for the whole
of EDSR-baseline. Only at the border it is another map, as each convolution there sees zeros in place of what the one before
would have made: those pixels are computed by the layers themselves. (Folding linear layers for inference: Bhardwaj et al.
2022, "Collapsible Linear Blocks for Super-Efficient Super Resolution".)
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from copy import deepcopy
from itertools import groupby

import torch
from torch import Tensor, nn
from torch.nn import functional

from rayscale.models.path import reach


def fold(path: nn.Sequential) -> nn.Sequential:
    """The stages of ``path``, the linear ones folded where that needs less work; for inference, with weights as they are now."""
    stages: list[nn.Module] = []
    for linear, group in groupby(_flat(path), key=_is_linear):
        run = list(group)
        stages += [Folded(run)] if linear and _pays(run) else run
    return nn.Sequential(*stages)


class Folded(nn.Module):
    """Linear layers as one convolution and one pixel shuffle.

    Args:
        layers: convolutions that keep the size, with zero padding, and pixel shuffles; the first is a convolution.

    Attributes:
        weight: ``(r^2 C_out, C_in, 2 reach + 1, 2 reach + 1)`` of the convolution, ``r`` the enlargement.
        bias: ``(r^2 C_out,)``.
        reach: pixels of the input that an output pixel depends on, to each side.
        margin: pixels of the input at each border whose outputs the layers themselves compute.
    """

    weight: Tensor
    bias: Tensor

    def __init__(self, layers: Sequence[nn.Module]) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)
        self.reach, self.margin = reach(layers), reach(layers[1:])
        self.shuffle = nn.PixelShuffle(
            math.prod(
                layer.upscale_factor for layer in layers if isinstance(layer, nn.PixelShuffle)
            )
        )
        weight, bias = self._fold()
        like = self.layers[0].weight
        assert isinstance(like, Tensor)
        self.register_buffer("weight", weight.to(like), persistent=False)
        self.register_buffer("bias", bias.to(like), persistent=False)

    @torch.no_grad()
    def _fold(self) -> tuple[Tensor, Tensor]:
        """Weight and bias in float64, read off what the layers make of nothing and of single pixels."""
        first, *rest = deepcopy(self.layers).cpu().double()
        assert isinstance(first, nn.Conv2d)
        inputs, centre, shrink = first.in_channels, self.reach, self.shuffle.upscale_factor
        with torch.autocast("cpu", enabled=False):
            nothing = torch.zeros(1, inputs, *[2 * self.reach + 1] * 2, dtype=torch.float64)
            made = nn.Sequential(first, *rest)(nothing)
            bias = functional.pixel_unshuffle(made, shrink)[0, :, centre, centre]
            for layer in rest:
                if isinstance(layer, nn.Conv2d):
                    layer.bias = None
            # What the first layer makes of one pixel of each channel is its kernel, turned around.
            beside = self.reach - first.kernel_size[0] // 2
            pixels = functional.pad(first.weight.transpose(0, 1).flip(2, 3), [beside] * 4)
            made = nn.Sequential(*rest)(pixels)
            weight = functional.pixel_unshuffle(made, shrink).transpose(0, 1).flip(2, 3)
        return weight, bias

    def forward(self, x: Tensor) -> Tensor:
        """``(N, C_in, H, W)`` to ``(N, C_out, rH, rW)``, as the layers would."""
        return self.rows(x, 0, x.shape[2], top=True, bottom=True)

    def rows(self, x: Tensor, start: int, stop: int, *, top: bool, bottom: bool) -> Tensor:
        """The output of the rows from ``start`` up to ``stop`` of a window ``x`` as wide as the image.

        ``top`` and ``bottom`` say whether the window begins and ends with the image; where it does not, it needs ``reach``
        more rows than are asked for. ``x`` is of the type that the convolution computes in.
        """
        height, r, margin, seen = x.shape[2], self.shuffle.upscale_factor, self.margin, self.reach
        above, below = max(seen - start, 0), max(stop + seen - height, 0)
        window = x[:, :, max(start - seen, 0) : stop + seen]
        if above or below:
            window = functional.pad(window, (0, 0, above, below))
        weight, bias = self.weight.to(x.dtype), self.bias.to(x.dtype)
        y: Tensor = self.shuffle(functional.conv2d(window, weight, bias, padding=(0, seen)))
        if not margin:
            return y
        border, rows = r * margin, slice(r * start, r * stop)
        y[..., :border] = self.layers(x[..., : margin + seen])[:, :, rows, :border]
        y[..., -border:] = self.layers(x[..., -margin - seen :])[:, :, rows, -border:]
        if top and start < margin:
            made = self.layers(x[:, :, : margin + seen])[:, :, r * start : r * min(margin, stop)]
            y[:, :, : made.shape[2]] = made
        if bottom:
            low = max(start, height - margin)
            first = max(low - seen, 0)
            made = self.layers(x[:, :, first:])[:, :, r * (low - first) : r * (stop - first)]
            y[:, :, r * (low - start) :] = made
        return y


def _flat(path: nn.Module) -> Iterator[nn.Module]:
    if isinstance(path, nn.Sequential):
        for stage in path:
            yield from _flat(stage)
    else:
        yield path


def keeps_size(layer: nn.Conv2d) -> bool:
    """Whether the output has the size of the input, each pixel at its place."""
    plain = layer.stride == layer.dilation == (1, 1) and layer.groups == 1
    same = tuple(side // 2 for side in layer.kernel_size)
    return plain and layer.padding == same and all(side % 2 for side in layer.kernel_size)


def _is_linear(stage: nn.Module) -> bool:
    if isinstance(stage, nn.Conv2d):
        square = stage.kernel_size[0] == stage.kernel_size[1]
        return keeps_size(stage) and square and stage.padding_mode == "zeros"
    return isinstance(stage, nn.PixelShuffle)


def _pays(layers: Sequence[nn.Module]) -> bool:
    """Whether the folded layers need fewer multiplications than they do one by one."""
    apart, outputs, area = 0, 0, 1
    for layer in layers:
        if isinstance(layer, nn.Conv2d):
            apart += area * layer.weight.numel()
            outputs = area * layer.out_channels
        elif isinstance(layer, nn.PixelShuffle):
            area *= layer.upscale_factor**2
    first = layers[0]
    if not isinstance(first, nn.Conv2d):
        return False
    return (2 * reach(layers) + 1) ** 2 * first.in_channels * outputs < apart
