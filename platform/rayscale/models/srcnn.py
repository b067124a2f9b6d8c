"""SRCNN (Dong et al. 2014/15, "Image Super-Resolution Using Deep Convolutional Networks")."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import nn

from rayscale.errors import ConfigError
from rayscale.models.luma import PreUpsampled, he_conv
from rayscale.models.path import Affine
from rayscale.models.spec import ModelSpec


class SRCNN(PreUpsampled):
    """Three convolutions on bicubic luma, 9-1-5 of 64 and 32 filters: trained for one scale.

    The paper trains on patches that shrink; here the size is kept by repeating the edge, as its authors did to
    evaluate whole images. It learns the image itself, not a residual. The paper's initial weights (deviation 0.001)
    pass almost no gradient, which took it 8e8 updates; here they are He's but for one filter of each layer, which
    passes the image on, and the last layer takes all else by 0.001: a fresh network is nearly bicubic.
    """

    middle: ClassVar[int] = 1

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__(spec)
        if spec.filters < 2:
            raise ConfigError(f"{spec.system} needs at least 2 filters, not {spec.filters}")
        wide, narrow = spec.filters, spec.filters // 2
        first = he_conv(1, wide, 9, "replicate")
        second = he_conv(wide, narrow, self.middle, "replicate")
        third = he_conv(narrow, 1, 5, "replicate")
        with torch.no_grad():
            nn.init.normal_(third.weight, std=0.001)
            for layer in (first, second, third):
                layer.weight[0] = 0
                centre = layer.kernel_size[0] // 2
                layer.weight[0, 0, centre, centre] = 1
        relu = nn.ReLU(inplace=True)
        self.layers = nn.Sequential(first, relu, second, relu, third)

    def refine(self) -> nn.Sequential:
        value_range = self.spec.value_range
        return nn.Sequential(Affine(1 / value_range), self.layers, Affine(value_range))


class SRCNN955(SRCNN):
    """The best of the journal version: a middle layer of 5x5."""

    middle = 5
