"""VDSR (Kim et al. 2016, "Accurate Image Super-Resolution Using Very Deep Convolutional Networks")."""

from __future__ import annotations

from itertools import chain, pairwise

import torch
from torch import nn

from rayscale.errors import ConfigError
from rayscale.models.luma import PreUpsampled, he_conv
from rayscale.models.path import Affine, Skip
from rayscale.models.spec import ModelSpec


class VDSR(PreUpsampled):
    """Twenty 3x3 convolutions (``blocks``) of 64 filters that learn what bicubic luma lacks.

    One network for all scales: they are mixed in training. Initialised after He et al. 2015, the last layer at a
    fiftieth of that: detail is some hundredths of white, and a network that starts with errors of white
    unlearns its first layers before it learns (docs/lab.md).
    """

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__(spec)
        if spec.blocks < 2 or spec.filters < 1:
            raise ConfigError(
                f"{spec.system} needs at least 2 layers (blocks) and 1 filter, not {spec.blocks} and "
                f"{spec.filters}"
            )
        widths = [1, *[spec.filters] * (spec.blocks - 1), 1]
        layers = [he_conv(inputs, outputs, 3) for inputs, outputs in pairwise(widths)]
        with torch.no_grad():
            layers[-1].weight.mul_(0.02)
        activated = chain.from_iterable((layer, nn.ReLU(inplace=True)) for layer in layers)
        self.layers = nn.Sequential(*list(activated)[:-1])

    def refine(self) -> Skip:
        value_range = self.spec.value_range
        return Skip(nn.Sequential(Affine(1 / value_range), self.layers), value_range)
